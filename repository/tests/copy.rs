//! Copies of a repository as their users see them: that they hold the same, what they cost, and what interrupts them.

#![allow(clippy::cast_possible_truncation, reason = "test images are small")]

mod gateway;
mod image;
mod storage;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gateway::Gateway;
use image::{BLOCK, Image, Seeded, assert_same, id, restore, seams};
use jiff::Timestamp;
use storage::{Memory, Operation, Stop};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use varve_repository::{
    Deletion, Error, ErrorKind, Repository, Result, SnapshotState, collect,
    copy::{Copier, Options, Outcome, Report},
    crypto::MasterKey,
    id::{SnapshotId, VolumeId},
    offload::Against,
    progress::Progress,
    record::{
        snapshot::{Method, Root},
        volume::{AccessMode, OffloadParameters, Presentation, Publication, VolumeRecord},
    },
    seam::{Seams, Work},
    store::Store,
};

/// The key of the second repository.
fn other_master() -> MasterKey {
    MasterKey::generate(&Seeded::new(99))
}

async fn init_copy(store: Store) -> Repository {
    Repository::init(store, &other_master(), seams(2)).await.unwrap()
}

/// Opens what is in a store once more, with nothing remembered.
async fn reopen_copy(store: Store, seed: u64) -> Repository {
    Repository::open(store, &other_master(), seams(seed)).await.unwrap()
}

async fn copy(from: &Repository, to: &Repository, options: Options) -> Result<Report> {
    from.copy_to(to, options, Progress::default(), CancellationToken::new()).await
}

/// A repository with volumes in it, and what each of its snapshots holds.
struct Scene {
    repository: Repository,
    random: Seeded,
    moment: i64,
    history: Vec<(Root, Arc<Vec<u8>>)>,
}

/// A volume and the snapshot it was cut last.
#[derive(Clone)]
struct Volume {
    name: &'static str,
    image: Image,
    last: Option<SnapshotId>,
}

impl Scene {
    async fn new(store: Store) -> Self {
        Self { repository: image::init(store).await, random: Seeded::new(42), moment: 0, history: Vec::new() }
    }

    fn volume(&self, name: &'static str, blocks: u64, written: u64) -> Volume {
        let mut image = Image::new(blocks);
        image.write_text(3, written, &self.random);
        Volume { name, image, last: None }
    }

    /// Claims the volume's record.
    async fn claim(&self, volume: &Volume) -> VolumeRecord {
        let record = VolumeRecord {
            id: self.repository.volume_id(volume.name),
            name: volume.name.into(),
            incarnation: incarnation(volume.name),
            capacity_bytes: volume.image.bytes.len() as u64,
            presentation: Presentation::Block,
            home_node: "node".into(),
            source: None,
            offload: OffloadParameters { compression: Some(7), bandwidth: None, ..OffloadParameters::default() },
            parameters: Default::default(),
            created_at: Timestamp::UNIX_EPOCH,
            complete: true,
            published: Some(Publication { node: "node".into(), mode: AccessMode::SingleNodeWriter, read_only: false }),
        };
        self.repository.claim_volume(record.clone()).await.unwrap();
        record
    }

    /// Cuts a volume and offloads the cut.
    async fn snapshot(&mut self, volume: &mut Volume) -> SnapshotId {
        let cut = volume.image.cut();
        let against = volume.last.map_or(Against::Nothing, Against::Base);
        let name = format!("{} {}", volume.name, self.moment);
        let mut request = image::request(&self.repository, &name, &cut, against);
        request.description.volume = self.repository.volume_id(volume.name);
        request.description.volume_name = volume.name.into();
        request.description.incarnation = incarnation(volume.name);
        request.description.created_at = Timestamp::from_second(self.moment).unwrap();
        self.moment += 1;
        let root = self.repository.offload(request).await.unwrap();
        let id = id(&root);
        volume.last = Some(id);
        self.history.push((root, cut.bytes));
        id
    }

    /// Changes a volume here and there.
    fn change(&self, volume: &mut Volume) {
        for _ in 0..1 + self.random.below(12) {
            let first = self.random.below(volume.image.blocks());
            let count = (1 + self.random.below(60)).min(volume.image.blocks() - first);
            match self.random.below(5) {
                0 => volume.image.write_zeroes(first, count, true),
                1 => volume.image.write_zeroes(first, count, false),
                2 => volume.image.write_text(first, count, &self.random),
                3 => volume.image.grow(self.random.below(20)),
                _ => volume.image.write_noise(first, count, &self.random),
            }
        }
    }

    /// Two volumes of ten snapshots each, taken in turn, and a clone of the first with five.
    async fn filled(store: Store) -> Self {
        let mut scene = Self::new(store).await;
        let mut volumes = [scene.volume("one", 3000, 2000), scene.volume("two", 1000, 300)];
        for volume in &volumes {
            scene.claim(volume).await;
        }
        for _ in 0..10 {
            for volume in &mut volumes {
                scene.snapshot(volume).await;
                scene.change(volume);
            }
        }
        // The clone is of the last snapshot of the first volume, and its own first one builds on that.
        let cloned = scene.bytes(volumes[0].last.unwrap());
        let mut clone = Volume { name: "clone", image: Image::new(0), last: volumes[0].last };
        clone.image.bytes = cloned.to_vec();
        for _ in 0..5 {
            scene.change(&mut clone);
            scene.snapshot(&mut clone).await;
        }
        scene
    }

    fn bytes(&self, id: SnapshotId) -> Arc<Vec<u8>> {
        let found = self.history.iter().find(|(root, _)| image::id(root) == id);
        Arc::clone(&found.expect("it was cut").1)
    }

    /// Restores each snapshot that stands in the original from the copy.
    async fn compare(&self, copy: &Repository) {
        for (root, bytes) in &self.history {
            let SnapshotState::Committed(copied) = copy.snapshot(id(root)).await.unwrap() else {
                panic!("{} is not in the copy", root.description.name);
            };
            assert_eq!(copied.description, root.description);
            assert_same(&restore(copy, &copied).await.unwrap(), bytes, &root.description.name);
        }
    }
}

fn incarnation(volume: &str) -> Uuid {
    Uuid::from_u128(volume.bytes().map(u128::from).sum())
}

fn outcome(report: &Report, id: SnapshotId) -> &Outcome {
    &report.snapshots.iter().find(|report| report.snapshot == id).expect("it is reported").outcome
}

fn is_copied(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Copied { .. })
}

/// Bytes of everything put since the store was armed.
fn put_bytes(memory: &Memory) -> u64 {
    memory.puts().iter().map(|(_, size)| size).sum()
}

#[tokio::test]
async fn invariant_1_a_copy_restores_what_the_original_does() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let scene = Scene::filled(memory.store()).await;
    let to = init_copy(copied.store()).await;
    let progress = Progress::default();
    memory.arm(None);
    copied.arm(None);
    let report =
        scene.repository.copy_to(&to, Options::default(), progress.clone(), CancellationToken::new()).await.unwrap();
    assert!(report.is_complete());
    assert_eq!((report.copied(), report.snapshots.len()), (25, 25));
    assert_eq!(report.volumes.len(), 2);
    assert!(memory.puts().is_empty(), "nothing of the original is written");
    scene.compare(&to).await;
    assert!(copied.keys("uploads/").await.is_empty());

    // Only the first of each volume was sent whole; the clone builds on what it was cloned from.
    for (number, (root, _)) in scene.history.iter().enumerate() {
        let Outcome::Copied { method, .. } = outcome(&report, id(root)) else { panic!("it was copied") };
        let expected = if number < 2 { Method::Full } else { Method::Incremental };
        assert_eq!(*method, expected, "{}", root.description.name);
    }
    let sent: u64 = copied.puts().iter().filter(|(key, _)| key.starts_with("packs/")).map(|(_, size)| size).sum();
    let original: u64 = scene.history.iter().map(|(root, _)| root.statistics.uploaded_bytes).sum();
    assert!(sent < original * 6 / 5, "{sent} bytes of packs sent, {original} uploaded to the original");
    assert!(report.fetched_bytes > 0 && report.uploaded_bytes >= sent);
    assert_eq!(progress.read().total, progress.read().done);

    // The records are there, without the fence that they were under.
    let record = to.volume(scene.repository.volume_id("one")).await.unwrap().expect("it was copied").value;
    let original = scene.repository.volume(record.id).await.unwrap().unwrap().value;
    assert_eq!(record, VolumeRecord { published: None, ..original });

    // Nothing of the one's keys, ids aside, is known to the other.
    let names = |keys: Vec<String>| keys.into_iter().collect::<BTreeSet<_>>();
    for folder in ["packs/", "runs/"] {
        let (one, other) = (names(memory.keys(folder).await), names(copied.keys(folder).await));
        assert!(one.is_disjoint(&other));
    }
    let error = Repository::open(copied.store(), &image::master(), seams(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
}

#[tokio::test]
async fn a_second_run_copies_nothing_and_asks_little() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let mut scene = Scene::filled(memory.store()).await;
    let to = init_copy(copied.store()).await;
    let mut copier = Copier::new(&scene.repository, &to, Options::default()).unwrap();
    let (progress, cancel) = (Progress::default(), CancellationToken::new());
    copier.round(&progress, &cancel).await.unwrap();
    memory.arm(None);
    copied.arm(None);
    let report = copier.round(&progress, &cancel).await.unwrap();
    assert_eq!(report.copied(), 0);
    assert!(report.snapshots.iter().all(|report| report.outcome == Outcome::AlreadyThere));
    assert!(copied.puts().is_empty());
    // The copy's roots are read once, since a listing is the first to show their versions.
    assert!(copied.operations().len() <= 25 + 3, "{:?}", copied.operations());
    let listings =
        |memory: &Memory| memory.operations().iter().all(|operation| matches!(operation, Operation::List(_)));
    assert!(listings(&memory) && memory.operations().len() <= 2, "{:?}", memory.operations());
    copied.arm(None);
    copier.round(&progress, &cancel).await.unwrap();
    assert!(listings(&copied) && copied.operations().len() <= 3, "{:?}", copied.operations());

    // One snapshot more costs itself.
    let mut volume = Volume { name: "two", image: Image::new(0), last: Some(id(&scene.history[19].0)) };
    volume.image.bytes = scene.history[19].1.to_vec();
    volume.image.write_noise(500, 20, &scene.random);
    let new = scene.snapshot(&mut volume).await;
    memory.arm(None);
    copied.arm(None);
    let report = copier.round(&progress, &cancel).await.unwrap();
    assert!(is_copied(outcome(&report, new)) && report.copied() == 1);
    assert!(put_bytes(&copied) < 20 * BLOCK as u64 + (40 << 10), "{} bytes", put_bytes(&copied));
    let requests = (memory.operations().len(), copied.operations().len());
    assert!(requests.0 <= 25 && requests.1 <= 30, "{requests:?}");
    scene.compare(&to).await;
}

/// Small enough to be interrupted everywhere.
async fn small(store: Store) -> Scene {
    let mut scene = Scene::new(store).await;
    let mut volume = scene.volume("one", 300, 100);
    scene.claim(&volume).await;
    for _ in 0..3 {
        scene.snapshot(&mut volume).await;
        scene.change(&mut volume);
    }
    scene
}

#[tokio::test]
async fn invariant_3_a_copy_interrupted_at_any_request_is_finished_by_the_next() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let scene = small(memory.store()).await;
    drop(init_copy(copied.store()).await);
    let whole = copied.fork().await;
    let to = reopen_copy(whole.store(), 5).await;
    whole.arm(None);
    copy(&scene.repository, &to, Options::default()).await.unwrap();
    let requests = whole.operations().len();
    assert!(requests > 20, "{requests}");
    for state in [false, true] {
        for at in 0..requests {
            for stop in [Stop::Before(at), Stop::After(at)] {
                let folder = tempfile::tempdir().unwrap();
                let options = Options { state: state.then(|| folder.path().join("state")), ..Options::default() };
                let fork = copied.fork().await;
                let to = reopen_copy(fork.store(), 5).await;
                fork.arm(Some(stop));
                let interrupted = copy(&scene.repository, &to, options.clone()).await;
                if fork.stopped() {
                    // What is done behind the last commit is of no consequence.
                    assert!(interrupted.is_err() || at + 6 > requests, "{stop:?}: {interrupted:?}");
                }
                fork.arm(None);
                // Another process, which remembers nothing but what is on the disk.
                let to = reopen_copy(fork.store(), 6).await;
                let report = copy(&scene.repository, &to, options).await.unwrap();
                assert!(report.is_complete(), "{stop:?}: {report:?}");
                scene.compare(&to).await;
                if state {
                    assert_eq!(std::fs::read_dir(folder.path().join("state")).unwrap().count(), 0, "{stop:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_original_that_fails_at_any_request_hurts_nothing() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let scene = small(memory.store()).await;
    drop(init_copy(copied.store()).await);
    let whole = copied.fork().await;
    memory.arm(None);
    let from = Repository::open(memory.store(), &image::master(), seams(4)).await.unwrap();
    copy(&from, &reopen_copy(whole.store(), 5).await, Options::default()).await.unwrap();
    for at in 0..memory.operations().len() {
        let (original, fork) = (memory.fork().await, copied.fork().await);
        let from = Repository::open(original.store(), &image::master(), seams(4)).await.unwrap();
        let to = reopen_copy(fork.store(), 5).await;
        original.arm(Some(Stop::Before(at)));
        let failed = copy(&from, &to, Options::default()).await;
        if original.stopped() {
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::Denied, "request {at}");
        }
        copy(&scene.repository, &to, Options::default()).await.unwrap();
        scene.compare(&to).await;
    }
}

#[tokio::test]
async fn within_a_large_snapshot_a_copy_goes_on_where_it_was() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let mut scene = Scene::new(memory.store()).await;
    let mut volume = scene.volume("large", 30_000, 3);
    volume.image.write_noise(0, 26_000, &scene.random);
    scene.snapshot(&mut volume).await;
    let to = init_copy(copied.store()).await;
    let folder = tempfile::tempdir().unwrap();
    let options = Options { state: Some(folder.path().into()), ..Options::default() };
    // Stopped where the third pack would be put.
    let probe = copied.fork().await;
    let probed = reopen_copy(probe.store(), 5).await;
    probe.arm(None);
    copy(&scene.repository, &probed, options.clone()).await.unwrap();
    let is_pack = |operation: &Operation| matches!(operation, Operation::Put(key, _) if key.starts_with("packs/"));
    let packs: Vec<usize> =
        probe.operations().iter().enumerate().filter(|(_, operation)| is_pack(operation)).map(|(at, _)| at).collect();
    assert!(packs.len() >= 4, "{packs:?}");
    copied.arm(Some(Stop::Before(packs[3])));
    copy(&scene.repository, &to, options.clone()).await.unwrap_err();
    let first: BTreeSet<String> = copied.keys("packs/").await.into_iter().collect();
    assert!(!first.is_empty());
    copied.arm(None);
    let to = reopen_copy(copied.store(), 6).await;
    let report = copy(&scene.repository, &to, options).await.unwrap();
    assert!(report.is_complete());
    let sent = copied.puts().iter().filter(|(key, _)| key.starts_with("packs/")).count();
    assert!(sent <= packs.len() - 2, "{sent} of {} packs sent again", packs.len());
    let last = copied.keys("packs/").await;
    assert!(first.iter().all(|key| last.contains(key)));
    assert!(report.fetched_bytes < 26_000 * BLOCK as u64 * 4 / 5, "{}", report.fetched_bytes);
    scene.compare(&to).await;
}

#[tokio::test]
async fn what_is_deleted_in_either_is_respected() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let mut scene = Scene::filled(memory.store()).await;
    let to = init_copy(copied.store()).await;
    let ids: Vec<SnapshotId> = scene.history.iter().map(|(root, _)| id(root)).collect();
    // Cancelled in the copy before it ever came there.
    assert_eq!(to.delete_snapshot(ids[4], "not wanted").await.unwrap(), Deletion::Cancelled);
    let report = copy(&scene.repository, &to, Options::default()).await.unwrap();
    assert!(report.is_complete());
    assert_eq!(outcome(&report, ids[4]), &Outcome::DeletedThere);
    assert_eq!(report.copied(), 24);

    // Deleted in the copy, then in the original: the one is not copied again, the other stays.
    to.delete_snapshot(ids[0], "deleted").await.unwrap();
    scene.repository.delete_snapshot(ids[1], "deleted").await.unwrap();
    let report = copy(&scene.repository, &to, Options::default()).await.unwrap();
    assert_eq!((report.copied(), outcome(&report, ids[0])), (0, &Outcome::DeletedThere));
    assert!(report.pruned.is_empty());
    assert!(matches!(to.snapshot(ids[0]).await.unwrap(), SnapshotState::Gone(_)));
    assert!(matches!(to.snapshot(ids[1]).await.unwrap(), SnapshotState::Committed(_)));

    // A snapshot that only the copy ever knew is nobody's to prune.
    let mut image = Image::new(10);
    image.write_noise(0, 10, &scene.random);
    let own = image::offload(&to, "own", &image.cut(), Against::Nothing).await.unwrap();
    let options = Options { prune: true, ..Options::default() };
    let report = copy(&scene.repository, &to, options.clone()).await.unwrap();
    assert_eq!(report.pruned, [ids[1]]);
    assert!(matches!(to.snapshot(ids[1]).await.unwrap(), SnapshotState::Gone(_)));
    assert!(matches!(to.snapshot(id(&own)).await.unwrap(), SnapshotState::Committed(_)));
    let gone = [ids[0], ids[1], ids[4]];
    scene.history.retain(|(root, _)| !gone.contains(&id(root)));
    scene.compare(&to).await;

    // A volume's record goes with its last snapshot, if the original has it no more.
    let two = scene.repository.volume_id("two");
    for (root, _) in scene.history.iter().filter(|(root, _)| root.description.volume == two) {
        scene.repository.delete_snapshot(id(root), "deleted").await.unwrap();
    }
    scene.repository.remove_volume(two).await.unwrap();
    assert!(to.volume(two).await.unwrap().is_some());
    copy(&scene.repository, &to, options).await.unwrap();
    assert!(to.volume(two).await.unwrap().is_none());
    scene.history.retain(|(root, _)| root.description.volume != two);
    scene.compare(&to).await;
}

#[tokio::test]
async fn a_copy_begun_of_what_is_then_deleted_is_cancelled() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let mut scene = Scene::new(memory.store()).await;
    let mut volume = scene.volume("one", 300, 100);
    let id = scene.snapshot(&mut volume).await;
    let to = init_copy(copied.store()).await;
    let probe = copied.fork().await;
    let probed = reopen_copy(probe.store(), 5).await;
    probe.arm(None);
    copy(&scene.repository, &probed, Options::default()).await.unwrap();
    let is_run = |operation: &Operation| matches!(operation, Operation::Put(key, _) if key.starts_with("runs/"));
    let run = probe.operations().iter().position(is_run);
    copied.arm(Some(Stop::Before(run.unwrap())));
    copy(&scene.repository, &to, Options::default()).await.unwrap_err();
    copied.arm(None);
    assert_eq!(copied.keys("uploads/").await.len(), 1);
    scene.repository.delete_snapshot(id, "deleted").await.unwrap();
    let report = copy(&scene.repository, &to, Options::default()).await.unwrap();
    assert!(report.snapshots.is_empty());
    // Decided: a collector may take what was sent.
    assert!(matches!(to.snapshot(id).await.unwrap(), SnapshotState::Gone(_)));
}

#[tokio::test]
async fn damage_in_the_original_hurts_just_what_is_damaged() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let mut scene = Scene::new(memory.store()).await;
    let (mut one, mut two) = (scene.volume("one", 500, 200), scene.volume("two", 500, 200));
    let mut ids = Vec::new();
    let mut packs = Vec::new();
    for _ in 0..3 {
        for volume in [&mut one, &mut two] {
            volume.image.write_noise(scene.random.below(100), 40, &scene.random);
            memory.arm(None);
            ids.push(scene.snapshot(volume).await);
            packs.push(memory.puts().into_iter().map(|(key, _)| key).find(|key| key.starts_with("packs/")).unwrap());
        }
    }
    // A bit flips in what the second snapshot of the first volume added, which the third partly hides.
    let mut bytes = memory.read(&packs[2]).await;
    bytes[100] ^= 4;
    memory.overwrite(&packs[2], bytes).await;
    // A root cannot be read.
    let key = format!("snapshots/{}", ids[3]);
    let mut bytes = memory.read(&key).await;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    memory.overwrite(&key, bytes).await;

    let from = Repository::open(memory.store(), &image::master(), seams(4)).await.unwrap();
    let to = init_copy(copied.store()).await;
    let mut copier = Copier::new(&from, &to, Options::default()).unwrap();
    let (progress, cancel) = (Progress::default(), CancellationToken::new());
    let report = copier.round(&progress, &cancel).await.unwrap();
    assert!(!report.is_complete());
    let Outcome::Failed { reason } = outcome(&report, ids[2]) else { panic!("{report:?}") };
    assert!(reason.contains(&packs[2]) && reason.contains("memory:///"), "{reason}");
    let Outcome::Failed { reason } = outcome(&report, ids[3]) else { panic!("{report:?}") };
    assert!(reason.contains(&key), "{reason}");
    for n in [0, 1, 5] {
        assert!(is_copied(outcome(&report, ids[n])), "{report:?}");
    }
    // The next is built on what is whole, and is whole itself unless it needs the damaged chunk.
    let hurt: Vec<SnapshotId> = report
        .snapshots
        .iter()
        .filter(|report| matches!(report.outcome, Outcome::Failed { .. }))
        .map(|report| report.snapshot)
        .collect();
    scene.history.retain(|(root, _)| !hurt.contains(&id(root)));
    assert!(scene.history.len() >= 3);
    scene.compare(&to).await;

    // What is hopeless is not sent again by the same process.
    copied.arm(None);
    let again = copier.round(&progress, &cancel).await.unwrap();
    assert!(!again.is_complete());
    assert!(copied.puts().is_empty(), "{:?}", copied.puts());
}

#[tokio::test]
async fn a_base_that_is_damaged_is_not_built_upon() {
    for in_the_copy in [false, true] {
        let (memory, copied) = (Memory::new(), Memory::new());
        let mut scene = Scene::new(memory.store()).await;
        let mut volume = scene.volume("one", 400, 300);
        scene.snapshot(&mut volume).await;
        let to = init_copy(copied.store()).await;
        copy(&scene.repository, &to, Options::default()).await.unwrap();
        // All of it is written anew, and sent against nothing, so that nothing of the first is in the second.
        volume.image.write_noise(0, 400, &scene.random);
        volume.last = None;
        volume.image.cut();
        let mut second = Volume { image: volume.image.clone(), ..volume };
        second.image.write_noise(0, 350, &scene.random);
        let new = scene.snapshot(&mut second).await;
        let damaged = if in_the_copy { &copied } else { &memory };
        let run = if in_the_copy {
            copied.keys("runs/").await.remove(0)
        } else {
            format!("runs/{}", scene.history[0].0.runs[0].id)
        };
        damaged.remove(&run).await;
        // The zeroes that the image had before the first write were never in the second.
        scene.history.remove(0);
        let expected = Arc::new(second_bytes(&second));
        scene.history[0].1 = expected;
        let report = copy(&scene.repository, &to, Options::default()).await.unwrap();
        let Outcome::Copied { method, .. } = outcome(&report, new) else { panic!("{report:?}") };
        assert_eq!(*method, Method::Full);
        scene.compare(&to).await;
    }
}

/// What a snapshot against nothing holds of an image whose first 350 blocks alone were written since its last cut.
fn second_bytes(volume: &Volume) -> Vec<u8> {
    let mut bytes = volume.image.bytes.clone();
    bytes[350 * BLOCK..].fill(0);
    bytes
}

#[tokio::test]
async fn a_folder_for_journals_is_used_by_one_at_a_time() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let scene = small(memory.store()).await;
    let to = init_copy(copied.store()).await;
    let folder = tempfile::tempdir().unwrap();
    let options = Options { state: Some(folder.path().into()), ..Options::default() };
    let mut copier = Copier::new(&scene.repository, &to, options.clone()).unwrap();
    let (progress, cancel) = (Progress::default(), CancellationToken::new());
    copier.round(&progress, &cancel).await.unwrap();
    let error = copy(&scene.repository, &to, options.clone()).await.unwrap_err();
    assert!(matches!(&error, Error::Local { source, .. } if source.to_string().contains("another copy")), "{error:?}");
    copier.round(&progress, &cancel).await.unwrap();
    drop(copier);
    assert!(copy(&scene.repository, &to, options).await.unwrap().is_complete());
}

#[tokio::test]
async fn only_what_is_asked_for_is_copied() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let scene = Scene::filled(memory.store()).await;
    let to = init_copy(copied.store()).await;
    let two: VolumeId = scene.repository.volume_id("two");
    let options = Options { volumes: [two].into(), ..Options::default() };
    let report = copy(&scene.repository, &to, options).await.unwrap();
    assert_eq!((report.copied(), report.snapshots.len(), &report.volumes[..]), (10, 10, &[two][..]));
    let last = id(&scene.history.last().unwrap().0);
    let options = Options { snapshots: [last].into(), ..Options::default() };
    let report = copy(&scene.repository, &to, options).await.unwrap();
    assert_eq!((report.copied(), report.snapshots.len()), (1, 1));
    let SnapshotState::Committed(root) = to.snapshot(last).await.unwrap() else { panic!("it was copied") };
    assert_same(&restore(&to, &root).await.unwrap(), &scene.bytes(last), "the last of the clone");

    let unknown = SnapshotId::from_bytes([7; 16]);
    let options = Options { snapshots: [unknown].into(), ..Options::default() };
    let error = copy(&scene.repository, &to, options).await.unwrap_err();
    assert!(matches!(error, Error::NoSnapshot { snapshot } if snapshot == unknown), "{error:?}");
    let error = copy(&scene.repository, &scene.repository, Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
}

#[tokio::test]
async fn copies_that_race_come_to_the_same() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let scene = Scene::filled(memory.store()).await;
    drop(init_copy(copied.store()).await);
    let copiers = (10..14).map(|seed| {
        let (from, store) = (scene.repository.clone(), copied.store());
        tokio::spawn(async move { copy(&from, &reopen_copy(store, seed).await, Options::default()).await })
    });
    for report in futures::future::join_all(copiers).await {
        let report = report.unwrap().unwrap();
        assert!(report.is_complete(), "{report:?}");
    }
    scene.compare(&reopen_copy(copied.store(), 20).await).await;
    assert!(copied.keys("uploads/").await.is_empty());
}

async fn collect_all(repository: &Repository) -> collect::Report {
    let options = collect::Options { threshold: 90, ..collect::Options::default() };
    repository.collect(&options, Progress::default(), CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn invariant_2_an_original_that_is_collected_and_repacked_is_copied_on() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let mut scene = Scene::filled(memory.store()).await;
    let to = init_copy(copied.store()).await;
    copy(&scene.repository, &to, Options::default()).await.unwrap();
    // Half of all snapshots go in both, with what they alone referred to.
    let (gone, kept) = std::mem::take(&mut scene.history).into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    let (gone, kept): (Vec<_>, Vec<_>) = (gone, kept);
    scene.history = kept.into_iter().map(|(_, kept)| kept).collect();
    for (_, (root, _)) in &gone {
        scene.repository.delete_snapshot(id(root), "deleted").await.unwrap();
    }
    collect_all(&scene.repository).await;
    assert!(!memory.keys("relocated/").await.is_empty(), "something was repacked");
    let options = Options { prune: true, ..Options::default() };
    assert_eq!(copy(&scene.repository, &to, options.clone()).await.unwrap().pruned.len(), gone.len());
    collect_all(&to).await;
    scene.compare(&to).await;

    // What is cut then builds on what was repacked, in both.
    let last = scene.history.iter().rfind(|(root, _)| root.description.volume_name == "two").unwrap();
    let mut volume = Volume { name: "two", image: Image::new(0), last: Some(id(&last.0)) };
    volume.image.bytes = last.1.to_vec();
    for _ in 0..3 {
        scene.change(&mut volume);
        scene.snapshot(&mut volume).await;
    }
    let report = copy(&scene.repository, &to, options.clone()).await.unwrap();
    assert!(report.is_complete() && report.copied() == 3, "{report:?}");
    for report in &report.snapshots {
        assert!(!matches!(report.outcome, Outcome::Copied { method: Method::Full, .. }), "{report:?}");
    }
    scene.compare(&to).await;
    let third = Repository::init(Memory::new().store(), &MasterKey::generate(&Seeded::new(5)), seams(3)).await.unwrap();
    assert!(copy(&scene.repository, &third, options.clone()).await.unwrap().is_complete());
    scene.compare(&third).await;
    // And back again, from the copy into a new first one.
    let fourth = Repository::init(Memory::new().store(), &image::master(), seams(4)).await.unwrap();
    assert!(copy(&to, &fourth, options).await.unwrap().is_complete());
    scene.compare(&fourth).await;
}

#[tokio::test]
async fn invariant_2_collections_on_both_sides_do_not_disturb_a_copy() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let mut scene = Scene::filled(memory.store()).await;
    drop(init_copy(copied.store()).await);
    let done = CancellationToken::new();
    let collecting = async |repository: Repository| {
        let mut rounds = 0;
        while !done.is_cancelled() {
            collect_all(&repository).await;
            rounds += 1;
            tokio::task::yield_now().await;
        }
        rounds
    };
    let original = Repository::open(memory.store(), &image::master(), seams(31)).await.unwrap();
    let second = reopen_copy(copied.store(), 32).await;
    // Some are deleted while they are, perhaps, being copied.
    let deleting = async {
        for (root, _) in scene.history.iter().step_by(5) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            scene.repository.delete_snapshot(id(root), "deleted").await.unwrap();
        }
    };
    let to = reopen_copy(copied.store(), 33).await;
    let copying = async {
        let report = copy(&scene.repository, &to, Options::default()).await.unwrap();
        assert!(report.is_complete(), "{report:?}");
        done.cancel();
    };
    let ((), (), one, other) = futures::join!(copying, deleting, collecting(original), collecting(second));
    assert!(one > 0 && other > 0);
    let options = Options { prune: true, ..Options::default() };
    assert!(copy(&scene.repository, &to, options).await.unwrap().is_complete());
    scene.history = scene.history.into_iter().enumerate().filter(|(n, _)| n % 5 != 0).map(|(_, kept)| kept).collect();
    scene.compare(&to).await;
    // Nothing stays for ever: neither of what was given up nor of what was deleted.
    collect_all(&to).await;
    let options = collect::Options::default();
    let plan = to.plan_collection(&options, Progress::default(), CancellationToken::new()).await.unwrap();
    assert_eq!(plan.garbage, []);
    assert_eq!(copied.keys("uploads/").await, [""; 0]);
    scene.compare(&to).await;
}

#[tokio::test]
async fn all_in_one_thread_a_copy_is_the_same() {
    let memory = Memory::new();
    let scene = small(memory.store()).await;
    let inline = |seed| Seams { work: Work::Inline, ..seams(seed) };
    let mut objects = Vec::new();
    for _ in 0..2 {
        let copied = Memory::new();
        let from = Repository::open(memory.store(), &image::master(), inline(8)).await.unwrap();
        let to = Repository::init(copied.store(), &other_master(), inline(9)).await.unwrap();
        let report = copy(&from, &to, Options::default()).await.unwrap();
        assert!(report.is_complete() && report.copied() == 3);
        scene.compare(&to).await;
        objects.push(copied.keys("packs/").await);
    }
    assert_eq!(objects[0], objects[1], "a seed decides everything");
}

#[tokio::test]
async fn a_copy_stops_when_told_to() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let scene = small(memory.store()).await;
    let to = init_copy(copied.store()).await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let stopped = scene.repository.copy_to(&to, Options::default(), Progress::default(), cancel).await;
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert!(copied.keys("snapshots/").await.is_empty());
}

#[tokio::test]
async fn followed_a_copy_keeps_up_and_outlives_an_outage() {
    let (memory, copied) = (Memory::new(), Memory::new());
    let mut scene = small(memory.store()).await;
    let to = init_copy(copied.store()).await;
    let mut copier = Copier::new(&scene.repository, &to, Options::default()).unwrap();
    let cancel = CancellationToken::new();
    let (told, mut rounds) = tokio::sync::mpsc::unbounded_channel();
    copied.arm(Some(Stop::Before(4)));
    let following = tokio::spawn({
        let cancel = cancel.clone();
        async move {
            let tell = |round: &Result<Report>| {
                let _ = told.send(round.as_ref().map(Report::copied).map_err(Error::kind));
            };
            copier.follow(Duration::from_millis(10), &Progress::default(), &cancel, tell).await
        }
    });
    assert_eq!(rounds.recv().await, Some(Err(ErrorKind::Denied)));
    copied.arm(None);
    assert_eq!(rounds.recv().await, Some(Ok(3)));
    let mut volume = Volume { name: "one", image: Image::new(0), last: Some(id(&scene.history[2].0)) };
    volume.image.bytes = scene.history[2].1.to_vec();
    volume.image.write_noise(7, 9, &scene.random);
    scene.snapshot(&mut volume).await;
    while rounds.recv().await != Some(Ok(1)) {}
    cancel.cancel();
    following.await.unwrap().unwrap();
    scene.compare(&to).await;
}

#[tokio::test]
async fn from_a_folder_to_a_real_server_under_another_key() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("original").display());
    let scene = Scene::filled(Store::open(&url, &[]).unwrap()).await;
    let mut gateway = Gateway::start();
    let to = init_copy(Store::open(&gateway.url("copy"), &gateway.options()).unwrap()).await;
    let report = copy(&scene.repository, &to, Options::default()).await.unwrap();
    assert!(report.is_complete() && report.copied() == 25);
    // The first is lost, and the server was away.
    drop(folder);
    gateway.kill();
    gateway.restart();
    let store = Store::open(&gateway.url("copy"), &gateway.options()).unwrap();
    let to = reopen_copy(store, 7).await;
    assert_eq!(to.snapshots().await.unwrap().len(), 25);
    scene.compare(&to).await;
}
