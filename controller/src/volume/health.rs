//! Volume health, from real causes.
//!
//! | status | reason | cause |
//! | --- | --- | --- |
//! | `DATA_LOSS` | `ImageMissing` | the node that holds the volume answers, and has no image of it |
//! | `INACCESSIBLE` | `NodeGone`, `NodeUnreachable` | the node is not in the cluster, or does not answer |
//! | `DEGRADED` | `RepositoryUnreachable`, … | the records cannot be read, so nothing can be backed up or restored |
//! | `DEGRADED` | `SnapshotDamaged` | the last check of the repository found damage that hurts a snapshot |
//! | as the node says | as the node says | what the agent knows of the image, its offloads and its pool |
//!
//! With the repository out of reach the nodes still know their images: health is then answered from them alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Mutex,
};

use tonic::Status;
use varve_csi::{name, page::page, status};
use varve_proto::{
    agent::{Ailment, GetPoolResponse, Image, ailment},
    csi::{self, VolumeHealthErrorType as Health},
};
use varve_repository::{
    Error, ErrorKind, SnapshotState,
    check::Report,
    id::{SnapshotId, VolumeId},
    record::volume::VolumeRecord,
};

use crate::{Controller, agent::Agent, catalog, nodes};

/// The snapshots that the last check of the repository found to be hurt, by volume.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(Mutex<HashMap<VolumeId, BTreeSet<SnapshotId>>>);

impl Verdicts {
    /// Puts what a check found in place of what the one before had found.
    pub(crate) fn replace(&self, report: &Report) {
        let mut hurt: HashMap<VolumeId, BTreeSet<SnapshotId>> = HashMap::new();
        for each in report.damages.iter().flat_map(|damage| &damage.hurt) {
            // A root that cannot be read does not tell its volume.
            if let Some(volume) = each.volume {
                hurt.entry(volume).or_default().insert(each.snapshot);
            }
        }
        *self.0.lock().expect("nothing panics while it is held") = hurt;
    }

    fn of(&self, volume: VolumeId) -> BTreeSet<SnapshotId> {
        self.0.lock().expect("nothing panics while it is held").get(&volume).cloned().unwrap_or_default()
    }
}

/// What one node says of itself.
#[derive(Clone, Debug, Default)]
struct View {
    images: Vec<Image>,
    pool: GetPoolResponse,
}

impl View {
    /// Asks a node about one volume, or about all.
    async fn take(agent: Agent, volume: Option<String>) -> Result<Self, Status> {
        let (images, pool) = futures::try_join!(agent.images(volume), agent.pool())?;
        Ok(Self { images, pool })
    }

    fn image(&self, volume: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.volume_id == volume)
    }
}

/// What can be told of the node that a record names.
enum Home<'a> {
    Gone,
    Silent(&'a Status),
    Seen(&'a View),
}

/// Adverse conditions of one volume, each status and reason once (CSI, `VolumeHealth`).
#[derive(Debug, Default)]
struct Conditions(BTreeMap<(Severity, String), String>);

/// In the order in which a person would want to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    DataLoss,
    Inaccessible,
    Degraded,
}

impl Conditions {
    fn add(&mut self, severity: Severity, reason: &str, message: impl Into<String>) {
        let message = message.into();
        self.0
            .entry((severity, reason.to_owned()))
            .and_modify(|present| {
                if !present.contains(&message) {
                    present.push_str("; ");
                    present.push_str(&message);
                }
            })
            .or_insert(message);
    }

    fn add_ailments(&mut self, ailments: &[Ailment]) {
        for ailment in ailments {
            let severity = match ailment.severity() {
                ailment::Severity::DataLoss => Severity::DataLoss,
                ailment::Severity::Inaccessible => Severity::Inaccessible,
                ailment::Severity::Degraded | ailment::Severity::Unspecified => Severity::Degraded,
            };
            self.add(severity, &ailment.reason, &ailment.message);
        }
    }

    fn add_repository(&mut self, error: &Error) {
        let reason = match error.kind() {
            ErrorKind::Unavailable => "RepositoryUnreachable",
            ErrorKind::Denied => "RepositoryAccessDenied",
            ErrorKind::Corrupt => "RepositoryDamaged",
            _ => "RepositoryUnusable",
        };
        let what = status::chain(error);
        self.add(Severity::Degraded, reason, format!("nothing can be backed up or restored: {what}"));
    }

    /// Adds what a node says of a volume that it holds.
    fn add_view(&mut self, volume: &str, view: &View) {
        self.add_ailments(&view.pool.ailments);
        if let Some(image) = view.image(volume) {
            self.add_ailments(&image.ailments);
        }
    }

    fn into_health(self, volume: String) -> csi::VolumeHealth {
        let entry = |((severity, reason), message)| csi::volume_health::VolumeHealthEntry {
            status: match severity {
                Severity::DataLoss => Health::DataLoss,
                Severity::Inaccessible => Health::Inaccessible,
                Severity::Degraded => Health::Degraded,
            }
            .into(),
            reason,
            message,
        };
        csi::VolumeHealth { volume_id: volume, health_statuses: self.0.into_iter().map(entry).collect() }
    }
}

/// Works out what is wrong with a volume from its record and its node.
fn diagnose(record: &VolumeRecord, home: &Home<'_>) -> Conditions {
    let mut conditions = Conditions::default();
    let node = &record.home_node;
    match home {
        Home::Gone => conditions.add(
            Severity::Inaccessible,
            "NodeGone",
            format!(
                "node {node:?}, which holds the volume, is not in the cluster: restore its last snapshot elsewhere"
            ),
        ),
        Home::Silent(status) => conditions.add(Severity::Inaccessible, "NodeUnreachable", status.message()),
        Home::Seen(view) => {
            let volume = record.id.to_string();
            conditions.add_view(&volume, view);
            let incarnation = record.incarnation.to_string();
            let present = view.image(&volume).is_some_and(|image| image.incarnation == incarnation);
            if record.complete && !present {
                conditions.add(
                    Severity::DataLoss,
                    "ImageMissing",
                    format!("node {node:?} holds no image of the volume: restore its last snapshot"),
                );
            }
        }
    }
    conditions
}

impl Controller {
    /// Tells what is wrong with one volume.
    ///
    /// # Errors
    /// `NOT_FOUND`, or the repository's where no node has an image of it either.
    pub(crate) async fn get_volume_health(
        &self,
        request: csi::ControllerGetVolumeHealthRequest,
    ) -> Result<csi::ControllerGetVolumeHealthResponse, Status> {
        let text = name::required("volume_id", &request.volume_id)?;
        let id = catalog::volume_id("volume_id", text)?;
        let conditions = match self.repository().volume(id).await {
            Ok(Some(record)) => self.examine(&record.value).await?,
            Ok(None) => return Err(catalog::no_volume(id)),
            Err(error) => self.examine_without_record(id, &error).await?,
        };
        Ok(csi::ControllerGetVolumeHealthResponse { volume_health: Some(conditions.into_health(id.to_string())) })
    }

    async fn examine(&self, record: &VolumeRecord) -> Result<Conditions, Status> {
        let view = match self.fleet().agent(&record.home_node).await {
            Ok(agent) => Some(View::take(agent, Some(record.id.to_string())).await),
            Err(nodes::Error::Unknown { .. }) => None,
            Err(error) => Some(Err(error.into())),
        };
        let home = match &view {
            None => Home::Gone,
            Some(Ok(view)) => Home::Seen(view),
            Some(Err(status)) => Home::Silent(status),
        };
        let mut conditions = diagnose(record, &home);
        self.add_verdict(record.id, &mut conditions).await;
        Ok(conditions)
    }

    async fn examine_without_record(&self, id: VolumeId, error: &Error) -> Result<Conditions, Status> {
        let volume = id.to_string();
        let names = self.fleet().names().await?;
        let survey = self.fleet().ask(names, |agent| View::take(agent, Some(volume.clone()))).await;
        let Some((_, view)) = survey.answers.iter().find(|(_, view)| view.image(&volume).is_some()) else {
            return Err(status::repository(error));
        };
        let mut conditions = Conditions::default();
        conditions.add_repository(error);
        conditions.add_view(&volume, view);
        Ok(conditions)
    }

    /// Adds what the last check said of the volume's snapshots that are still there.
    async fn add_verdict(&self, id: VolumeId, conditions: &mut Conditions) {
        for snapshot in self.verdicts().of(id) {
            // One that cannot be read now was hurt when it could be.
            let state = self.repository().snapshot(snapshot).await;
            if !matches!(state, Ok(SnapshotState::Absent | SnapshotState::Gone(_))) {
                let what =
                    format!("snapshot {snapshot} is damaged in the repository: `varve repository check` tells more");
                conditions.add(Severity::Degraded, "SnapshotDamaged", what);
            }
        }
    }

    /// Lists the volumes that something is wrong with, ordered by id.
    ///
    /// # Errors
    /// `ABORTED` for a token that is none; the repository's where no node answers either.
    pub(crate) async fn list_volume_health(
        &self,
        request: csi::ControllerListVolumeHealthRequest,
    ) -> Result<csi::ControllerListVolumeHealthResponse, Status> {
        let names = self.fleet().names().await?;
        let records = self.repository().volumes().await;
        let survey = self.fleet().ask(names, |agent| View::take(agent, None)).await;
        let mut entries = Vec::new();
        match records {
            Ok(records) => {
                let seen: HashMap<&str, &View> =
                    survey.answers.iter().map(|(node, view)| (node.as_str(), view)).collect();
                let silent: HashMap<&str, &Status> =
                    survey.silent.iter().map(|(node, status)| (node.as_str(), status)).collect();
                for record in records {
                    let node = record.home_node.as_str();
                    let home = match (seen.get(node), silent.get(node)) {
                        (Some(view), _) => Home::Seen(view),
                        (None, Some(status)) => Home::Silent(status),
                        (None, None) => Home::Gone,
                    };
                    let mut conditions = diagnose(&record, &home);
                    self.add_verdict(record.id, &mut conditions).await;
                    entries.push(conditions.into_health(record.id.to_string()));
                }
            }
            Err(error) if survey.answers.is_empty() => return Err(status::repository(&error)),
            Err(error) => {
                for (_, view) in &survey.answers {
                    for image in &view.images {
                        let mut conditions = Conditions::default();
                        conditions.add_repository(&error);
                        conditions.add_view(&image.volume_id, view);
                        entries.push(conditions.into_health(image.volume_id.clone()));
                    }
                }
                entries.sort_by(|left, right| left.volume_id.cmp(&right.volume_id));
            }
        }
        entries.retain(|entry| !entry.health_statuses.is_empty());
        let (entries, next_token) =
            page(entries, |entry| entry.volume_id.clone(), request.max_entries, &request.starting_token)?;
        Ok(csi::ControllerListVolumeHealthResponse { entries, next_token })
    }
}
