//! Repositories that are to decay.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use varve_repository::{
    Claim, Repository, Result, collect,
    crypto::MasterKey,
    id::SnapshotId,
    offload::Against,
    progress::Progress,
    record::{
        snapshot::{Root, SnapshotDescription},
        volume::{OffloadParameters, Presentation, VolumeRecord},
    },
    seam::{Seams, Work},
};

use crate::{
    image::{self, Image, Seeded},
    storage::{Memory, Operation, Stop},
};

/// A snapshot that was committed, and what it must restore to.
pub(crate) struct Taken {
    pub(crate) id: SnapshotId,
    pub(crate) deleted: bool,
    pub(crate) truth: Arc<Vec<u8>>,
    /// The objects that a restore reads.
    reads: BTreeSet<String>,
}

impl Taken {
    /// Tells whether a restore reads the object; what it does not read cannot change its outcome.
    pub(crate) fn reads(&self, key: &str) -> bool {
        self.reads.contains(key)
    }
}

/// A repository, what it must restore to, and what its objects once were.
pub(crate) struct Scene {
    pub(crate) runtime: Runtime,
    pub(crate) memory: Arc<Memory>,
    pub(crate) repository: Repository,
    pub(crate) taken: Vec<Taken>,
    /// Whether packs were repacked.
    pub(crate) repacked: bool,
    /// Earlier versions of objects that changed.
    pub(crate) history: BTreeMap<String, Vec<Vec<u8>>>,
    /// What stands there now.
    now: BTreeMap<String, Vec<u8>>,
}

fn seams() -> Seams {
    Seams { work: Work::Inline, ..image::seams(1) }
}

impl Scene {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let memory = Memory::new();
        let master = image::master();
        let repository = runtime.block_on(Repository::init(memory.store(), &master, seams())).unwrap();
        Self {
            runtime,
            memory,
            repository,
            taken: Vec::new(),
            repacked: false,
            history: BTreeMap::new(),
            now: BTreeMap::new(),
        }
    }

    /// Opens the repository anew.
    pub(crate) async fn open(&self) -> Result<Repository> {
        Repository::open(self.memory.store(), &image::master(), seams()).await
    }

    /// Tells whether anything depends on an object: a record does on none, and what only deleted snapshots refer to, or an
    /// offload that is under way, does on nobody's.
    pub(crate) fn is_referred_to(&self, key: &str) -> bool {
        let of_a_root = ["packs/", "runs/", "relocated/"].iter().any(|folder| key.starts_with(folder));
        !of_a_root || self.taken.iter().any(|taken| taken.reads(key))
    }

    /// Remembers what objects are now, and were before they changed.
    async fn remember(&mut self) {
        let now: BTreeMap<_, _> = self.memory.objects().await.into_iter().collect();
        for (key, before) in std::mem::replace(&mut self.now, now) {
            if self.now.get(&key).is_some_and(|now| *now != before) {
                self.history.entry(key).or_default().push(before);
            }
        }
    }

    /// Notes what each restore reads, and that it is right.
    async fn rehearse(&mut self) {
        for number in 0..self.taken.len() {
            let repository = self.open().await.unwrap();
            self.memory.arm(None);
            let restored = crate::restore(&repository, &self.taken[number]).await;
            assert!(restored.is_ok() != self.taken[number].deleted, "{restored:?}");
            let reads = self.memory.operations().into_iter().filter_map(|operation| match operation {
                Operation::Get(key) => Some(key),
                _ => None,
            });
            self.taken[number].reads = reads.collect();
        }
        // The `repository` object is read by whoever opens it, before any restore.
        assert_eq!(crate::check(&self.repository).await.damages, []);
    }

    fn describe(&self, volume: &str, name: &str, capacity_bytes: u64) -> SnapshotDescription {
        SnapshotDescription {
            volume: self.repository.volume_id(volume),
            volume_name: volume.into(),
            ..image::describe(&self.repository, name, capacity_bytes)
        }
    }

    /// Takes a snapshot of a volume; it counts as taken from now on.
    async fn take(&mut self, volume: &str, name: &str, image: &mut Image, against: Against) -> Root {
        let cut = image.cut();
        let mut request = image::request(&self.repository, name, &cut, against);
        request.description = self.describe(volume, name, cut.bytes.len() as u64);
        let root = self.repository.offload(request).await.unwrap();
        self.taken.push(Taken { id: root.description.id, deleted: false, truth: cut.bytes, reads: BTreeSet::new() });
        self.remember().await;
        root
    }

    async fn collect(&mut self) {
        let options = collect::Options::default();
        self.repository.collect(&options, Progress::default(), CancellationToken::new()).await.unwrap();
        self.remember().await;
    }

    async fn delete(&mut self, id: SnapshotId) {
        self.repository.delete_snapshot(id, "deleted").await.unwrap();
        for taken in self.taken.iter_mut().filter(|taken| taken.id == id) {
            taken.deleted = true;
        }
        self.remember().await;
    }

    /// Claims a volume, and completes it, so that its record has an earlier version.
    async fn claim(&mut self, name: &str) {
        let record = VolumeRecord {
            id: self.repository.volume_id(name),
            name: name.into(),
            incarnation: Uuid::from_u128(7),
            capacity_bytes: 1 << 20,
            presentation: Presentation::Block,
            home_node: "node".into(),
            source: None,
            offload: OffloadParameters::default(),
            parameters: BTreeMap::new(),
            created_at: Timestamp::UNIX_EPOCH,
            complete: false,
            published: None,
        };
        let claimed = self.repository.claim_volume(record.clone()).await.unwrap();
        assert!(matches!(claimed, Claim::Created(_)));
        self.remember().await;
        let current = self.repository.volume(record.id).await.unwrap().unwrap();
        self.repository.update_volume(current, VolumeRecord { complete: true, ..record }).await.unwrap();
        self.remember().await;
    }

    /// Begins an offload again and again and lets it die later each time, until it has put a pack: an intent of several
    /// attempts stays, and the pack.
    async fn leave_unfinished(&mut self, volume: &str, name: &str, image: &mut Image) {
        let cut = image.cut();
        for operation in 0.. {
            let mut request = image::request(&self.repository, name, &cut, Against::Nothing);
            request.description = self.describe(volume, name, cut.bytes.len() as u64);
            self.memory.arm(Some(Stop::After(operation)));
            assert!(self.repository.offload(request).await.is_err());
            let put = self.memory.puts().iter().any(|(key, _)| key.starts_with("packs/"));
            self.memory.arm(None);
            self.remember().await;
            if put {
                return;
            }
        }
    }
}

/// Some hundred objects: five volumes with snapshots that build upon one another, some of them deleted, and the traces of
/// an offload that died.
pub(crate) fn many() -> Scene {
    let mut scene = Scene::new();
    let runtime = std::mem::replace(&mut scene.runtime, Runtime::new().unwrap());
    runtime.block_on(async {
        for volume in 0..6 {
            let name = format!("volume-{volume}");
            scene.claim(&name).await;
            let random = Seeded::new(100 + volume);
            let mut image = Image::new(90);
            image.write_text(0, 40, &random);
            image.write_noise(50, 10, &random);
            let mut roots: Vec<Root> = Vec::new();
            for number in 0..12 {
                let against = roots.last().map_or(Against::Nothing, image::base);
                let root = scene.take(&name, &format!("{name}-{number}"), &mut image, against).await;
                roots.push(root);
                image.write_text(random.below(80), 1 + random.below(8), &random);
                image.write_noise(random.below(88), 1, &random);
                image.write_zeroes(random.below(80), 1 + random.below(6), number % 2 == 0);
                if number == 7 {
                    image.grow(10);
                }
            }
            for number in [0, 1, 5, 8] {
                scene.delete(roots[number].description.id).await;
            }
        }
        let mut image = Image::new(40);
        image.write_noise(0, 40, &Seeded::new(9));
        scene.leave_unfinished("volume-0", "unfinished", &mut image).await;
        let other = MasterKey::generate(&Seeded::new(77));
        scene.repository.add_key(&other, None).await.unwrap();
        scene.remember().await;
        scene.rehearse().await;
    });
    Scene { runtime, ..scene }
}

/// Snapshots whose packs were mostly dead and repacked, some of them again; and who repacked is still there to be seen.
pub(crate) fn repacked() -> Scene {
    let mut scene = Scene::new();
    let runtime = std::mem::replace(&mut scene.runtime, Runtime::new().unwrap());
    runtime.block_on(async {
        let random = Seeded::new(50);
        let mut image = Image::new(256);
        image.write_text(0, 256, &random);
        let first = scene.take("repacked", "repacked-0", &mut image, Against::Nothing).await;
        image.write_text(0, 160, &random);
        let second = scene.take("repacked", "repacked-1", &mut image, image::base(&first)).await;
        image.write_text(32, 128, &random);
        let third = scene.take("repacked", "repacked-2", &mut image, image::base(&second)).await;
        scene.delete(first.description.id).await;
        scene.delete(second.description.id).await;
        scene.collect().await;
        image.write_text(160, 40, &random);
        scene.take("repacked", "repacked-3", &mut image, image::base(&third)).await;
        scene.delete(third.description.id).await;
        scene.collect().await;
        let keys = scene.memory.keys("relocated/").await;
        assert!(keys.len() >= 2, "{keys:?}");
        scene.rehearse().await;
    });
    Scene { runtime, repacked: true, ..scene }
}

/// Two snapshots of two levels, the older of which has two pages.
pub(crate) fn wide() -> Scene {
    let mut scene = Scene::new();
    let runtime = std::mem::replace(&mut scene.runtime, Runtime::new().unwrap());
    runtime.block_on(async {
        let random = Seeded::new(30);
        let mut image = Image::new(2 * 4200);
        for number in 0..4200 {
            image.write_text(2 * number, 1, &random);
        }
        let first = scene.take("wide", "wide-0", &mut image, Against::Nothing).await;
        image.write_noise(4000, 30, &random);
        image.write_zeroes(6000, 40, true);
        let second = scene.take("wide", "wide-1", &mut image, image::base(&first)).await;
        assert_eq!(second.runs.len(), 2, "the levels were merged");
        assert!(second.runs[1].extents > 4096, "the run has one page");
        scene.rehearse().await;
    });
    Scene { runtime, ..scene }
}
