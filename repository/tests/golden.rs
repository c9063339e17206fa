//! Golden repositories: folders that version 1 of the format wrote, which every later version must open, check and restore.
//!
//! They stand in `tests/format/golden`, each beside what `manifest.json` says of it. They are never written again: what
//! version 1 writes otherwise one day gets a repository of its own. The generator makes those that are missing:
//!
//! ```text
//! cargo test -p varve-repository --test golden -- --ignored
//! ```

mod image;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use varve_repository::{
    Claim, Repository, SnapshotState,
    check::Level,
    collect,
    crypto::MasterKey,
    id::{GroupId, SnapshotId},
    offload::Against,
    progress::Progress,
    record::{
        snapshot::{Root, SnapshotDescription},
        volume::{OffloadParameters, Presentation, Source, VolumeRecord},
    },
    seam::{Entropy, Seams, Work},
    store::Store,
};

use image::{BLOCK, Image, Seeded};

/// What is known of one golden repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Golden {
    /// Master keys that open it, 64 digits each. They protect nothing but these tests.
    keys: Vec<String>,
    /// BLAKE3 over all objects: of each the key, a zero byte, its length in 8 bytes, and its bytes.
    objects: String,
    /// Snapshots that are committed, by id.
    snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// Snapshots that were deleted.
    gone: Vec<SnapshotId>,
}

/// What is known of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Snapshot {
    name: String,
    capacity_bytes: u64,
    /// BLAKE3 of the image.
    blake3: String,
    levels: usize,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/format/golden")
}

fn manifest() -> BTreeMap<String, Golden> {
    let text = fs::read_to_string(folder().join("manifest.json")).unwrap_or_else(|_| "{}".into());
    serde_json::from_str(&text).unwrap()
}

/// All objects of a repository in a folder, by key; its lock files are none.
fn objects(repository: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut objects = BTreeMap::new();
    let mut folders = vec![repository.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.to_string_lossy().contains('#') {
                let key = path.strip_prefix(repository).unwrap().to_str().unwrap().to_owned();
                objects.insert(key, fs::read(path).unwrap());
            }
        }
    }
    objects
}

fn digest(objects: &BTreeMap<String, Vec<u8>>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, bytes) in objects {
        hasher.update(key.as_bytes()).update(&[0]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// A master key of known bytes.
fn master(digits: &str) -> MasterKey {
    struct Exactly(Vec<u8>);
    impl Entropy for Exactly {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.0);
        }
    }
    MasterKey::generate(&Exactly(hex::decode(digits).unwrap()))
}

fn levels(root: &Root) -> usize {
    root.runs.chunk_by(|one, other| one.id.upload() == other.id.upload()).count()
}

/// A master key's digits, made from a name.
fn digits(name: &str) -> String {
    blake3::hash(name.as_bytes()).to_hex().to_string()
}

async fn open(repository: &Path, key: &str) -> Repository {
    let store = Store::open(&format!("file://{}", repository.display()), &[]).unwrap();
    Repository::open(store, &master(key), seams(99)).await.unwrap()
}

fn seams(seed: u64) -> Seams {
    Seams { work: Work::Inline, ..image::seams(seed) }
}

/// Writes objects as a repository's folder, as those who made it had it.
fn lay_out(objects: &BTreeMap<String, Vec<u8>>, to: &Path) {
    for (key, bytes) in objects {
        let path = to.join(key);
        let folder = path.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[tokio::test]
async fn what_version_1_wrote_opens_checks_and_restores() {
    let manifest = manifest();
    for name in SCENES.map(|(name, _)| name) {
        let golden = manifest.get(name).unwrap_or_else(|| panic!("there is no golden repository {name}"));
        let kept = objects(&folder().join(name));
        assert_eq!(digest(&kept), golden.objects, "{name}: a golden repository is never changed");
        // A copy, so that nothing is ever written to the original.
        let scratch = tempfile::tempdir().unwrap();
        lay_out(&kept, scratch.path());
        for key in &golden.keys {
            verify(&open(scratch.path(), key).await, name, golden).await;
        }
        assert_eq!(digest(&objects(scratch.path())), golden.objects, "{name}: reading it changed it");
    }
    let known = SCENES.map(|(name, _)| name.to_owned());
    assert!(manifest.keys().all(|name| known.contains(name)), "a golden repository has no test");
}

async fn verify(repository: &Repository, name: &str, golden: &Golden) {
    let report = repository.check(Level::Content, Progress::default(), CancellationToken::new()).await.unwrap();
    assert_eq!(report.damages, [], "{name}");
    let roots = repository.snapshots().await.unwrap();
    assert!(roots.iter().map(|root| root.description.id).eq(golden.snapshots.keys().copied()), "{name}");
    for root in roots {
        assert_eq!(describe(repository, &root).await, golden.snapshots[&root.description.id], "{name}");
    }
    for gone in &golden.gone {
        assert!(matches!(repository.snapshot(*gone).await.unwrap(), SnapshotState::Gone(_)), "{name}: {gone}");
    }
}

async fn describe(repository: &Repository, root: &Root) -> Snapshot {
    let restored = image::restore(repository, root).await.unwrap();
    Snapshot {
        name: root.description.name.clone(),
        capacity_bytes: root.description.capacity_bytes,
        blake3: blake3::hash(&restored).to_hex().to_string(),
        levels: levels(root),
    }
}

/// A golden repository being made.
struct Making {
    repository: Repository,
    folder: PathBuf,
    keys: Vec<String>,
    /// What each snapshot must restore to.
    truth: BTreeMap<SnapshotId, Arc<Vec<u8>>>,
    gone: Vec<SnapshotId>,
}

impl Making {
    async fn claim(&self, name: &str, source: Option<Source>) {
        let record = VolumeRecord {
            id: self.repository.volume_id(name),
            name: name.into(),
            incarnation: uuid::Uuid::from_u128(7),
            capacity_bytes: 1 << 20,
            presentation: Presentation::Block,
            home_node: "node-1".into(),
            source,
            offload: OffloadParameters { compression: Some(5), bandwidth: None, ..OffloadParameters::default() },
            parameters: BTreeMap::from([("compression".into(), "5".into())]),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            complete: true,
            published: None,
        };
        self.repository.claim_volume(record).await.unwrap();
    }

    async fn take(&mut self, volume: &str, name: &str, image: &mut Image, against: Against) -> Root {
        self.take_member(volume, name, image, against, None).await
    }

    async fn take_member(
        &mut self,
        volume: &str,
        name: &str,
        image: &mut Image,
        against: Against,
        group: Option<GroupId>,
    ) -> Root {
        let cut = if matches!(against, Against::Content(_)) { image.scan() } else { image.cut() };
        let repository = &self.repository;
        let mut request = image::request(repository, name, &cut, against);
        let volume_id = repository.volume_id(volume);
        request.description = SnapshotDescription {
            id: group.map_or(request.description.id, |group| repository.member_id(group, volume_id)),
            volume: volume_id,
            volume_name: volume.into(),
            group,
            frozen: group.is_some(),
            pause_nanos: 12_345_678,
            parameters: BTreeMap::from([("durability".into(), "bucket".into())]),
            ..request.description
        };
        let root = repository.offload(request).await.unwrap();
        self.truth.insert(root.description.id, cut.bytes);
        root
    }

    async fn collect(&self) {
        let options = collect::Options { node: "node-1".into(), ..collect::Options::default() };
        self.repository.collect(&options, Progress::default(), CancellationToken::new()).await.unwrap();
    }

    /// How many packs were repacked.
    fn relocations(&self) -> usize {
        fs::read_dir(self.folder.join("relocated")).map_or(0, Iterator::count)
    }

    async fn delete(&mut self, root: &Root) {
        let id = root.description.id;
        self.repository.delete_snapshot(id, "deleted").await.unwrap();
        self.truth.remove(&id);
        self.gone.push(id);
    }
}

/// Writes blocks each of one byte, so that many of them take next to nothing.
fn write_flat(image: &mut Image, blocks: impl Iterator<Item = u64>, seed: u64) {
    for block in blocks {
        let byte = u8::try_from((block + seed) % 251 + 1).unwrap();
        image.write_zeroes(block, 1, false);
        let start = usize::try_from(block).unwrap() * BLOCK;
        image.bytes[start..start + BLOCK].fill(byte);
    }
}

type Scene = fn(&mut Making) -> futures::future::LocalBoxFuture<'_, ()>;

const SCENES: [(&str, Scene); 3] = [
    ("small", |making| Box::pin(small(making))),
    ("levels", |making| Box::pin(many_levels(making))),
    ("repacked", |making| Box::pin(repacked(making))),
];

/// Full, incremental and compared snapshots; zeroes, holes and growth; chunks that compress and that do not; a group;
/// deletions and a cancellation.
async fn small(making: &mut Making) {
    let random = Seeded::new(1);
    making.claim("pvc-small", None).await;
    let mut image = Image::new(96);
    image.write_text(0, 10, &random);
    image.write_noise(40, 2, &random);
    image.write_text(90, 4, &random);
    let first = making.take("pvc-small", "snap-first", &mut image, Against::Nothing).await;
    image.write_zeroes(4, 3, true);
    image.write_zeroes(90, 2, false);
    image.write_noise(41, 1, &random);
    image.write_text(60, 2, &random);
    let second = making.take("pvc-small", "snap-second", &mut image, image::base(&first)).await;
    image.grow(32);
    image.write_text(100, 5, &random);
    write_flat(&mut image, 64..96, 0);
    write_flat(&mut image, 110..128, 1);
    let third = making.take("pvc-small", "snap-third", &mut image, image::base(&second)).await;
    image.write_noise(0, 1, &random);
    let compared = making.take("pvc-small", "snap-compared", &mut image, Against::Content(third.description.id)).await;
    assert!(compared.statistics.deduplicated_bytes > 0);
    // A snapshot in the middle goes; the others do not need it.
    making.delete(&second).await;
    // A name is used again by the next generation.
    let never = making.repository.snapshot_id("snap-never", 0);
    making.repository.delete_snapshot(never, "cancelled").await.unwrap();
    making.gone.push(never);

    let group = making.repository.group_id("group");
    making.claim("pvc-clone", Some(Source::Snapshot(third.description.id))).await;
    let mut clone = Image::new(40);
    clone.write_text(0, 3, &random);
    clone.write_noise(8, 1, &random);
    making.take_member("pvc-small", "group-member-1", &mut image, image::base(&compared), Some(group)).await;
    making.take_member("pvc-clone", "group-member-2", &mut clone, Against::Nothing, Some(group)).await;
    // Three keys, of which one was taken away again.
    for label in ["the safe", "the other safe"] {
        making.repository.add_key(&master(&digits(label)), Some(&label.parse().unwrap())).await.unwrap();
        making.keys.push(digits(label));
    }
    let taken = making.repository.add_key(&master(&digits("taken away")), None).await.unwrap();
    let (Claim::Created(slot) | Claim::AlreadyPresent(slot)) = taken;
    making.repository.remove_key(slot.id, &master(&making.keys[0])).await.unwrap();
    // Nothing at all.
    making.take("pvc-empty", "snap-empty", &mut Image::new(16), Against::Nothing).await;
}

/// A level of two pages below a level of zeroes and data that was merged from two.
async fn many_levels(making: &mut Making) {
    let random = Seeded::new(2);
    let mut image = Image::new(2 * 4200);
    write_flat(&mut image, (0..4200).map(|number| 2 * number), 0);
    let wide = making.take("pvc-wide", "snap-wide", &mut image, Against::Nothing).await;
    write_flat(&mut image, 1000..1100, 3);
    image.write_zeroes(2000, 500, true);
    let second = making.take("pvc-wide", "snap-narrow", &mut image, image::base(&wide)).await;
    image.grow(64);
    image.write_text(2 * 4200 - 3, 5, &random);
    image.write_zeroes(1010, 10, false);
    write_flat(&mut image, 2100..2103, 9);
    let third = making.take("pvc-wide", "snap-merged", &mut image, image::base(&second)).await;
    assert_eq!([&wide, &second, &third].map(levels), [1, 2, 2]);
    assert!(wide.runs[0].extents > 4096, "one page");
    assert_ne!(third.runs[0].id, second.runs[0].id);
    assert_eq!(third.runs[1], wide.runs[0]);
}

/// Packs that were mostly dead, repacked, one of them twice.
async fn repacked(making: &mut Making) {
    let mut image = Image::new(256);
    write_flat(&mut image, 0..256, 0);
    let first = making.take("pvc-repacked", "snap-1", &mut image, Against::Nothing).await;
    write_flat(&mut image, 0..160, 1);
    let second = making.take("pvc-repacked", "snap-2", &mut image, image::base(&first)).await;
    write_flat(&mut image, 32..160, 2);
    image.write_zeroes(240, 5, true);
    let third = making.take("pvc-repacked", "snap-3", &mut image, image::base(&second)).await;
    making.delete(&first).await;
    making.delete(&second).await;
    making.collect().await;
    assert!(making.relocations() >= 2, "nothing was repacked");
    write_flat(&mut image, 0..32, 4);
    write_flat(&mut image, 160..224, 5);
    let fourth = making.take("pvc-repacked", "snap-4", &mut image, image::base(&third)).await;
    making.delete(&third).await;
    making.collect().await;
    write_flat(&mut image, 3..5, 6);
    making.take("pvc-repacked", "snap-5", &mut image, image::base(&fourth)).await;
}

#[test]
#[ignore = "makes the golden repositories that are missing"]
fn golden_repositories_are_made() {
    // One thread, known randomness and a clock that stands still: making them again makes the same, but for the wall time
    // that the statistics of a root name.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut manifest = manifest();
    for ((name, scene), seed) in SCENES.into_iter().zip(1000..) {
        if !manifest.contains_key(name) {
            manifest.insert(name.into(), runtime.block_on(make(name, scene, seed)));
        }
    }
    let text = serde_json::to_string_pretty(&manifest).unwrap();
    fs::write(folder().join("manifest.json"), text + "\n").unwrap();
}

async fn make(name: &str, scene: Scene, seed: u64) -> Golden {
    let folder = folder().join(name);
    let key = digits(name);
    let seams = seams(seed);
    let store =
        Store::open(&format!("file://{}", folder.display()), &[]).unwrap().with_entropy(Arc::clone(&seams.entropy));
    let repository = Repository::init(store, &master(&key), seams).await.unwrap();
    let mut making = Making { repository, folder, keys: vec![key], truth: BTreeMap::new(), gone: Vec::new() };
    scene(&mut making).await;
    let Making { repository, folder, keys, truth, gone } = making;
    // Padding only; it would be most of what is kept.
    for needless in ["reserve", ".staging#0", ".update#0"] {
        let _ = fs::remove_file(folder.join(needless));
    }
    let mut snapshots = BTreeMap::new();
    for (id, truth) in truth {
        let SnapshotState::Committed(root) = repository.snapshot(id).await.unwrap() else { panic!("{id} is gone") };
        let described = describe(&repository, &root).await;
        assert_eq!(described.blake3, blake3::hash(&truth).to_hex().as_str(), "{name}: {id}");
        snapshots.insert(id, described);
    }
    Golden { keys, objects: digest(&objects(&folder)), snapshots, gone }
}
