//! The CSI Node service: what the kubelet calls.
//!
//! ```text
//! stage        NodeStageVolume, NodeUnstageVolume      image → device → file system
//! publish      NodePublishVolume, NodeUnpublishVolume  file system or device → where a workload sees it
//! statistics   NodeGetVolumeStats
//! expand       NodeExpandVolume
//! health       NodeGetVolumeHealth, NodeGetStorageHealth
//! access       what a capability asks, and which publications may be at once
//! format       the first mkfs, and the check before every later mount
//! group        fsGroup
//! presence     where a volume is, as the kernel tells
//! ```
//!
//! Requests are checked here, before anything is touched; the files above work on checked values, block, and know nothing
//! of gRPC.
//!
//! # Concurrency
//!
//! Calls that change a volume hold it in the agent's [`Exclusive`](varve_csi::exclusive::Exclusive), and are answered
//! `ABORTED` while another call of this service or of the agent does. Statistics and health hold nothing.
//!
//! # Cancellation
//!
//! The work runs in a blocking task that a caller who leaves does not end, and that [`Agent::stop`] waits for. The volume
//! is held until it ends.

mod access;
mod error;
mod expand;
mod format;
mod group;
mod health;
mod presence;
mod publish;
mod stage;
mod statistics;

use std::{collections::HashMap, path::Path};

use tonic::{Request, Response, Status};
use tracing::Span;
use varve_csi::{
    call,
    capability::Capability,
    capacity::{CapacityRange, wire},
    context, name, status,
};
use varve_proto::csi::{
    self, NodeServiceCapability, VolumeHealth,
    node_server::Node,
    node_service_capability::{Rpc, Type, rpc::Type as Can},
};
use varve_repository::id::VolumeId;

use self::{
    error::{Error, Result},
    presence::Presence,
};
use crate::{agent::Agent, volume::Volume};

/// Everything that the service can do.
const CAPABILITIES: [Can; 7] = [
    Can::StageUnstageVolume,
    Can::GetVolumeStats,
    Can::ExpandVolume,
    Can::SingleNodeMultiWriter,
    Can::VolumeMountGroup,
    Can::GetVolumeHealth,
    Can::GetStorageHealth,
];

/// Serves `csi.v1.Node` for the volumes of an agent's pool.
#[derive(Clone, Debug)]
pub struct NodeService {
    agent: Agent,
}

impl NodeService {
    /// Makes the service. It shares the agent's volumes and keeps nothing itself.
    #[must_use]
    pub fn new(agent: Agent) -> Self {
        Self { agent }
    }

    /// Changes a volume, alone, to the end.
    async fn change<T: Send + 'static>(
        &self,
        id: &str,
        work: impl FnOnce(&Volume) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let id = known(id)?;
        let held = self.agent.exclusive().hold(id.to_string())?;
        let volume = self.volume(id)?;
        self.block(move |_| {
            let _held = held;
            work(&volume)
        })
        .await
    }

    /// Undoes something of a volume, which the node may have lost: what is left of that is undone by `on_remains`, which
    /// tells whether there was anything.
    async fn undo(
        &self,
        id: &str,
        work: impl FnOnce(&Volume) -> Result<()> + Send + 'static,
        on_remains: impl FnOnce(VolumeId, &Presence) -> Result<()> + Send + 'static,
    ) -> Result<(), Status> {
        let id = known(id)?;
        let held = self.agent.exclusive().hold(id.to_string())?;
        let volume = self.agent.volumes().get(&id);
        self.block(move |agent| {
            let _held = held;
            if let Some(volume) = volume {
                return work(&volume);
            }
            let remains = Presence::of_remains(agent.pool(), id)?;
            if remains.device.is_none() {
                return Err(Error::NoVolume(id.to_string()));
            }
            on_remains(id, &remains)
        })
        .await
    }

    /// Looks at a volume.
    async fn look<T: Send + 'static>(
        &self,
        id: &str,
        work: impl FnOnce(&Agent, &Volume) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let volume = self.volume(known(id)?)?;
        self.block(move |agent| work(agent, &volume)).await
    }

    fn volume(&self, id: VolumeId) -> Result<Volume> {
        self.agent.volumes().get(&id).ok_or_else(|| Error::NoVolume(id.to_string()))
    }

    /// Runs work that blocks off the runtime, to its end; [`Agent::stop`] waits for it.
    async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Agent) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let token = self.agent.enter()?;
        let agent = self.agent.clone();
        let span = Span::current();
        let task = tokio::task::spawn_blocking(move || {
            let _token = token;
            span.in_scope(|| work(&agent))
        });
        Ok(task.await.unwrap_or_else(|error| Err(Error::Panicked(error.to_string())))?)
    }
}

/// Reads a volume's id. Text that is no id of ours names no volume that there could be.
fn known(id: &str) -> Result<VolumeId> {
    let id = id.parse().map_err(|_| Error::NoVolume(format!("{id:?}")))?;
    call::volume(id);
    Ok(id)
}

/// Checks the maps of a request.
fn check_maps(maps: [(&str, &HashMap<String, String>); 3]) -> Result<(), Status> {
    maps.into_iter().try_for_each(|(field, map)| name::map(field, map).map(drop))
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = name::required("volume_id", &request.volume_id)?;
        let path = name::path("staging_target_path", &request.staging_target_path)?.to_owned();
        let capability = Capability::parse("volume_capability", request.volume_capability.as_ref())?;
        check_maps([
            ("publish_context", &request.publish_context),
            ("secrets", &request.secrets),
            ("volume_context", &request.volume_context),
        ])?;
        // Publications are read-only, not the staging: see there. What cannot be read is refused as early as it is seen.
        context::is_read_only("publish_context", &request.publish_context)?;
        self.change(id, move |volume| stage::stage(volume, &path, &capability)).await?;
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = name::required("volume_id", &request.volume_id)?;
        let path = name::path("staging_target_path", &request.staging_target_path)?.to_owned();
        let same = path.clone();
        self.undo(
            id,
            move |volume| stage::unstage(volume, &path),
            move |id, remains| stage::put_away(id, remains, &same),
        )
        .await?;
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = name::required("volume_id", &request.volume_id)?;
        let target = name::path("target_path", &request.target_path)?.to_owned();
        let capability = Capability::parse("volume_capability", request.volume_capability.as_ref())?;
        check_maps([
            ("publish_context", &request.publish_context),
            ("secrets", &request.secrets),
            ("volume_context", &request.volume_context),
        ])?;
        // CSI gives this field's absence a code of its own.
        let staging = name::optional_path("staging_target_path", &request.staging_target_path)?
            .ok_or_else(|| Status::failed_precondition("staging_target_path is missing: call NodeStageVolume first"))?
            .to_owned();
        let read_only = request.readonly || context::is_read_only("publish_context", &request.publish_context)?;
        let wanted = publish::Wanted { staging, target, capability, read_only };
        self.change(id, move |volume| publish::publish(volume, &wanted)).await?;
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = name::required("volume_id", &request.volume_id)?;
        let target = name::path("target_path", &request.target_path)?.to_owned();
        let same = target.clone();
        self.undo(
            id,
            move |volume| publish::unpublish(volume, &target),
            move |_, remains| publish::take_away(remains, &same),
        )
        .await?;
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let id = name::required("volume_id", &request.volume_id)?;
        let path = volume_path(&request.volume_path)?.to_owned();
        let usage = self.look(id, move |_, volume| statistics::measure(volume, &path)).await?;
        Ok(Response::new(csi::NodeGetVolumeStatsResponse { usage }))
    }

    async fn node_get_volume_health(
        &self,
        request: Request<csi::NodeGetVolumeHealthRequest>,
    ) -> Result<Response<csi::NodeGetVolumeHealthResponse>, Status> {
        let request = request.into_inner();
        let id = name::required("volume_id", &request.volume_id)?;
        name::optional_path("volume_publish_path", &request.volume_publish_path)?;
        name::optional_path("staging_target_path", &request.staging_target_path)?;
        let found = |agent: &Agent, volume: &Volume| {
            let mut ailments = agent.ailments(volume);
            ailments.extend(health::of_staged(volume));
            Ok(ailments)
        };
        let health_statuses = health::volume_entries(self.look(id, found).await?);
        let volume_health = Some(VolumeHealth { volume_id: request.volume_id, health_statuses });
        Ok(Response::new(csi::NodeGetVolumeHealthResponse { volume_health }))
    }

    async fn node_get_storage_health(
        &self,
        request: Request<csi::NodeGetStorageHealthRequest>,
    ) -> Result<Response<csi::NodeGetStorageHealthResponse>, Status> {
        name::map("secrets", &request.into_inner().secrets)?;
        let mut ailments = self.block(|agent| Ok(agent.pool_ailments())).await?;
        ailments.extend(health::of_repository(self.agent.repository()).await);
        Ok(Response::new(csi::NodeGetStorageHealthResponse { backend_health: health::storage_entries(ailments) }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = name::required("volume_id", &request.volume_id)?;
        let path = volume_path(&request.volume_path)?.to_owned();
        let range = CapacityRange::parse("capacity_range", request.capacity_range.as_ref())?;
        let capability = match &request.volume_capability {
            None => None,
            given => Some(Capability::parse("volume_capability", given.as_ref())?),
        };
        name::map("secrets", &request.secrets)?;
        let bytes = self.change(id, move |volume| expand::expand(volume, &path, range, capability.as_ref())).await?;
        Ok(Response::new(csi::NodeExpandVolumeResponse { capacity_bytes: wire(bytes) }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let capabilities = CAPABILITIES
            .map(|can| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: can.into() })) })
            .to_vec();
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let node_id = self.agent.node_id().to_owned();
        let topology = varve_csi::topology::of(&node_id);
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id,
            // 0 where nothing but the pool's room limits them, which is not a number of volumes.
            max_volumes_per_node: self.agent.config().max_volumes.map_or(0, |most| i64::from(most.get())),
            accessible_topology: Some(topology),
        }))
    }
}

/// Checks a path that has to be where a volume is: any text that is not is answered `NOT_FOUND`, absolute or not.
fn volume_path(path: &str) -> Result<&Path, Status> {
    if path.is_empty() { Err(status::missing("volume_path")) } else { Ok(Path::new(path)) }
}
