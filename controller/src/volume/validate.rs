//! ValidateVolumeCapabilities: whether a volume that exists can be used as wanted.

use tonic::Status;
use varve_csi::{
    capability::{Capability, Refusal},
    name,
};
use varve_proto::csi::{self, validate_volume_capabilities_response::Confirmed};
use varve_repository::record::volume::VolumeRecord;

use super::context;
use crate::{Controller, catalog, parameters::Offload, presentation::Wanted};

impl Controller {
    /// Confirms what holds. What is well-formed and does not hold is an answer with a message, not an error.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, `NOT_FOUND`, or the store's.
    pub(crate) async fn validate_volume_capabilities(
        &self,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse, Status> {
        let text = name::required("volume_id", &request.volume_id)?;
        let checked = match Capability::check_all("volume_capabilities", &request.volume_capabilities) {
            Err(refusal) if !refusal.is_unsupported() => return Err(refusal.into()),
            checked => checked,
        };
        let record = catalog::volume(self.repository(), catalog::volume_id("volume_id", text)?).await?.value;
        Ok(match objection(&request, checked, &record) {
            Some(message) => csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message },
            None => csi::ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        })
    }
}

/// Says what does not hold; `None` where everything does.
fn objection(
    request: &csi::ValidateVolumeCapabilitiesRequest,
    checked: Result<Vec<Capability>, Refusal>,
    record: &VolumeRecord,
) -> Option<String> {
    let capabilities = match checked {
        Ok(capabilities) => capabilities,
        Err(refusal) => return Some(refusal.to_string()),
    };
    let wanted = Wanted::of(&capabilities);
    if !wanted.admits(record.presentation) {
        let is = record.presentation.as_str();
        return Some(format!("volume_capabilities ask for {}, and the volume is {is}", wanted.as_str()));
    }
    if !request.volume_context.is_empty() && request.volume_context != context(record) {
        return Some(
            "volume_context is not that of the volume: it may be of an earlier one of the same name".to_owned(),
        );
    }
    match Offload::parse("mutable_parameters", &request.mutable_parameters) {
        Ok(mutable) if mutable.holds_in(record.offload) => {}
        Ok(_) => return Some("mutable_parameters are not those of the volume".to_owned()),
        Err(status) => return Some(status.message().to_owned()),
    }
    // The class's values may have been overridden since: they are compared with what the volume was created with.
    match Offload::parse("parameters", &request.parameters) {
        Ok(_) if request.parameters.is_empty() => None,
        Ok(class) if Offload::recorded(&record.parameters) == Some(class) => None,
        Ok(_) => Some("parameters are not those that the volume was created with".to_owned()),
        Err(status) => Some(status.message().to_owned()),
    }
}
