//! The Identity service, the same for every process.

use std::{future::Future, pin::Pin, sync::Arc};

use tonic::{Request, Response, Status};
use varve_proto::csi::{
    self,
    plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion},
};

/// The driver's name, as it stands in `CSIDriver` and in every class.
pub const DRIVER: &str = "csi.varve.io";

/// Tells whether the process can serve; the reason where it cannot.
///
/// `false` says that it is still starting. An error says that it cannot go on without help, for which CSI prescribes
/// `FAILED_PRECONDITION` (Probe).
pub type Readiness = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<bool, Status>> + Send>> + Send + Sync>;

/// Serves `csi.v1.Identity`.
#[derive(Clone)]
pub struct Identity {
    capabilities: Vec<csi::PluginCapability>,
    readiness: Readiness,
}

impl Identity {
    /// Makes the service with the plugin capabilities that hold for the process, and its own idea of readiness.
    #[must_use]
    pub fn new(capabilities: Vec<csi::PluginCapability>, readiness: Readiness) -> Self {
        Self { capabilities, readiness }
    }
}

/// Makes the plugin capability that stands for a service or a constraint.
#[must_use]
pub fn service(kind: service::Type) -> csi::PluginCapability {
    csi::PluginCapability { r#type: Some(Type::Service(Service { r#type: kind.into() })) }
}

/// Makes the plugin capability that tells when volumes can grow.
#[must_use]
pub fn expansion(kind: volume_expansion::Type) -> csi::PluginCapability {
    csi::PluginCapability { r#type: Some(Type::VolumeExpansion(VolumeExpansion { r#type: kind.into() })) }
}

#[tonic::async_trait]
impl csi::identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: DRIVER.into(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities: self.capabilities.clone() }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        let ready = (self.readiness)().await?;
        Ok(Response::new(csi::ProbeResponse { ready: Some(ready) }))
    }
}

#[cfg(test)]
mod tests {
    use csi::identity_server::Identity as _;
    use tonic::Code;

    use super::*;

    fn identity(ready: Result<bool, Status>) -> Identity {
        let capabilities = vec![service(service::Type::ControllerService), expansion(volume_expansion::Type::Online)];
        let readiness: Readiness = Arc::new(move || {
            let ready = ready.clone();
            Box::pin(async move { ready })
        });
        Identity::new(capabilities, readiness)
    }

    #[tokio::test]
    async fn the_driver_gives_its_name_version_and_capabilities() {
        let identity = identity(Ok(true));
        let info = identity.get_plugin_info(Request::new(csi::GetPluginInfoRequest {})).await.unwrap().into_inner();
        assert_eq!((info.name.as_str(), info.vendor_version.as_str()), ("csi.varve.io", env!("CARGO_PKG_VERSION")));
        let request = Request::new(csi::GetPluginCapabilitiesRequest {});
        let answer = identity.get_plugin_capabilities(request).await.unwrap().into_inner();
        let kinds: Vec<_> = answer.capabilities.into_iter().map(|capability| capability.r#type.unwrap()).collect();
        assert_eq!(kinds, [Type::Service(Service { r#type: 1 }), Type::VolumeExpansion(VolumeExpansion { r#type: 1 })]);
    }

    #[test]
    fn the_name_is_one_that_csi_takes() {
        // GetPluginInfo: at most 63 characters, alphanumeric at both ends, dashes and dots between.
        assert!(DRIVER.len() <= 63);
        assert!(DRIVER.chars().all(|character| character.is_ascii_alphanumeric() || "-.".contains(character)));
        assert!(DRIVER.starts_with(char::is_alphanumeric) && DRIVER.ends_with(char::is_alphanumeric));
    }

    #[tokio::test]
    async fn readiness_is_passed_on() {
        for ready in [true, false] {
            let answer = identity(Ok(ready)).probe(Request::new(csi::ProbeRequest {})).await.unwrap();
            assert_eq!(answer.into_inner().ready, Some(ready));
        }
        let failed = identity(Err(Status::failed_precondition("the pool is gone")));
        let status = failed.probe(Request::new(csi::ProbeRequest {})).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "the pool is gone"));
    }
}
