//! DeleteVolumeGroupSnapshot: every member, each as a snapshot is deleted.
//!
//! A deletion that breaks off leaves some members deleted; its retry is given the same list, of which some are gone.

use tonic::Status;
use varve_csi::name;
use varve_proto::csi;
use varve_repository::id::{GroupId, SnapshotId};

use super::{exclusively, get::list, mismatch};
use crate::{
    Controller,
    snapshot::{Filter, Found},
};

impl Controller {
    /// Deletes a group snapshot with all its members; whether it is there does not matter.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where the members given are not the group's, `UNAVAILABLE` where a node that may have members
    /// does not answer, or the store's. Nothing is deleted with the first; the others end with a retry.
    pub(crate) async fn delete_group(
        &self,
        request: csi::DeleteVolumeGroupSnapshotRequest,
    ) -> Result<csi::DeleteVolumeGroupSnapshotResponse, Status> {
        let text = name::required("group_snapshot_id", &request.group_snapshot_id)?;
        let Ok(group) = text.parse::<GroupId>() else { return Ok(csi::DeleteVolumeGroupSnapshotResponse {}) };
        let given = parse(group, &request.snapshot_ids)?;
        let _held = self.hold(exclusively(group))?;
        let sighting = self.find_snapshots(Filter { volume: None, group: Some(group) }).await?;
        let members: Vec<SnapshotId> = sighting.snapshots.iter().map(|member| member.id).collect();
        if given.is_empty() {
            // Only the list tells of members that a silent node may have.
            if let Some(doubt) = sighting.doubt {
                return Err(doubt);
            }
        } else if members.iter().any(|member| !given.contains(member)) {
            return Err(mismatch(group, &format!("its members are {}", list(members.into_iter()))));
        }
        let mut removals = Vec::new();
        for id in members.iter().chain(given.iter().filter(|id| !members.contains(id))) {
            let found = self.find_snapshot(*id).await?;
            let belongs = match &found {
                Found::Root(root) => root.description.group == Some(group),
                Found::Cut(cut) => cut.group == Some(group),
                Found::Nowhere | Found::Unsure(_) => true,
            };
            if !belongs {
                return Err(mismatch(group, &format!("{id} is no member of it")));
            }
            removals.push((*id, found));
        }
        for (id, found) in removals {
            self.remove_snapshot(id, found).await?;
        }
        Ok(csi::DeleteVolumeGroupSnapshotResponse {})
    }
}

fn parse(group: GroupId, texts: &[String]) -> Result<Vec<SnapshotId>, Status> {
    texts.iter().map(|text| text.parse().map_err(|error| mismatch(group, &format!("{error}")))).collect()
}
