//! Nodes with pools in files, and a repository that they share. Everything is put away on drop.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tonic::{Code, Request, Status};
use varve_csi::capability::Filesystem;
use varve_node::{
    agent::Agent,
    config::Config,
    device::{LoopDevice, Options},
    filesystem,
    pool::{Kind, Location, Pool},
    volume::{Access, Staged, Volume},
    watermark::Marks,
};
use varve_proto::agent::{self as proto, agent_server::Agent as _, create_image_request::Source};
use varve_repository::{
    Repository, SnapshotState,
    crypto::MasterKey,
    id::{SnapshotId, VolumeId},
    record::{
        snapshot::Root,
        volume::{Presentation, VolumeRecord},
    },
    seam::{Seams, System},
    store::Store,
};

use crate::gate::Gate;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const BLOCK: u64 = 4096;
/// Longer than any offload of a test takes.
pub(crate) const LONG: u32 = 120_000;

/// A folder with a repository, and the kind of pool that its nodes have.
pub(crate) struct Site {
    folder: TempDir,
    kind: Kind,
    /// How large its pools are, in bytes.
    pub(crate) pool_bytes: u64,
    pub(crate) marks: Marks,
    pub(crate) repository: Repository,
}

impl Site {
    /// With a repository in a local folder.
    pub(crate) async fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("file://{}", folder.path().join("repository").display());
        let store = Store::open(&url, &[]).expect("a local folder will do");
        Self::with(folder, kind, store).await
    }

    /// With a repository in memory, behind a gate.
    pub(crate) async fn gated(kind: Kind) -> (Self, Arc<Gate>) {
        let gate = Arc::new(Gate::new());
        let store = Store::new(Arc::clone(&gate) as Arc<_>, "memory:///");
        (Self::with(tempfile::tempdir().expect("a temporary folder"), kind, store).await, gate)
    }

    async fn with(folder: TempDir, kind: Kind, store: Store) -> Self {
        let master = MasterKey::generate(&System);
        let repository = Repository::init(store, &master, Seams::system()).await.expect("a new repository");
        Self { folder, kind, pool_bytes: 1024 * MIB, marks: Marks::default(), repository }
    }

    /// Flips a bit of every pack in the repository's folder.
    pub(crate) fn damage_packs(&self) {
        for entry in fs::read_dir(self.folder.path().join("repository/packs")).expect("there are packs") {
            let path = entry.expect("it is listed").path();
            let mut bytes = fs::read(&path).expect("it is read");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(&path, bytes).expect("it is written");
        }
    }

    pub(crate) fn location(&self, name: &str) -> Location {
        Location::Image {
            file: self.folder.path().join(format!("{name}.img")),
            bytes: self.pool_bytes,
            filesystem: self.kind,
        }
    }

    pub(crate) fn config(&self, name: &str) -> Config {
        Config {
            node_id: name.into(),
            pool: self.location(name),
            overcommit: 2.0,
            marks: self.marks,
            offloads: 2,
            offload_limits: Default::default(),
            freeze_limit: Duration::from_secs(20),
            sentinel: None,
            max_volumes: None,
            observer: None,
        }
    }

    /// Starts the node of that name, on the pool that it left or on a new one.
    pub(crate) async fn node(&self, name: &str) -> Node {
        self.start(self.config(name)).await
    }

    /// Starts a node that is configured so.
    pub(crate) async fn start(&self, config: Config) -> Node {
        let pool = Pool::open(&config.pool).expect("a pool");
        let agent = Agent::start(config, pool, self.repository.clone()).await.expect("the agent starts");
        Node { agent, mounts: self.folder.path().join("mounts") }
    }

    pub(crate) fn snapshot(&self, name: &str) -> SnapshotId {
        self.repository.snapshot_id(name, 0)
    }

    pub(crate) fn volume(&self, name: &str) -> VolumeId {
        self.repository.volume_id(name)
    }

    /// Reads the root of a snapshot that is committed.
    pub(crate) async fn root(&self, name: &str) -> Root {
        match self.repository.snapshot(self.snapshot(name)).await.expect("the repository answers") {
            SnapshotState::Committed(root) => *root,
            other => panic!("snapshot {name} is not committed: {other:?}"),
        }
    }

    pub(crate) fn wanted(&self, name: &str, bytes: u64) -> proto::CreateImageRequest {
        proto::CreateImageRequest {
            volume_id: self.volume(name).to_string(),
            volume_name: name.into(),
            incarnation: "0190e5c4-0000-4000-8000-000000000001".into(),
            capacity_bytes: bytes,
            presentation: "ext4".into(),
            source: None,
            offload: None,
            parameters: [].into(),
        }
    }

    pub(crate) fn wanted_from(&self, name: &str, bytes: u64, snapshot: &str) -> proto::CreateImageRequest {
        let source = Some(Source::SourceSnapshotId(self.snapshot(snapshot).to_string()));
        proto::CreateImageRequest { source, ..self.wanted(name, bytes) }
    }

    /// What cuts of (snapshot, volume) at one instant are asked for with.
    pub(crate) fn wanted_cuts(&self, members: &[(&str, &str)], wait_millis: u32) -> proto::CreateCutsRequest {
        let members: Vec<_> = members
            .iter()
            .map(|(snapshot, volume)| proto::create_cuts_request::Member {
                snapshot_id: self.snapshot(snapshot).to_string(),
                snapshot_name: (*snapshot).into(),
                volume_id: self.volume(volume).to_string(),
                parameters: [("of".to_owned(), (*volume).to_owned())].into(),
            })
            .collect();
        let group_id = if members.len() > 1 { self.repository.group_id("group").to_string() } else { String::new() };
        proto::CreateCutsRequest { members, group_id, durability: 0, parameters: [].into(), wait_millis }
    }
}

/// A node that runs.
pub(crate) struct Node {
    pub(crate) agent: Agent,
    mounts: PathBuf,
}

impl Node {
    /// Claims the volume's record, as the controller does, and makes its image.
    pub(crate) async fn create(&self, request: proto::CreateImageRequest) -> Result<(), Status> {
        if let (Ok(id), Ok(incarnation)) = (request.volume_id.parse(), request.incarnation.parse()) {
            let record = VolumeRecord {
                id,
                name: request.volume_name.clone(),
                incarnation,
                capacity_bytes: request.capacity_bytes,
                presentation: Presentation::Ext4,
                home_node: self.agent.node_id().into(),
                source: None,
                offload: Default::default(),
                parameters: [].into(),
                created_at: jiff::Timestamp::UNIX_EPOCH,
                complete: true,
                published: None,
            };
            self.agent.repository().claim_volume(record).await.expect("claimed");
        }
        self.agent.create_image(Request::new(request)).await.map(|_| ())
    }

    pub(crate) async fn delete(&self, volume: VolumeId) -> Result<(), Status> {
        let request = proto::DeleteImageRequest { volume_id: volume.to_string() };
        self.agent.delete_image(Request::new(request)).await.map(|_| ())
    }

    pub(crate) async fn expand(
        &self,
        volume: VolumeId,
        capacity_bytes: u64,
    ) -> Result<proto::ExpandImageResponse, Status> {
        let request = proto::ExpandImageRequest { volume_id: volume.to_string(), capacity_bytes };
        self.agent.expand_image(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn images(&self) -> Vec<proto::Image> {
        let request = Request::new(proto::ListImagesRequest::default());
        self.agent.list_images(request).await.expect("images are listed").into_inner().images
    }

    pub(crate) async fn pool(&self) -> proto::GetPoolResponse {
        self.agent.get_pool(Request::new(proto::GetPoolRequest {})).await.expect("the pool is told").into_inner()
    }

    pub(crate) async fn cut(&self, request: proto::CreateCutsRequest) -> Result<Vec<proto::Cut>, Status> {
        self.agent.create_cuts(Request::new(request)).await.map(|response| response.into_inner().cuts)
    }

    /// Cuts, and waits until everything is in the repository.
    pub(crate) async fn back_up(&self, request: proto::CreateCutsRequest) -> Vec<proto::Cut> {
        let cuts = self.cut(proto::CreateCutsRequest { wait_millis: LONG, ..request }).await.expect("cut");
        for cut in &cuts {
            assert_eq!(cut.state(), proto::cut::State::Ready, "{cut:?}");
        }
        cuts
    }

    pub(crate) async fn cuts(&self) -> Vec<proto::Cut> {
        let request = Request::new(proto::ListCutsRequest::default());
        self.agent.list_cuts(request).await.expect("cuts are listed").into_inner().cuts
    }

    pub(crate) async fn activities(&self) -> Vec<proto::Activity> {
        let request = Request::new(proto::ListActivitiesRequest {});
        self.agent.list_activities(request).await.expect("activities are listed").into_inner().activities
    }

    pub(crate) async fn delete_cut(&self, snapshot: SnapshotId) -> Result<(), Status> {
        let request = proto::DeleteCutRequest { snapshot_id: snapshot.to_string() };
        self.agent.delete_cut(Request::new(request)).await.map(|_| ())
    }

    /// Waits until a cut is nothing more than a base, or gone.
    pub(crate) async fn settled(&self, snapshot: SnapshotId) {
        if let Some(cut) = self.agent.cuts().get(&snapshot) {
            let _ = cut.status().wait_for(|status| status.is_settled()).await;
        }
    }

    /// Waits until a cut is gone.
    pub(crate) async fn gone(&self, snapshot: SnapshotId) {
        if let Some(cut) = self.agent.cuts().get(&snapshot) {
            let gone = |status: &varve_node::cut::Status| *status == varve_node::cut::Status::Removed;
            cut.status().wait_for(gone).await.expect("the cut is removed before it is forgotten");
        }
    }

    pub(crate) fn volume(&self, id: VolumeId) -> Volume {
        self.agent.volumes().get(&id).expect("the volume is here")
    }

    /// Attaches a volume's image, makes a file system where it is blank, and mounts it, as staging does.
    pub(crate) fn stage(&self, id: VolumeId) -> Mounted {
        let volume = self.volume(id);
        let target = self.mounts.join(id.to_string());
        fs::create_dir_all(&target).expect("a mount point");
        let device = LoopDevice::attach_or_find(&volume.image(), Options::default()).expect("attached");
        if filesystem::probe(&device.path()).expect("probed") == filesystem::Content::Blank {
            filesystem::make(&device.path(), Filesystem::Ext4).expect("formatted");
        }
        filesystem::mount(&device.path(), &target, Filesystem::Ext4, &[], false).expect("mounted");
        let access = Access::Mount { flags: vec![], group: None };
        let staged = Staged { path: target.clone(), access, publications: vec![] };
        volume.set_staged(Some(staged)).expect("written down");
        Mounted { volume, device, target }
    }

    /// Stops the node as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.agent.stop().await;
        self.agent.pool().close().expect("the pool is put away");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.agent.stop()));
        if let Err(error) = self.agent.pool().close() {
            eprintln!("the pool is not put away: {error:?}");
        }
    }
}

/// A staged volume; unstaged on drop.
pub(crate) struct Mounted {
    volume: Volume,
    pub(crate) device: LoopDevice,
    pub(crate) target: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = filesystem::unmount(&self.target).map_err(|error| format!("{error:?}"));
        let detached = self.device.detach().map_err(|error| format!("{error:?}"));
        let forgotten = self.volume.set_staged(None).map_err(|error| format!("{error:?}"));
        if let Err(error) = unmounted.and(detached).and(forgotten) {
            eprintln!("{} is not unstaged: {error}", self.target.display());
        }
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = (0..bytes / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    });
    words.collect()
}

/// Writes noise into an image that is not attached.
pub(crate) fn write(image: &Path, offset: u64, seed: u64, bytes: u64) {
    let file = File::options().write(true).open(image).expect("the image is there");
    file.write_all_at(&noise(seed, bytes), offset).expect("written");
    file.sync_all().expect("synced");
}

/// Asserts the code of a failure.
pub(crate) fn fails_with<T: std::fmt::Debug>(result: Result<T, Status>, code: Code) -> Status {
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
