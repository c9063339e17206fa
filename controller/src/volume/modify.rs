//! ControllerModifyVolume: how a volume's snapshots are offloaded from now on.

use tonic::Status;
use varve_csi::name;
use varve_proto::{
    agent::{self, ModifyImageRequest},
    csi,
};
use varve_repository::record::volume::{OffloadParameters, VolumeRecord};

use super::exclusively;
use crate::{Controller, catalog, parameters::Offload};

/// Offload parameters, as the agent takes them.
pub(super) fn for_agent(offload: OffloadParameters) -> agent::OffloadParameters {
    agent::OffloadParameters {
        compression: offload.compression.map(u32::from),
        bandwidth: offload.bandwidth,
        weight: offload.weight.map(u32::from),
        io_bandwidth: offload.io_bandwidth,
    }
}

impl Controller {
    /// Changes what the parameters name, and nothing else. The record changes first; the agent is told each time, so
    /// that a retry repairs a call whose second half was lost.
    ///
    /// # Errors
    /// As CSI, "ControllerModifyVolume Errors".
    pub(crate) async fn modify_volume(
        &self,
        request: csi::ControllerModifyVolumeRequest,
    ) -> Result<csi::ControllerModifyVolumeResponse, Status> {
        let text = name::required("volume_id", &request.volume_id)?;
        let change = Offload::parse("mutable_parameters", &request.mutable_parameters)?;
        let id = catalog::volume_id("volume_id", text)?;
        let _held = self.hold(exclusively(id))?;
        let record = catalog::update_volume(self.repository(), id, |record| {
            let changes = !change.holds_in(record.offload);
            Ok(changes.then(|| VolumeRecord { offload: change.over(record.offload), ..record.clone() }))
        })
        .await?;
        let agent = self.fleet().agent(&record.home_node).await?;
        agent
            .modify_image(ModifyImageRequest { volume_id: id.to_string(), offload: Some(for_agent(record.offload)) })
            .await?;
        Ok(csi::ControllerModifyVolumeResponse {})
    }
}
