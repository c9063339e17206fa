//! What Kubernetes asks of a driver, in its order: provision, stage, publish, snapshot, and all of it back.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use tokio::time::sleep;
use tonic::{Code, Response, Status, transport::Channel};
use varve_proto::csi::{
    CapacityRange, CreateSnapshotRequest, CreateVolumeRequest, DeleteVolumeRequest, NodeGetInfoRequest,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, Snapshot,
    TopologyRequirement, VolumeCapability, VolumeContentSource,
    controller_client::ControllerClient,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
    volume_content_source::{SnapshotSource, Type},
};

/// How long to wait before a call is made again.
const AGAIN: Duration = Duration::from_millis(100);

/// The driver, as Kubernetes sees it.
#[derive(Clone, Debug)]
pub(crate) struct Kubelet {
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
    folder: PathBuf,
}

/// A volume that is mounted for a workload.
#[derive(Clone, Debug)]
pub(crate) struct Mounted {
    id: String,
    staging: PathBuf,
    target: PathBuf,
}

impl Mounted {
    /// The volume's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Where the workload sees it.
    pub(crate) fn path(&self) -> &Path {
        &self.target
    }
}

impl Kubelet {
    /// Speaks to a driver; volumes are mounted below `folder`.
    pub(crate) fn new(channel: Channel, folder: PathBuf) -> Self {
        Self { controller: ControllerClient::new(channel.clone()), node: NodeClient::new(channel), folder }
    }

    /// Provisions a volume, empty or from a snapshot; returns its id when it can be staged.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn provision(&self, name: &str, bytes: u64, snapshot: Option<&str>) -> anyhow::Result<String> {
        let info = self.node.clone().node_get_info(NodeGetInfoRequest {}).await.context("NodeGetInfo")?.into_inner();
        let topology: Vec<_> = info.accessible_topology.into_iter().collect();
        let request = CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(CapacityRange {
                required_bytes: i64::try_from(bytes).context("the volume is too large")?,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![capability()],
            accessibility_requirements: Some(TopologyRequirement { requisite: topology.clone(), preferred: topology }),
            volume_content_source: snapshot.map(|id| VolumeContentSource {
                r#type: Some(Type::Snapshot(SnapshotSource { snapshot_id: id.into() })),
            }),
            ..Default::default()
        };
        let answer = patiently("CreateVolume", || {
            let (mut client, request) = (self.controller.clone(), request.clone());
            async move { client.create_volume(request).await }
        })
        .await?;
        Ok(answer.volume.context("CreateVolume answered no volume")?.volume_id)
    }

    /// Stages and publishes a volume.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn mount(&self, id: &str) -> anyhow::Result<Mounted> {
        let staging = self.folder.join("staging").join(id);
        let pod = self.folder.join("pods").join(id);
        fs::create_dir_all(&staging).context("making the staging folder")?;
        fs::create_dir_all(&pod).context("making the pod's folder")?;
        let mounted = Mounted { id: id.into(), staging, target: pod.join("mount") };
        let stage = NodeStageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: text(&mounted.staging)?,
            volume_capability: Some(capability()),
            ..Default::default()
        };
        self.node.clone().node_stage_volume(stage).await.map_err(|status| refused("NodeStageVolume", &status))?;
        let publish = NodePublishVolumeRequest {
            volume_id: id.into(),
            staging_target_path: text(&mounted.staging)?,
            target_path: text(&mounted.target)?,
            volume_capability: Some(capability()),
            ..Default::default()
        };
        self.node.clone().node_publish_volume(publish).await.map_err(|status| refused("NodePublishVolume", &status))?;
        Ok(mounted)
    }

    /// Unpublishes, unstages and deletes a volume.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn discard(&self, mounted: Mounted) -> anyhow::Result<()> {
        let unpublish =
            NodeUnpublishVolumeRequest { volume_id: mounted.id.clone(), target_path: text(&mounted.target)? };
        let mut node = self.node.clone();
        node.node_unpublish_volume(unpublish).await.map_err(|status| refused("NodeUnpublishVolume", &status))?;
        let unstage =
            NodeUnstageVolumeRequest { volume_id: mounted.id.clone(), staging_target_path: text(&mounted.staging)? };
        node.node_unstage_volume(unstage).await.map_err(|status| refused("NodeUnstageVolume", &status))?;
        let request = DeleteVolumeRequest { volume_id: mounted.id, ..Default::default() };
        patiently("DeleteVolume", || {
            let (mut client, request) = (self.controller.clone(), request.clone());
            async move { client.delete_volume(request).await }
        })
        .await?;
        Ok(())
    }

    /// Asks for a snapshot once; it need not be ready.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn cut(&self, volume: &str, name: &str) -> anyhow::Result<Snapshot> {
        let request =
            CreateSnapshotRequest { source_volume_id: volume.into(), name: name.into(), ..Default::default() };
        patiently("CreateSnapshot", || {
            let (mut client, request) = (self.controller.clone(), request.clone());
            async move { client.create_snapshot(request).await }
        })
        .await?
        .snapshot
        .context("CreateSnapshot answered no snapshot")
    }

    /// Asks for a snapshot again and again until it is ready.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn wait_until_ready(&self, volume: &str, name: &str) -> anyhow::Result<Snapshot> {
        loop {
            let snapshot = self.cut(volume, name).await?;
            if snapshot.ready_to_use {
                return Ok(snapshot);
            }
            sleep(AGAIN).await;
        }
    }
}

/// Makes a call until it is answered for good, as the sidecars do.
async fn patiently<T, F>(call: &str, mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    loop {
        match attempt().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if matches!(status.code(), Code::Aborted | Code::DeadlineExceeded) => sleep(AGAIN).await,
            Err(status) => return Err(refused(call, &status)),
        }
    }
}

fn refused(call: &str, status: &Status) -> anyhow::Error {
    anyhow!("{call} was refused with {:?}: {}", status.code(), status.message())
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(AccessType::Mount(MountVolume { fs_type: "ext4".into(), ..Default::default() })),
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("the temporary folder's path is not UTF-8")?.to_owned())
}
