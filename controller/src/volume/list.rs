//! ListVolumes and ControllerGetVolume, from the records alone.
//!
//! `published_node_ids` names the node that a volume is controller-published to, if it is: where it is staged is another
//! matter, and its node's to tell. A volume whose creation broke off is listed too, so that whoever no longer wants it can
//! learn its id and delete it (CSI, "RPC Interactions").

use tonic::Status;
use varve_csi::{name, page::page};
use varve_proto::csi::{self, controller_get_volume_response, list_volumes_response};
use varve_repository::record::volume::VolumeRecord;

use super::described;
use crate::{
    Controller,
    catalog::{self, stored},
};

impl Controller {
    /// Lists every volume in the repository, ordered by id.
    ///
    /// # Errors
    /// `ABORTED` for a token that is none, or the store's.
    pub(crate) async fn list_volumes(
        &self,
        request: csi::ListVolumesRequest,
    ) -> Result<csi::ListVolumesResponse, Status> {
        let records = stored(self.repository().volumes().await)?;
        let (records, next_token) =
            page(records, |record| record.id.to_string(), request.max_entries, &request.starting_token)?;
        let entries = records
            .iter()
            .map(|record| list_volumes_response::Entry {
                volume: Some(described(record)),
                status: Some(list_volumes_response::VolumeStatus { published_node_ids: published(record) }),
            })
            .collect();
        Ok(csi::ListVolumesResponse { entries, next_token })
    }

    /// Describes one volume.
    ///
    /// # Errors
    /// `NOT_FOUND`, or the store's.
    pub(crate) async fn get_volume(
        &self,
        request: csi::ControllerGetVolumeRequest,
    ) -> Result<csi::ControllerGetVolumeResponse, Status> {
        let text = name::required("volume_id", &request.volume_id)?;
        let record = catalog::volume(self.repository(), catalog::volume_id("volume_id", text)?).await?.value;
        Ok(csi::ControllerGetVolumeResponse {
            volume: Some(described(&record)),
            status: Some(controller_get_volume_response::VolumeStatus { published_node_ids: published(&record) }),
        })
    }
}

fn published(record: &VolumeRecord) -> Vec<String> {
    record.published.iter().map(|publication| publication.node.clone()).collect()
}
