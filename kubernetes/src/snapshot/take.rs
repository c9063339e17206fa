//! Taking a snapshot of a claim, waiting until it can be restored from, and letting older ones go.
//!
//! # What waiting goes by
//! The object is watched. What goes wrong is told in its status and is tried again by the sidecars for ever, so an error is
//! not the end by itself: one that passes by itself is waited out, one that a person has to put right ends the wait at once,
//! and one of which neither is known ends it when it has stood for [`STANDING`].

use std::{num::NonZeroUsize, pin::pin, time::Duration};

use futures::StreamExt as _;
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Preconditions},
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::time::{Instant, sleep_until};
use varve_csi::{identity::DRIVER, status::chain};

use super::{MANAGED_BY, MANAGER};
use crate::{
    cluster::{Cluster, Error, create, list, read},
    object::{SnapshotSource, SnapshotSpec, VolumeSnapshot, VolumeSnapshotClass},
};

/// The label that says to which series a snapshot belongs. One without it is never let go here.
const SERIES: &str = "varve.io/series";

/// How long an error must stand, unchanged, before it is held to be one that does not pass.
const STANDING: Duration = Duration::from_secs(20);

/// Most snapshots that are named for the same second.
const SAME_SECOND: usize = 10;

/// Longest name of an object (RFC 1123, subdomain).
pub(super) const LONGEST_NAME: usize = 253;

/// A snapshot that is to be taken.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Namespace of the claim.
    pub namespace: &'a str,
    /// The claim.
    pub claim: &'a str,
    /// Its name; one that says the claim and the time where none is given.
    pub name: Option<&'a str>,
    /// Its class.
    pub class: &'a str,
    /// The series that it belongs to, of which older ones may be let go later.
    pub series: Option<&'a str>,
    /// The present moment.
    pub now: Timestamp,
}

/// What an error says of the time to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// It goes away by itself.
    Passing,
    /// A person has to put something right.
    Lasting,
    /// Nobody knows.
    Unclear,
}

impl Outlook {
    /// Judges by the gRPC code that the sidecars quote from the driver, and by what the API server says of writers that were
    /// faster.
    fn of(message: &str) -> Self {
        if message.contains("the object has been modified") {
            return Self::Passing;
        }
        let code = message.split_once("code = ").map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default());
        match code {
            Some("Aborted" | "Canceled" | "DeadlineExceeded" | "ResourceExhausted" | "Unavailable") => Self::Passing,
            Some(
                "AlreadyExists" | "DataLoss" | "FailedPrecondition" | "InvalidArgument" | "NotFound" | "OutOfRange"
                | "PermissionDenied" | "Unauthenticated" | "Unimplemented",
            ) => Self::Lasting,
            _ => Self::Unclear,
        }
    }
}

/// Names a snapshot for its claim and its second; the `attempt`th that was named for it.
fn name(claim: &str, now: Timestamp, attempt: usize) -> String {
    let mut suffix = now.to_zoned(TimeZone::UTC).strftime("-%Y%m%d-%H%M%S").to_string();
    if attempt > 0 {
        suffix.push_str(&format!("-{}", attempt + 1));
    }
    let claim = &claim[..claim.len().min(LONGEST_NAME - suffix.len())];
    format!("{}{suffix}", claim.trim_end_matches(['-', '.']))
}

/// One of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    uid: Option<String>,
    asked_at: Option<Timestamp>,
    ready: bool,
}

/// Chooses those of a series that may go: what is older than the `keep` newest ready ones. Where `newest`, the one that was
/// just taken, is not ready, or there are not so many, none may.
fn superseded(mut series: Vec<Member>, newest: &str, keep: NonZeroUsize) -> Vec<Member> {
    if !series.iter().any(|member| member.name == newest && member.ready) {
        return Vec::new();
    }
    series.sort_by(|one, other| {
        let key = |member: &Member| (member.name == newest, member.asked_at, member.name.clone());
        key(other).cmp(&key(one))
    });
    let last_kept = series.iter().enumerate().filter(|(_, member)| member.ready).nth(keep.get() - 1);
    let Some((last_kept, _)) = last_kept else { return Vec::new() };
    series.split_off(last_kept + 1)
}

impl Cluster {
    /// Asks for a snapshot, and returns it as it was made.
    ///
    /// # Errors
    /// [`Error::Unusable`] where the name is taken, [`Error::Unfit`] where there is no such claim or class, and the API
    /// server's.
    pub async fn take(&self, order: &Order<'_>) -> Result<VolumeSnapshot, Error> {
        self.check_claim(order).await?;
        self.check_class(order.class).await?;
        let spec = SnapshotSpec {
            source: SnapshotSource { persistent_volume_claim_name: Some(order.claim.to_owned()), ..Default::default() },
            volume_snapshot_class_name: Some(order.class.to_owned()),
        };
        let names: Vec<String> = match order.name {
            Some(name) => vec![name.to_owned()],
            None => (0..SAME_SECOND).map(|attempt| name(order.claim, order.now, attempt)).collect(),
        };
        for name in &names {
            let mut snapshot = VolumeSnapshot::new(order.namespace, name, spec.clone());
            snapshot.labels_mut().insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
            if let Some(series) = order.series {
                snapshot.labels_mut().insert(SERIES.to_owned(), series.to_owned());
            }
            if let Some(made) = create(&self.within(order.namespace), &snapshot).await? {
                return Ok(made);
            }
        }
        Err(Error::Unusable(format!(
            "VolumeSnapshot {:?} is in namespace {:?} already: expected another --name",
            names[0], order.namespace
        )))
    }

    /// A snapshot is of a claim that has a volume.
    async fn check_claim(&self, order: &Order<'_>) -> Result<(), Error> {
        let found = read(&self.within::<PersistentVolumeClaim>(order.namespace), order.claim).await?;
        let claim = found.ok_or_else(|| {
            let (claim, namespace) = (order.claim, order.namespace);
            Error::Unfit(format!(
                "no claim {claim:?} in namespace {namespace:?}: `kubectl get pvc` names those that are there"
            ))
        })?;
        match claim.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Bound") => Ok(()),
            phase => Err(Error::Unfit(format!(
                "claim {:?} is {}: there is nothing to take a snapshot of until it is Bound, which it may be with its first pod",
                order.claim,
                phase.unwrap_or("new")
            ))),
        }
    }

    /// Looks for a class, where classes may be read.
    async fn check_class(&self, class: &str) -> Result<(), Error> {
        let classes = self.all::<VolumeSnapshotClass>();
        match read(&classes, class).await {
            Ok(Some(found)) if found.driver == DRIVER => Ok(()),
            Ok(Some(found)) => Err(Error::Unfit(format!(
                "VolumeSnapshotClass {class:?} is of driver {}, not of {DRIVER}",
                found.driver
            ))),
            Ok(None) => {
                let known = list(&classes, &ListParams::default()).await.unwrap_or_default();
                let ours = known.iter().filter(|class| class.driver == DRIVER).map(|class| class.name_any());
                let ours = ours.collect::<Vec<_>>().join(", ");
                Err(Error::Unfit(format!("no VolumeSnapshotClass {class:?}: of {DRIVER} there are: {ours}")))
            }
            // Then the snapshot itself says so.
            Err(error) if error.is_forbidden() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until claims can be made from a snapshot. What goes wrong meanwhile and may pass is told to `news`.
    ///
    /// # Errors
    /// [`Error::Unfit`] with the reason where it does not become ready in time, or never will; the API server's refusals.
    pub async fn wait_until_ready(
        &self,
        namespace: &str,
        name: &str,
        patience: Duration,
        mut news: impl FnMut(&str),
    ) -> Result<VolumeSnapshot, Error> {
        let deadline = Instant::now() + patience;
        let watched = watcher::watch_object(self.within::<VolumeSnapshot>(namespace), name).default_backoff();
        let mut watched = pin!(watched);
        let mut last = None;
        let mut standing: Option<(String, Instant)> = None;
        loop {
            let ends = standing.as_ref().map_or(deadline, |(_, ends)| (*ends).min(deadline));
            let seen = tokio::select! {
                seen = watched.next() => seen,
                () = sleep_until(ends) => {
                    let why = match (last, standing) {
                        (Some(error), Some((_, ends))) if ends <= deadline => error,
                        (Some(error), _) => format!("it is not ready after {patience:?}: {error}"),
                        (None, _) => format!("it is not ready after {patience:?}"),
                    };
                    return Err(self.unready(namespace, name, &why).await);
                }
            };
            match seen {
                Some(Ok(Some(snapshot))) if snapshot.is_ready() => return Ok(snapshot),
                Some(Ok(Some(snapshot))) if snapshot.metadata.deletion_timestamp.is_some() => {
                    return Err(Error::Unfit(format!("VolumeSnapshot {name:?} is being deleted")));
                }
                Some(Ok(Some(snapshot))) => {
                    let error = snapshot.error();
                    match error.map(Outlook::of) {
                        Some(Outlook::Lasting) => {
                            return Err(self.unready(namespace, name, error.unwrap_or_default()).await);
                        }
                        Some(Outlook::Unclear) if standing.as_ref().map(|(known, _)| known.as_str()) == error => {}
                        Some(Outlook::Unclear) => {
                            standing = error.map(|why| (why.to_owned(), Instant::now() + STANDING));
                        }
                        Some(Outlook::Passing) | None => standing = None,
                    }
                    if let Some(error) = error {
                        news(error);
                    }
                    last = error.map(str::to_owned);
                }
                Some(Ok(None)) => return Err(Error::Unfit(format!("VolumeSnapshot {name:?} is gone"))),
                Some(Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)))
                    if Error::refused("", &error).is_forbidden() =>
                {
                    return Err(Error::refused("watching VolumeSnapshots", &error));
                }
                Some(Err(error)) => news(&chain(&error)),
                None => return Err(Error::Unfit(format!("VolumeSnapshot {name:?} cannot be watched any more"))),
            }
        }
    }

    /// Says why a snapshot is not ready, and what else is told of it.
    async fn unready(&self, namespace: &str, name: &str, why: &str) -> Error {
        let events = self.events(namespace, "VolumeSnapshot", name).await.unwrap_or_default();
        let mut text = format!("VolumeSnapshot {name:?} in namespace {namespace:?} does not become ready: {why}");
        for event in events.iter().rev().take(3).filter(|event| !why.contains(event.as_str())) {
            text.push_str("; ");
            text.push_str(event);
        }
        text.push_str("; it stays and is tried again until it is deleted");
        Error::Unfit(text)
    }

    /// Lets those of a series go that are older than its `keep` newest ready ones, and returns their names; none where
    /// `newest` is not ready.
    ///
    /// # Errors
    /// The API server's.
    pub async fn prune(&self, order: &Order<'_>, newest: &str, keep: NonZeroUsize) -> Result<Vec<String>, Error> {
        let Some(series) = order.series else { return Ok(Vec::new()) };
        let api = self.within::<VolumeSnapshot>(order.namespace);
        let labels = format!("{MANAGED_BY}={MANAGER},{SERIES}={series}");
        let found = list(&api, &ListParams::default().labels(&labels)).await?;
        let members = found
            .iter()
            .filter(|snapshot| snapshot.claim() == Some(order.claim) && snapshot.metadata.deletion_timestamp.is_none());
        let members = members.map(|snapshot| Member {
            name: snapshot.name_any(),
            uid: snapshot.uid(),
            asked_at: snapshot.metadata.creation_timestamp.as_ref().map(|time| time.0),
            ready: snapshot.is_ready(),
        });
        let mut gone = Vec::new();
        for member in superseded(members.collect(), newest, keep) {
            // Another one of the same name is not meant.
            let same = Preconditions { uid: member.uid, resource_version: None };
            match api.delete(&member.name, &DeleteParams::default().preconditions(same)).await {
                Ok(_) => gone.push(member.name),
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => {
                    return Err(Error::refused(format!("deleting VolumeSnapshot {:?}", member.name), &error));
                }
            }
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests;
