//! A node with a pool in a file, and a caller that asks as the kubelet does. Everything is put away on drop.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tonic::{Code, Request, Status};
use varve_node::{
    agent::Agent,
    config::Config,
    device, filesystem,
    pool::{Kind, Location, Pool, PoolErrorKind},
    service::NodeService,
    volume::Volume,
    watermark::Marks,
};
use varve_proto::{
    agent::{self as proto, agent_server::Agent as _},
    csi::{
        self,
        node_server::Node as _,
        volume_capability::{
            AccessMode, AccessType, BlockVolume, MountVolume,
            access_mode::Mode::{self, SingleNodeMultiWriter},
        },
    },
};
use varve_repository::{
    Repository,
    crypto::MasterKey,
    id::VolumeId,
    record::volume::{OffloadParameters, Presentation, VolumeRecord},
    seam::{Seams, System},
    store::Store,
};

pub const MIB: u64 = 1 << 20;
/// Room enough for the smallest XFS.
pub const SIZE: u64 = 320 * MIB;

/// A folder with a repository in it, and with the pool and the mounts of a node.
pub struct Site {
    folder: PathBuf,
    kind: Kind,
    pub repository: Repository,
    /// Its owner puts away what is left; others leave it alone.
    owned: Option<TempDir>,
}

impl Site {
    pub async fn new(kind: Kind) -> Self {
        let owned = tempfile::tempdir().expect("a temporary folder");
        let folder = owned.path().to_owned();
        for name in ["staging", "targets"] {
            fs::create_dir(folder.join(name)).expect("made");
        }
        MasterKey::generate(&System).write_new(&folder.join("key")).expect("a key");
        let mut site = Self::at(&folder, kind).await;
        site.owned = Some(owned);
        site
    }

    /// The site that another process owns.
    pub async fn at(folder: &Path, kind: Kind) -> Self {
        let url = format!("file://{}", folder.join("repository").display());
        let store = Store::open(&url, &[]).expect("a local folder will do");
        let key = MasterKey::from_file(&folder.join("key")).expect("the key is there");
        let repository = Repository::open_or_init(store, &key, Seams::system()).await.expect("a repository");
        Self { folder: folder.to_owned(), kind, repository, owned: None }
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Starts the node, on the pool that it left or on a new one.
    pub async fn start(&self) -> Node<'_> {
        let file = self.path().join("pool.img");
        let config = Config {
            node_id: "node-1".into(),
            pool: Location::Image { file, bytes: 2048 * MIB, filesystem: self.kind },
            overcommit: 2.0,
            marks: Marks::default(),
            offloads: 1,
            offload_limits: Default::default(),
            freeze_limit: Duration::from_secs(20),
            sentinel: None,
            max_volumes: None,
            observer: None,
        };
        let pool = open(&config.pool).await;
        let agent = Agent::start(config, pool, self.repository.clone()).await.expect("the agent starts");
        Node { site: self, service: NodeService::new(agent.clone()), agent }
    }

    /// What is mounted below the folder, the pool apart.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let places = [self.path().join("staging"), self.path().join("targets")];
        let mounts = filesystem::mounts().expect("mounts are listed").into_iter().map(|mount| mount.target);
        mounts.filter(|target| places.iter().any(|place| target.starts_with(place))).collect()
    }
}

impl Drop for Site {
    /// Puts away what a test left that failed.
    fn drop(&mut self) {
        if self.owned.is_none() {
            return;
        }
        let mounts = filesystem::mounts().unwrap_or_default();
        for mount in mounts.into_iter().rev().filter(|mount| mount.target.starts_with(self.path())) {
            // What is mounted in the pool holds it.
            for (device, _) in device::all_below(&mount.target).unwrap_or_default() {
                let _ = device.set_read_only(false).and_then(|()| device.detach());
            }
            if let Err(error) = filesystem::unmount(&mount.target) {
                eprintln!("{} is not unmounted: {error:?}", mount.target.display());
            }
        }
        for (device, _) in device::all_below(self.path()).unwrap_or_default() {
            let _ = device.detach();
        }
    }
}

/// Opens the pool. A program that another test starts at this moment has the lock too until it runs: a moment later it
/// has not.
async fn open(location: &Location) -> Pool {
    for _ in 0..1000 {
        match Pool::open(location) {
            Err(error) if error.kind() == PoolErrorKind::InUse => tokio::task::yield_now().await,
            opened => return opened.expect("a pool"),
        }
    }
    panic!("the pool stays in use");
}

/// A node that runs.
pub struct Node<'a> {
    pub site: &'a Site,
    pub agent: Agent,
    pub service: NodeService,
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.agent.stop()));
        if let Err(error) = self.agent.pool().close() {
            eprintln!("the pool is not put away: {error:?}");
        }
    }
}

impl Node<'_> {
    /// The attached images.
    pub fn devices(&self) -> Vec<(device::LoopDevice, PathBuf)> {
        device::all_below(&self.agent.pool().volumes_dir()).expect("devices are listed")
    }

    /// The node is killed and comes back: nothing is told, nothing is put away.
    pub async fn restart(self) -> Self {
        let site = self.site;
        drop(self);
        site.start().await
    }

    pub async fn create(&self, name: &str, presentation: &str) -> Claim {
        self.create_from(None, name, presentation).await
    }

    /// Clones an ext4 volume.
    pub async fn clone_of(&self, source: &Claim, name: &str) -> Claim {
        let source = proto::create_image_request::Source::SourceVolumeId(source.id.to_string());
        self.create_from(Some(source), name, "ext4").await
    }

    async fn create_from(
        &self,
        source: Option<proto::create_image_request::Source>,
        name: &str,
        presentation: &str,
    ) -> Claim {
        let id = self.site.repository.volume_id(name);
        let request = proto::CreateImageRequest {
            volume_id: id.to_string(),
            volume_name: name.into(),
            incarnation: "0190e5c4-0000-4000-8000-000000000001".into(),
            capacity_bytes: SIZE,
            presentation: presentation.into(),
            source,
            offload: None,
            parameters: [].into(),
        };
        let record = VolumeRecord {
            id,
            name: name.into(),
            incarnation: request.incarnation.parse().expect("a uuid"),
            capacity_bytes: SIZE,
            presentation: match presentation {
                "ext4" => Presentation::Ext4,
                "xfs" => Presentation::Xfs,
                _ => Presentation::Block,
            },
            home_node: self.agent.node_id().into(),
            source: None,
            offload: OffloadParameters::default(),
            parameters: [].into(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            complete: true,
            published: None,
        };
        self.site.repository.claim_volume(record).await.expect("claimed");
        self.agent.create_image(Request::new(request)).await.expect("the image is made");
        self.claim(name, presentation)
    }

    /// How a volume is asked for that is there.
    pub fn claim(&self, name: &str, presentation: &str) -> Claim {
        let staging = self.site.path().join("staging").join(name);
        fs::create_dir_all(&staging).expect("a staging folder");
        Claim {
            id: self.site.repository.volume_id(name),
            staging,
            targets: self.site.path().join("targets"),
            block: presentation == "block",
            mode: SingleNodeMultiWriter,
            flags: vec![],
            group: String::new(),
        }
    }

    pub async fn delete(&self, claim: &Claim) -> Result<(), Status> {
        let request = proto::DeleteImageRequest { volume_id: claim.id.to_string() };
        self.agent.delete_image(Request::new(request)).await.map(drop)
    }

    pub async fn grow(&self, claim: &Claim, capacity_bytes: u64) {
        let request = proto::ExpandImageRequest { volume_id: claim.id.to_string(), capacity_bytes };
        self.agent.expand_image(Request::new(request)).await.expect("the image grows");
    }

    pub fn volume(&self, claim: &Claim) -> Volume {
        self.agent.volumes().get(&claim.id).expect("the volume is here")
    }

    pub async fn stage(&self, claim: &Claim) -> Result<(), Status> {
        self.service.node_stage_volume(Request::new(claim.stage())).await.map(drop)
    }

    pub async fn unstage(&self, claim: &Claim) -> Result<(), Status> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: claim.id.to_string(),
            staging_target_path: text(&claim.staging),
        };
        self.service.node_unstage_volume(Request::new(request)).await.map(drop)
    }

    pub async fn publish(&self, claim: &Claim, name: &str, readonly: bool) -> Result<PathBuf, Status> {
        let request = claim.publish(name, readonly);
        self.service.node_publish_volume(Request::new(request)).await.map(|_| claim.target(name))
    }

    pub async fn unpublish(&self, claim: &Claim, name: &str) -> Result<(), Status> {
        let request =
            csi::NodeUnpublishVolumeRequest { volume_id: claim.id.to_string(), target_path: text(&claim.target(name)) };
        self.service.node_unpublish_volume(Request::new(request)).await.map(drop)
    }

    pub async fn statistics(&self, claim: &Claim, path: &Path) -> Result<Vec<csi::VolumeUsage>, Status> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: claim.id.to_string(),
            volume_path: text(path),
            ..Default::default()
        };
        let answer = self.service.node_get_volume_stats(Request::new(request)).await?;
        Ok(answer.into_inner().usage)
    }

    pub async fn expand(&self, claim: &Claim, path: &Path, required: u64) -> Result<u64, Status> {
        let required_bytes = i64::try_from(required).expect("small");
        let request = csi::NodeExpandVolumeRequest {
            volume_id: claim.id.to_string(),
            volume_path: text(path),
            capacity_range: Some(csi::CapacityRange { required_bytes, limit_bytes: 0 }),
            volume_capability: Some(claim.capability()),
            ..Default::default()
        };
        let answer = self.service.node_expand_volume(Request::new(request)).await?;
        Ok(answer.into_inner().capacity_bytes.unsigned_abs())
    }

    /// What is the matter with the volume: status and reason.
    pub async fn health(&self, claim: &Claim) -> Vec<(csi::VolumeHealthErrorType, String)> {
        let request = csi::NodeGetVolumeHealthRequest { volume_id: claim.id.to_string(), ..Default::default() };
        let answer = self.service.node_get_volume_health(Request::new(request)).await.expect("health is told");
        let health = answer.into_inner().volume_health.expect("health");
        assert_eq!(health.volume_id, claim.id.to_string());
        health.health_statuses.into_iter().map(|entry| (entry.status(), entry.reason)).collect()
    }

    /// Unpublishes and unstages, and asserts that nothing is left.
    pub async fn put_away(&self, claim: &Claim, targets: &[&str]) {
        for target in targets {
            self.unpublish(claim, target).await.expect("unpublished");
            assert!(!claim.target(target).exists(), "the target is removed");
        }
        self.unstage(claim).await.expect("unstaged");
        assert_eq!(self.devices(), [], "nothing is attached");
        assert_eq!(self.site.mounts(), Vec::<PathBuf>::new(), "nothing is mounted");
        assert_eq!(self.volume(claim).staged(), None);
        assert!(!self.volume(claim).folder().join("staged.json").exists());
    }
}

/// How a volume is asked for.
#[derive(Clone, Debug)]
pub struct Claim {
    pub id: VolumeId,
    pub staging: PathBuf,
    pub targets: PathBuf,
    pub block: bool,
    pub mode: Mode,
    pub flags: Vec<String>,
    pub group: String,
}

impl Claim {
    pub fn capability(&self) -> csi::VolumeCapability {
        let access_type = if self.block {
            AccessType::Block(BlockVolume {})
        } else {
            AccessType::Mount(MountVolume {
                fs_type: String::new(),
                mount_flags: self.flags.clone(),
                volume_mount_group: self.group.clone(),
            })
        };
        csi::VolumeCapability {
            access_type: Some(access_type),
            access_mode: Some(AccessMode { mode: self.mode.into() }),
        }
    }

    pub fn stage(&self) -> csi::NodeStageVolumeRequest {
        csi::NodeStageVolumeRequest {
            volume_id: self.id.to_string(),
            staging_target_path: text(&self.staging),
            volume_capability: Some(self.capability()),
            ..Default::default()
        }
    }

    pub fn publish(&self, name: &str, readonly: bool) -> csi::NodePublishVolumeRequest {
        csi::NodePublishVolumeRequest {
            volume_id: self.id.to_string(),
            staging_target_path: text(&self.staging),
            target_path: text(&self.target(name)),
            volume_capability: Some(self.capability()),
            readonly,
            ..Default::default()
        }
    }

    pub fn target(&self, name: &str) -> PathBuf {
        self.targets.join(name)
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("test paths are UTF-8").to_owned()
}

/// Asserts the code of a failure.
pub fn fails_with<T: std::fmt::Debug>(result: Result<T, Status>, code: Code) -> Status {
    let status = result.expect_err("a failure");
    assert_eq!(status.code(), code, "{status:?}");
    status
}

/// Makes each test one for XFS pools and one for btrfs pools.
#[macro_export]
macro_rules! on_both_pools {
    ($($name:ident),* $(,)?) => {
        mod xfs {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(varve_node::pool::Kind::Xfs).await;
            })*
        }
        mod btrfs {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(varve_node::pool::Kind::Btrfs).await;
            })*
        }
    };
}
