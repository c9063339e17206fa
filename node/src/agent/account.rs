//! Holding what this node keeps against what the repository knows: images that no record accounts for, and snapshots
//! kept on this node alone that were deleted while it could not be reached.
//!
//! An image without its record may be the last copy of somebody's data, as when a record was lost or another cluster's
//! repository was restored over it. It is told of and never removed. A tombstone is a decision, and is carried out.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use uuid::Uuid;
use varve_csi::status::chain;
use varve_repository::{SnapshotState, id::VolumeId};

use super::{Agent, Ailment, Severity};
use crate::{cut::State, volume::Volume};

/// How often what was not answered, or not in order, is looked up again.
const INTERVAL: Duration = Duration::from_secs(600);

/// One incarnation of a volume.
type Lineage = (VolumeId, Uuid);

/// The images that no record accounts for, and what is wrong with each.
#[derive(Debug, Default)]
pub(super) struct Strays(Mutex<BTreeMap<Lineage, Ailment>>);

impl Strays {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Lineage, Ailment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lineage(volume: &Volume) -> Lineage {
    let record = volume.record();
    (record.id, record.incarnation)
}

impl Agent {
    /// Looks everything up that is here at the start, and again whatever stays open, until the agent stops.
    pub(super) fn watch_accounts(&self) {
        let agent = self.clone();
        self.0.tasks.spawn(async move {
            let mut open = agent.volumes().list();
            loop {
                let pass = async {
                    let mut still_open = Vec::new();
                    for volume in open {
                        if !agent.is_accounted_for(&volume).await {
                            still_open.push(volume);
                        }
                    }
                    still_open
                };
                open = tokio::select! {
                    still_open = pass => still_open,
                    () = agent.0.stop.cancelled() => return,
                };
                agent.carry_out_tombstones().await;
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => {}
                    () = agent.0.stop.cancelled() => return,
                }
            }
        });
    }

    /// What is wrong with the record of a volume, as far as that is known.
    pub(super) fn stray_ailment(&self, volume: &Volume) -> Option<Ailment> {
        self.0.strays.lock().get(&lineage(volume)).cloned()
    }

    /// Looks up the record of a volume; `false` where that is to be done again.
    async fn is_accounted_for(&self, volume: &Volume) -> bool {
        let known = lineage(volume);
        let found = match self.repository().volume(volume.id()).await {
            Ok(found) => found.map(|found| found.value),
            Err(error) => {
                tracing::debug!(volume = %volume.id(), error = chain(&error), "the volume's record is not known yet");
                return false;
            }
        };
        let (reason, what) = match found {
            None => ("RecordMissing", "the repository has no record of it".to_owned()),
            Some(found) if found.incarnation != known.1 => (
                "RecordDiffers",
                format!("the repository's record is of incarnation {}, not of {}", found.incarnation, known.1),
            ),
            Some(found) if found.home_node != self.node_id() => (
                "RecordDiffers",
                format!("the repository's record says that its image is on node {:?}", found.home_node),
            ),
            Some(_) => {
                self.0.strays.lock().remove(&known);
                return true;
            }
        };
        if self.volumes().get(&volume.id()).is_none_or(|here| lineage(&here) != known) {
            // Deleted meanwhile, as its record was.
            self.0.strays.lock().remove(&known);
            return true;
        }
        let message = format!(
            "the image of volume {} ({:?}) is here and {what}: nothing is removed; copy what is needed from {}, then \
             remove that folder while the driver is stopped",
            volume.id(),
            volume.record().name,
            volume.folder().display()
        );
        let ailment = Ailment { severity: Severity::Degraded, reason, message };
        if self.0.strays.lock().insert(known, ailment.clone()).is_none() {
            tracing::warn!(volume = %volume.id(), reason = ailment.message, "an image is not accounted for");
        }
        false
    }

    /// Removes cuts that are kept here alone and were deleted while nobody could reach this node.
    async fn carry_out_tombstones(&self) {
        for cut in self.cuts().list().into_iter().filter(|cut| cut.record().state == State::NodeOnly) {
            let state = tokio::select! {
                state = self.repository().snapshot(cut.id()) => state,
                () = self.0.stop.cancelled() => return,
            };
            let removed = match state {
                Ok(SnapshotState::Gone(_)) => self.remove_cut(&cut).await.map_err(|error| chain(&error)),
                Ok(SnapshotState::Absent | SnapshotState::Committed(_)) => Ok(()),
                Err(error) => Err(chain(&error)),
            };
            if let Err(reason) = removed {
                tracing::debug!(snapshot = %cut.id(), reason, "what became of the snapshot is not known yet");
            }
        }
    }
}
