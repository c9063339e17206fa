//! Objects for snapshots that a repository has and a cluster does not know: another cluster's, or this one's after its objects
//! were lost.
//!
//! # Names
//! A snapshot gets back the name and the namespace that it had as an object, where its record says so; else it is named for
//! its claim, else for its volume, and for the second of its cut. Of several that had one name the newest gets it, and the
//! others get it with the beginning of their id. So names follow from the repository alone, and who imports twice
//! changes nothing.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};
use kube::{ResourceExt as _, api::ListParams};
use serde::Serialize;
use varve_csi::identity::DRIVER;

use super::{
    DURABILITY, MANAGED_BY, MANAGER,
    pair::{content_name, snapshot_of},
    take::LONGEST_NAME,
};
use crate::{
    cluster::{Cluster, Error, list},
    object::{VolumeSnapshot, VolumeSnapshotContent},
};

/// The name of an object, and its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Named {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A snapshot, as a repository has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The driver's id of it.
    pub handle: String,
    /// The instant that it shows.
    pub taken_at: Timestamp,
    /// Whether it is of a raw device.
    pub block: bool,
    /// What it was as an object, where that was told.
    pub snapshot: Option<Named>,
    /// The claim that it is of, where that was told.
    pub claim: Option<Named>,
    /// The name of its volume.
    pub volume: String,
}

/// The two objects of one snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// What the driver has.
    pub content: VolumeSnapshotContent,
    /// What claims are made from.
    pub snapshot: VolumeSnapshot,
}

/// Objects for snapshots, and those for which there can be none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By namespace and name.
    pub imports: Vec<Import>,
    /// Snapshots that do not say which namespace is theirs, by the driver's ids.
    pub homeless: Vec<String>,
}

/// What came of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The driver's id of it.
    pub handle: String,
    /// What was done.
    pub done: Done,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was done for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// Its objects were made.
    Made,
    /// The cluster knows it already.
    Known,
    /// Its objects could not be made.
    Failed,
}

/// Plans the objects of recorded snapshots: in the namespaces that they tell of, or all in the one given.
#[must_use]
pub fn plan(recorded: &[Recorded], namespace: Option<&str>) -> Plan {
    let mut plan = Plan::default();
    let mut named: BTreeMap<Named, Vec<&Recorded>> = BTreeMap::new();
    for snapshot in recorded {
        let told = snapshot.snapshot.as_ref().or(snapshot.claim.as_ref()).map(|told| told.namespace.as_str());
        match namespace.or(told) {
            Some(namespace) => {
                let named_so = Named { namespace: namespace.to_owned(), name: name(snapshot) };
                named.entry(named_so).or_default().push(snapshot);
            }
            None => plan.homeless.push(snapshot.handle.clone()),
        }
    }
    for (Named { namespace, name }, mut snapshots) in named {
        snapshots.sort_by(|one, other| (other.taken_at, &other.handle).cmp(&(one.taken_at, &one.handle)));
        for (position, snapshot) in snapshots.into_iter().enumerate() {
            let name = if position == 0 { name.clone() } else { distinguished(&name, &snapshot.handle) };
            plan.imports.push(import(snapshot, &namespace, &name));
        }
    }
    plan.homeless.sort();
    plan
}

/// The name that a snapshot had, or would have had.
fn name(snapshot: &Recorded) -> String {
    if let Some(Named { name, .. }) = &snapshot.snapshot {
        return name.clone();
    }
    let of = snapshot.claim.as_ref().map_or(snapshot.volume.as_str(), |claim| claim.name.as_str());
    let time = snapshot.taken_at.to_zoned(TimeZone::UTC).strftime("-%Y%m%d-%H%M%S").to_string();
    let mut name: String = of.to_ascii_lowercase();
    // The name of a volume that Kubernetes did not make may have anything in it.
    name = name.replace(|character: char| !matches!(character, 'a'..='z' | '0'..='9' | '-' | '.'), "-");
    name.truncate(LONGEST_NAME - time.len());
    let name = name.trim_matches(['-', '.']);
    format!("{}{time}", if name.is_empty() { "volume" } else { name })
}

/// Tells a name apart from the same one of another snapshot.
fn distinguished(name: &str, handle: &str) -> String {
    let digits = handle.trim_start_matches("snap-");
    let suffix = format!("-{}", &digits[..digits.len().min(8)]);
    format!("{}{suffix}", name[..name.len().min(LONGEST_NAME - suffix.len())].trim_end_matches(['-', '.']))
}

fn import(recorded: &Recorded, namespace: &str, name: &str) -> Import {
    let mode = if recorded.block { "Block" } else { "Filesystem" };
    let (handle, content) = (&recorded.handle, content_name(&recorded.handle, namespace));
    let mut content = VolumeSnapshotContent::of_handle(&content, handle, Some(mode), namespace, name);
    content.labels_mut().insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    content.labels_mut().insert(DURABILITY.to_owned(), "bucket".to_owned());
    let snapshot = snapshot_of(&content);
    Import { content, snapshot }
}

impl Cluster {
    /// Makes the objects of a plan that the cluster has not. One that fails does not keep the others from being made.
    ///
    /// # Errors
    /// The API server's, where it does not show what there is.
    pub async fn import(&self, imports: &[Import]) -> Result<Vec<Outcome>, Error> {
        let contents = list(&self.all::<VolumeSnapshotContent>(), &ListParams::default()).await?;
        let snapshots = list(&self.all::<VolumeSnapshot>(), &ListParams::default()).await?;
        // The content of each, by its name.
        let there: BTreeMap<Named, String> = snapshots
            .iter()
            .filter_map(|snapshot| {
                let bound =
                    snapshot.status.as_ref().and_then(|status| status.bound_volume_snapshot_content_name.clone());
                let content = bound.or_else(|| snapshot.spec.source.volume_snapshot_content_name.clone())?;
                Some((
                    Named { namespace: snapshot.namespace().unwrap_or_default(), name: snapshot.name_any() },
                    content,
                ))
            })
            .collect();
        let mut outcomes = Vec::new();
        for Import { content, .. } in imports {
            let handle = content.handle().unwrap_or_default();
            let Named { namespace, name } = named(content);
            // Under whatever name, as long as it has an object in that namespace.
            let known = contents.iter().filter(|known| known.spec.driver == DRIVER && known.handle() == Some(handle));
            let known = known.map(|known| (named(known), known.name_any()));
            let known = known
                .filter(|(known, content)| known.namespace == namespace && there.get(known) == Some(content))
                .map(|(known, _)| known)
                .next();
            let (name, done, reason) = match known {
                Some(known) => (known.name, Done::Known, None),
                None => match self.make_pair(content).await {
                    Ok(pair) if pair.made => (pair.snapshot, Done::Made, None),
                    Ok(pair) => (pair.snapshot, Done::Known, None),
                    Err(error) => (name, Done::Failed, Some(error.to_string())),
                },
            };
            outcomes.push(Outcome { namespace, name, handle: handle.to_owned(), done, reason });
        }
        Ok(outcomes)
    }
}

fn named(content: &VolumeSnapshotContent) -> Named {
    let reference = &content.spec.volume_snapshot_ref;
    Named { namespace: reference.namespace.clone(), name: reference.name.clone() }
}

#[cfg(test)]
mod tests;
