//! The Identity service, the same for every process.

use std::{future::Future, pin::Pin, sync::Arc};

use tonic::{Request, Response, Status};
use varve_proto::csi;

/// The driver's name, as it stands in `CSIDriver` and in every class.
pub const DRIVER: &str = "csi.varve.io";

/// Tells whether the process can serve; the reason where it cannot.
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
