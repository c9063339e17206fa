//! DeleteVolume: the image first, then the record. Snapshots are independent of their volume and stay.

use tonic::Status;
use tracing::warn;
use varve_csi::name;
use varve_proto::csi;
use varve_repository::{id::VolumeId, record::volume::Publication};

use super::exclusively;
use crate::{Controller, catalog::stored, nodes};

impl Controller {
    /// Deletes a volume; whether it is there does not matter.
    ///
    /// A volume whose node is gone from the cluster for good went with it: its record is removed. A node that exists
    /// and does not answer may still have a workload writing to the image: the call is to be made again.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` where the volume is published or in use, `UNAVAILABLE` where its node does not answer.
    pub(crate) async fn delete_volume(
        &self,
        request: csi::DeleteVolumeRequest,
    ) -> Result<csi::DeleteVolumeResponse, Status> {
        let text = name::required("volume_id", &request.volume_id)?;
        let Ok(id) = text.parse::<VolumeId>() else { return Ok(csi::DeleteVolumeResponse {}) };
        let _held = self.hold(exclusively(id))?;
        let Some(record) = stored(self.repository().volume(id).await)? else {
            return Ok(csi::DeleteVolumeResponse {});
        };
        if let Some(Publication { node, .. }) = &record.value.published {
            return Err(Status::failed_precondition(format!(
                "volume {id} is published to node {node:?}: unpublish it first"
            )));
        }
        match self.fleet().agent(&record.value.home_node).await {
            Ok(agent) => agent.delete_image(id.to_string()).await?,
            Err(nodes::Error::Unknown { node }) => {
                warn!(volume = %id, node, "removing the record of a volume whose node is gone");
            }
            Err(error) => return Err(error.into()),
        }
        stored(self.repository().remove_volume(id).await)?;
        Ok(csi::DeleteVolumeResponse {})
    }
}
