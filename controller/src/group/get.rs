//! GetVolumeGroupSnapshot: the members, wherever they are.

use std::collections::BTreeSet;

use tonic::Status;
use varve_csi::name;
use varve_proto::csi;
use varve_repository::id::{GroupId, SnapshotId};

use super::{described, mismatch};
use crate::{Controller, snapshot::Filter};

impl Controller {
    /// Describes a group snapshot. The members given are checked where any are; they are not needed to find the group.
    ///
    /// # Errors
    /// As CSI, "GetVolumeGroupSnapshot Errors"; `UNAVAILABLE` where a node that does not answer may decide.
    pub(crate) async fn get_group(
        &self,
        request: csi::GetVolumeGroupSnapshotRequest,
    ) -> Result<csi::GetVolumeGroupSnapshotResponse, Status> {
        let text = name::required("group_snapshot_id", &request.group_snapshot_id)?;
        let group: GroupId = text.parse().map_err(|error| {
            Status::not_found(format!("group_snapshot_id: {error}: there is no such group snapshot"))
        })?;
        let sighting = self.find_snapshots(Filter { volume: None, group: Some(group) }).await?;
        let members: BTreeSet<String> = sighting.snapshots.iter().map(|member| member.id.to_string()).collect();
        let given: BTreeSet<String> = request.snapshot_ids.into_iter().collect();
        let verdict = if members.is_empty() {
            Err(Status::not_found(format!("there is no group snapshot {group}")))
        } else if given.is_empty() || given == members {
            Ok(())
        } else {
            Err(mismatch(group, &format!("its members are {}", list(sighting.snapshots.iter().map(|s| s.id)))))
        };
        match (verdict, sighting.doubt) {
            (Ok(()), None) => {}
            // All members given were found.
            (Ok(()), Some(_)) if !given.is_empty() => {}
            (_, Some(doubt)) => return Err(doubt),
            (Err(status), None) => return Err(status),
        }
        let group_snapshot = Some(described(group, &sighting.snapshots));
        Ok(csi::GetVolumeGroupSnapshotResponse { group_snapshot })
    }
}

/// Joins ids for a message.
pub(super) fn list(ids: impl Iterator<Item = SnapshotId>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}
