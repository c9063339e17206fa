//! Where snapshots are: in the repository, on a node, or nowhere.

use std::collections::BTreeMap;

use tonic::Status;
use tracing::warn;
use varve_proto::agent::ListCutsRequest;
use varve_repository::{
    SnapshotState,
    id::{GroupId, SnapshotId, VolumeId},
    record::snapshot::Root,
};

use super::Snapshot;
use crate::{Controller, catalog::stored};

/// Where one snapshot was found.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// It is committed.
    Root(Box<Root>),
    /// A node has it and the repository has not.
    Cut(Snapshot),
    /// It never was, or is deleted.
    Nowhere,
    /// It is not in the repository, and a node that may have it does not answer: why.
    Unsure(Status),
}

/// Which snapshots are looked for; what is `None` selects all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) volume: Option<VolumeId>,
    pub(crate) group: Option<GroupId>,
}

/// Snapshots found on nodes and in the repository.
#[derive(Debug)]
pub(crate) struct Sighting {
    /// Each once, ordered by id.
    pub(crate) snapshots: Vec<Snapshot>,
    /// Why there may be more; `None` where every node answered and every record could be read.
    pub(crate) doubt: Option<Status>,
}

impl Filter {
    fn selects(self, snapshot: &Snapshot) -> bool {
        self.volume.is_none_or(|volume| volume == snapshot.volume)
            && self.group.is_none_or(|group| snapshot.group == Some(group))
    }
}

impl Controller {
    /// Finds one snapshot. A committed one is found without asking any node.
    ///
    /// # Errors
    /// The store's, or `UNAVAILABLE` where the nodes cannot be listed.
    pub(crate) async fn find_snapshot(&self, id: SnapshotId) -> Result<Found, Status> {
        match stored(self.repository().snapshot(id).await)? {
            SnapshotState::Committed(root) => return Ok(Found::Root(root)),
            SnapshotState::Gone(_) => return Ok(Found::Nowhere),
            SnapshotState::Absent => {}
        }
        let request = ListCutsRequest { snapshot_id: id.to_string(), ..ListCutsRequest::default() };
        let survey = self.fleet().cuts(request).await?;
        for (node, cuts) in &survey.answers {
            if let Some(cut) = cuts.first() {
                return Ok(Found::Cut(Snapshot::of_cut(node, cut)?));
            }
        }
        // It may have been committed between the two looks.
        match stored(self.repository().snapshot(id).await)? {
            SnapshotState::Committed(root) => Ok(Found::Root(root)),
            SnapshotState::Gone(_) => Ok(Found::Nowhere),
            SnapshotState::Absent => Ok(survey.doubt(&format!("snapshot {id}")).map_or(Found::Nowhere, Found::Unsure)),
        }
    }

    /// Finds all snapshots that a filter selects: the cuts of every node that answers, then the roots.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn find_snapshots(&self, filter: Filter) -> Result<Sighting, Status> {
        let request = ListCutsRequest {
            snapshot_id: String::new(),
            volume_id: filter.volume.map(|id| id.to_string()).unwrap_or_default(),
            group_id: filter.group.map(|id| id.to_string()).unwrap_or_default(),
        };
        let survey = self.fleet().cuts(request).await?;
        let mut found = BTreeMap::new();
        for (node, cuts) in &survey.answers {
            for cut in cuts {
                match Snapshot::of_cut(node, cut) {
                    Ok(snapshot) => found.insert(snapshot.id, snapshot),
                    Err(status) => {
                        warn!(node, reason = status.message(), "leaving out a cut");
                        None
                    }
                };
            }
        }
        let readable = stored(self.repository().readable_snapshots().await)?;
        for root in &readable.roots {
            let snapshot = Snapshot::of_root(root);
            found.insert(snapshot.id, snapshot);
        }
        found.retain(|_, snapshot| filter.selects(snapshot));
        // Which volume and group a damaged root is of, nobody can tell.
        let damaged = readable.damaged.first().map(|damaged| {
            let (snapshot, reason) = (damaged.snapshot, &damaged.reason);
            Status::data_loss(format!("the record of snapshot {snapshot} is damaged: {reason}; repair or delete it"))
        });
        let doubt = survey.doubt("more snapshots").or(damaged);
        Ok(Sighting { snapshots: found.into_values().collect(), doubt })
    }
}
