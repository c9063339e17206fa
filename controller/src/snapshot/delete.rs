//! DeleteSnapshot: a tombstone in the place of the root, then the node forgets the cut.
//!
//! # Tombstones
//! A tombstone decides against whatever writer might still commit the id, so one is put wherever there is or may be a
//! writer: for a root, for a cut that is to be offloaded, and where a node that may have such a cut does not answer.
//! Where every node answered and none has a cut there is no writer: an offload begins after its cut was recorded, a cut
//! stays listed until its root is committed, and the root is looked for after the cuts. Nothing is put then, so that
//! ids that never existed leave no trace. A node that was taken out of the cluster with a cut on it, and comes back,
//! is the one exception: its snapshot appears again, and can be deleted again.
//!
//! A snapshot that is kept on its node alone has no writer either. It is the node's to delete, and needs a tombstone only
//! where the node does not answer.

use tonic::Status;
use varve_csi::name;
use varve_proto::csi;
use varve_repository::id::{GroupId, SnapshotId};

use super::{Found, Snapshot, exclusively};
use crate::{Controller, catalog::stored, parameters::Durability};

/// Why, as tombstones say it.
const REASON: &str = "deleted";

impl Controller {
    /// Deletes a snapshot; whether it is there does not matter.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a member of a group snapshot, `UNAVAILABLE` where the one node that keeps it does not
    /// answer, or the store's.
    pub(crate) async fn delete_snapshot(
        &self,
        request: csi::DeleteSnapshotRequest,
    ) -> Result<csi::DeleteSnapshotResponse, Status> {
        let text = name::required("snapshot_id", &request.snapshot_id)?;
        let Ok(id) = text.parse::<SnapshotId>() else { return Ok(csi::DeleteSnapshotResponse {}) };
        let _held = self.hold(exclusively(id))?;
        let found = self.find_snapshot(id).await?;
        let group = match &found {
            Found::Root(root) => root.description.group,
            Found::Cut(cut) => cut.group,
            Found::Nowhere | Found::Unsure(_) => None,
        };
        if let Some(group) = group {
            return Err(member(id, group));
        }
        self.remove_snapshot(id, found).await?;
        Ok(csi::DeleteSnapshotResponse {})
    }

    /// Removes a snapshot from where it was found.
    ///
    /// # Errors
    /// As [`Controller::delete_snapshot`], membership aside.
    pub(crate) async fn remove_snapshot(&self, id: SnapshotId, found: Found) -> Result<(), Status> {
        let node = match found {
            Found::Nowhere => return Ok(()),
            Found::Cut(Snapshot { durability: Durability::Node, node, .. }) => {
                return self.fleet().agent(&node).await?.delete_cut(id.to_string()).await;
            }
            Found::Cut(cut) => Some(cut.node),
            Found::Root(root) => Some(root.description.node),
            Found::Unsure(_) => None,
        };
        stored(self.repository().delete_snapshot(id, REASON).await)?;
        if let Some(node) = node {
            self.fleet().forget_cut(&node, id).await;
        }
        Ok(())
    }
}

fn member(id: SnapshotId, group: GroupId) -> Status {
    Status::invalid_argument(format!(
        "snapshot_id is {id}, a member of group snapshot {group}: expected DeleteVolumeGroupSnapshot of the group"
    ))
}
