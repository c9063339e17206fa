//! ControllerExpandVolume: grows the image, also while it is in use.
//!
//! # Crash consistency
//! The image grows before the record does: the record never promises more than there is. The agent is asked even when
//! the record has the size already, since it alone knows whether a file system is still to be grown.

use tonic::Status;
use varve_csi::{
    capability::Capability,
    capacity::{CapacityRange, wire},
    name, status,
};
use varve_proto::csi;
use varve_repository::record::volume::{Presentation, VolumeRecord};

use super::exclusively;
use crate::{
    Controller, catalog,
    presentation::{GRANULE, Wanted},
};

impl Controller {
    /// Grows a volume to the range asked for; one that is large enough stays as it is.
    ///
    /// # Errors
    /// As CSI, "ControllerExpandVolume Errors"; `OUT_OF_RANGE` also where the limit is below the present size, since
    /// no volume shrinks.
    pub(crate) async fn expand_volume(
        &self,
        request: csi::ControllerExpandVolumeRequest,
    ) -> Result<csi::ControllerExpandVolumeResponse, Status> {
        let text = name::required("volume_id", &request.volume_id)?;
        let range = request.capacity_range.as_ref().ok_or_else(|| status::missing("capacity_range"))?;
        let range = CapacityRange::parse("capacity_range", Some(range))?;
        if range.required == 0 && range.limit.is_none() {
            return Err(status::missing("capacity_range.required_bytes"));
        }
        let capability = match &request.volume_capability {
            Some(capability) => Some(Capability::parse("volume_capability", Some(capability))?),
            None => None,
        };
        let id = catalog::volume_id("volume_id", text)?;
        let _held = self.hold(exclusively(id))?;
        let record = catalog::volume(self.repository(), id).await?.value;
        if let Some(capability) = capability {
            let wanted = Wanted::of(&[capability]);
            if !wanted.admits(record.presentation) {
                let is = record.presentation.as_str();
                return Err(status::invalid("volume_capability", wanted.as_str(), &format!("{is}, as the volume is")));
            }
        }
        let bytes = range.pick(record.capacity_bytes, record.capacity_bytes, GRANULE)?;
        let agent = self.fleet().agent(&record.home_node).await?;
        let grown = agent.expand_image(id.to_string(), bytes).await?;
        let bytes = grown.capacity_bytes.max(bytes);
        let record = catalog::update_volume(self.repository(), id, |record| {
            let larger = bytes > record.capacity_bytes;
            Ok(larger.then(|| VolumeRecord { capacity_bytes: bytes, ..record.clone() }))
        })
        .await?;
        Ok(csi::ControllerExpandVolumeResponse {
            capacity_bytes: wire(record.capacity_bytes),
            node_expansion_required: grown.staged && record.presentation != Presentation::Block,
        })
    }
}
