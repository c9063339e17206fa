//! ListSnapshots and GetSnapshot: roots, and the cuts that are not offloaded yet.

use tonic::Status;
use tracing::warn;
use varve_csi::{name, page::page};
use varve_proto::csi::{self, list_snapshots_response::Entry};
use varve_repository::id::{SnapshotId, VolumeId};

use super::{Filter, Found, Snapshot};
use crate::{Controller, catalog};

impl Controller {
    /// Lists snapshots, ordered by id. A filter that names what cannot exist selects nothing. The cuts of a node that does
    /// not answer are missing from a listing of many; one snapshot asked for by id is never said to be missing then.
    ///
    /// # Errors
    /// `ABORTED` for a token that is none, `UNAVAILABLE`, or the store's.
    pub(crate) async fn list_snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
    ) -> Result<csi::ListSnapshotsResponse, Status> {
        let snapshots = self.select(&request).await?;
        let (snapshots, next_token) =
            page(snapshots, |snapshot| snapshot.id.to_string(), request.max_entries, &request.starting_token)?;
        let entries = snapshots.iter().map(|snapshot| Entry { snapshot: Some(snapshot.described()) }).collect();
        Ok(csi::ListSnapshotsResponse { entries, next_token })
    }

    async fn select(&self, request: &csi::ListSnapshotsRequest) -> Result<Vec<Snapshot>, Status> {
        let volume = match request.source_volume_id.as_str() {
            "" => None,
            text => match text.parse::<VolumeId>() {
                Ok(id) => Some(id),
                Err(_) => return Ok(Vec::new()),
            },
        };
        if request.snapshot_id.is_empty() {
            let sighting = self.find_snapshots(Filter { volume, group: None }).await?;
            if let Some(doubt) = sighting.doubt {
                warn!(reason = doubt.message(), "listing snapshots without those that cannot be told");
            }
            return Ok(sighting.snapshots);
        }
        let Ok(id) = request.snapshot_id.parse::<SnapshotId>() else { return Ok(Vec::new()) };
        let found = self.get(id).await?;
        Ok(found.into_iter().filter(|found| volume.is_none_or(|volume| volume == found.volume)).collect())
    }

    async fn get(&self, id: SnapshotId) -> Result<Option<Snapshot>, Status> {
        Ok(match self.find_snapshot(id).await? {
            Found::Root(root) => Some(Snapshot::of_root(&root)),
            Found::Cut(cut) => Some(cut),
            Found::Nowhere => None,
            Found::Unsure(status) => return Err(status),
        })
    }

    /// Describes one snapshot.
    ///
    /// # Errors
    /// `NOT_FOUND`, `UNAVAILABLE`, or the store's.
    pub(crate) async fn get_snapshot(
        &self,
        request: csi::GetSnapshotRequest,
    ) -> Result<csi::GetSnapshotResponse, Status> {
        let id = catalog::snapshot_id("snapshot_id", name::required("snapshot_id", &request.snapshot_id)?)?;
        let snapshot = self.get(id).await?.ok_or_else(|| catalog::no_snapshot(id))?;
        Ok(csi::GetSnapshotResponse { snapshot: Some(snapshot.described()) })
    }
}
