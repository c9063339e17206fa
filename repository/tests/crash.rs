//! Crashes: the process dies at every request to the store, before and after it is applied, and another one takes up
//! where it was.

mod image;
mod storage;

use std::path::{Path, PathBuf};

use image::{Cut, Image, Seeded, assert_same, base, init, master, offload, restore, seams};
use storage::{Memory, Operation, Stop};
use varve_repository::{
    Error, Repository, Result, SnapshotState,
    check::Level,
    offload::Against,
    record::{snapshot::Root, volume::OffloadParameters},
};

/// A base, and a cut of 14 MiB of changes against it, which make four packs at the bandwidth used.
struct Scene {
    memory: std::sync::Arc<Memory>,
    first: Root,
    cut: Cut,
}

async fn scene() -> Scene {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(20);
    let mut image = Image::new(8000);
    image.write_text(0, 2000, &random);
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    image.write_noise(1000, 3500, &random);
    image.write_zeroes(100, 40, true);
    Scene { memory, first, cut: image.cut() }
}

impl Scene {
    /// Runs the offload on a store by a process of its own.
    async fn attempt(&self, memory: &std::sync::Arc<Memory>, seed: u64, journal: Option<PathBuf>) -> Result<Root> {
        let repository = Repository::open(memory.store(), &master(), seams(seed)).await?;
        let mut request = image::request(&repository, "second", &self.cut, base(&self.first));
        request.journal = journal;
        // Packs of 4 MiB instead of 32; the clock is paused, so that nothing waits.
        request.parameters =
            OffloadParameters { compression: Some(1), bandwidth: Some(1 << 20), ..OffloadParameters::default() };
        repository.offload(request).await
    }

    /// What a crash must leave: the first snapshot, and of the second all or nothing.
    async fn assert_sound(&self, memory: &std::sync::Arc<Memory>, what: &str) {
        let repository = Repository::open(memory.store(), &master(), seams(99)).await.unwrap();
        let report = repository.check(Level::Content, Default::default(), Default::default()).await.unwrap();
        assert_eq!(report.damages, [], "{what}");
        let snapshot = repository.snapshot_id("second", 0);
        if let SnapshotState::Committed(root) = repository.snapshot(snapshot).await.unwrap() {
            assert_same(&restore(&repository, &root).await.unwrap(), &self.cut.bytes, what);
        }
    }
}

/// What packs in the store take that are not the first snapshot's.
async fn pack_bytes(memory: &Memory, first: &Root) -> u64 {
    let first = format!("packs/{}", first.upload);
    let objects = memory.objects().await;
    let packs = objects.iter().filter(|(key, _)| key.starts_with("packs/") && !key.starts_with(&first));
    packs.map(|(_, bytes)| bytes.len() as u64).sum()
}

/// How much less than a chunk is: the header, the table and the tags of a few packs.
const LESS_THAN_A_CHUNK: u64 = 2000;

async fn crash_everywhere(journal: Option<&Path>) {
    let scene = scene().await;
    let whole = scene.memory.fork().await;
    whole.arm(None);
    let expected = scene.attempt(&whole, 50, None).await.unwrap();
    let packs = usize::try_from(expected.statistics.packs).unwrap();
    assert!(packs >= 3, "{packs} packs");
    let whole_bytes = pack_bytes(&whole, &scene.first).await;
    let operations = whole.operations();
    assert!(operations.len() > 15, "{operations:?}");

    let stops = (0..operations.len() + 1).flat_map(|at| [Stop::Before(at), Stop::After(at)]);
    let mut resumed = 0;
    for stop in stops {
        let what = format!("{stop:?} with journal {}", journal.is_some());
        let memory = scene.memory.fork().await;
        if let Some(journal) = journal {
            let _ = std::fs::remove_file(journal);
        }
        memory.arm(Some(stop));
        let outcome = scene.attempt(&memory, 60, journal.map(Path::to_owned)).await;
        let crashed = memory.stopped();
        assert!(crashed || outcome.is_ok(), "{what}: {outcome:?}");
        let stored_bytes = pack_bytes(&memory, &scene.first).await;
        memory.arm(None);
        scene.assert_sound(&memory, &what).await;

        memory.arm(None);
        let root = scene.attempt(&memory, 70, journal.map(Path::to_owned)).await.unwrap();
        let puts = memory.puts().into_iter().filter(|(key, _)| key.starts_with("packs/"));
        let sent_bytes: u64 = puts.map(|(_, size)| size).sum();
        scene.assert_sound(&memory, &what).await;
        assert_eq!(root.statistics.changed_bytes, expected.statistics.changed_bytes, "{what}");
        assert_eq!(root.statistics.data_bytes, expected.statistics.data_bytes, "{what}");
        assert_eq!(root.statistics.stored_bytes, expected.statistics.stored_bytes, "{what}");
        assert!(memory.keys("uploads/").await.is_empty(), "{what}");
        assert!(journal.is_none_or(|journal| !journal.exists()), "{what}");

        if journal.is_some() {
            // Not a chunk is sent twice, not even of the packs that were on their way.
            let limit = whole_bytes + LESS_THAN_A_CHUNK;
            assert!(stored_bytes + sent_bytes <= limit, "{what}: {sent_bytes} sent after {stored_bytes}");
            assert_eq!(pack_bytes(&memory, &scene.first).await, stored_bytes + sent_bytes, "{what}");
            resumed += usize::from(stored_bytes > 0 && sent_bytes > 0);
        }
    }
    assert!(journal.is_none() || resumed >= 4, "{resumed} attempts were continued in the middle");
}

#[tokio::test(start_paused = true)]
async fn invariant_3_a_crash_at_any_request_is_made_good_without_a_journal() {
    crash_everywhere(None).await;
}

#[tokio::test(start_paused = true)]
async fn invariant_3_a_crash_at_any_request_is_continued_with_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    crash_everywhere(Some(&folder.path().join("journal"))).await;
}

/// Dies again and again, each time at a later request of what is left.
#[tokio::test(start_paused = true)]
async fn an_offload_that_dies_at_every_second_request_ends_without_sending_anything_twice() {
    let scene = scene().await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let whole = scene.memory.fork().await;
    scene.attempt(&whole, 50, None).await.unwrap();
    let limit = pack_bytes(&whole, &scene.first).await + LESS_THAN_A_CHUNK;

    let memory = scene.memory.fork().await;
    let (mut sent_bytes, mut deaths) = (0, 0);
    let root = loop {
        // Late enough to come as far as a pack, and at another request each time.
        memory.arm(Some(if deaths % 2 == 0 { Stop::After(8 + deaths) } else { Stop::Before(8 + deaths) }));
        let outcome = scene.attempt(&memory, 60 + deaths as u64, Some(journal.clone())).await;
        let stored: Vec<String> = memory.keys("packs/").await;
        let puts = memory.puts().into_iter().filter(|(key, _)| stored.contains(key));
        sent_bytes += puts.map(|(_, size)| size).sum::<u64>();
        match outcome {
            Ok(root) => break root,
            Err(error) => assert!(memory.stopped(), "{error:?}"),
        }
        deaths += 1;
        assert!(deaths < 200, "it does not come to its end");
    };
    assert!(deaths > 3, "{deaths}");
    assert!(sent_bytes <= limit, "{sent_bytes} of {limit} after {deaths} deaths");
    memory.arm(None);
    assert_same(&restore_from(&memory, &root).await, &scene.cut.bytes, "after many deaths");
    scene.assert_sound(&memory, "after many deaths").await;
}

async fn restore_from(memory: &std::sync::Arc<Memory>, root: &Root) -> Vec<u8> {
    let repository = Repository::open(memory.store(), &master(), seams(98)).await.unwrap();
    restore(&repository, root).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_ends_an_offload_under_way_and_it_never_comes_back() {
    let scene = scene().await;
    let whole = scene.memory.fork().await;
    whole.arm(None);
    scene.attempt(&whole, 50, None).await.unwrap();
    let first_pack = whole
        .operations()
        .iter()
        .position(|operation| matches!(operation, Operation::Put(key, _) if key.starts_with("packs/")));
    for behind in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        let memory = scene.memory.fork().await;
        memory.arm(Some(Stop::Before(first_pack.unwrap() + behind)));
        scene.attempt(&memory, 60, Some(journal.clone())).await.unwrap_err();
        memory.arm(None);
        let repository = Repository::open(memory.store(), &master(), seams(1)).await.unwrap();
        let snapshot = repository.snapshot_id("second", 0);
        repository.delete_snapshot(snapshot, "not wanted").await.unwrap();
        // With the journal, and as a process that knows nothing of it.
        for (seed, journal) in [(70, Some(journal.clone())), (71, None)] {
            memory.arm(None);
            let error = scene.attempt(&memory, seed, journal).await.unwrap_err();
            assert!(matches!(&error, Error::Cancelled { reason, .. } if reason == "not wanted"), "{error:?}");
            let puts = memory.puts().into_iter().filter(|(key, _)| !key.starts_with("uploads/"));
            assert_eq!(puts.collect::<Vec<_>>(), [], "nothing is sent any more");
            assert!(memory.keys("uploads/").await.is_empty());
        }
        assert!(!journal.exists());
        assert!(matches!(repository.snapshot(snapshot).await.unwrap(), SnapshotState::Gone(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_journal_whose_intent_is_gone_is_not_continued() {
    let scene = scene().await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let whole = scene.memory.fork().await;
    whole.arm(None);
    let expected = scene.attempt(&whole, 50, None).await.unwrap();
    // Dies at the last pack.
    let last = whole
        .operations()
        .iter()
        .rposition(|operation| matches!(operation, Operation::Put(key, _) if key.starts_with("packs/")));
    let memory = scene.memory.fork().await;
    memory.arm(Some(Stop::Before(last.unwrap())));
    scene.attempt(&memory, 60, Some(journal.clone())).await.unwrap_err();
    // A collector that found no intent has taken its packs.
    memory.arm(None);
    let snapshot = Repository::open(memory.store(), &master(), seams(1)).await.unwrap().snapshot_id("second", 0);
    memory.remove(&format!("uploads/{snapshot}")).await;
    let kept = scene.memory.keys("packs/").await;
    for pack in memory.keys("packs/").await.iter().filter(|pack| !kept.contains(pack)) {
        memory.remove(pack).await;
    }
    let root = scene.attempt(&memory, 70, Some(journal)).await.unwrap();
    assert_eq!(root.statistics.packs, expected.statistics.packs);
    scene.assert_sound(&memory, "after a collection").await;
}

#[tokio::test(start_paused = true)]
async fn of_two_writers_at_once_one_root_stands_and_both_are_told() {
    let scene = scene().await;
    for seed in 0..4 {
        let memory = scene.memory.fork().await;
        let (one, other) =
            tokio::join!(scene.attempt(&memory, 100 + seed, None), scene.attempt(&memory, 200 + seed, None));
        let repository = Repository::open(memory.store(), &master(), seams(2)).await.unwrap();
        let stands = match repository.snapshot(repository.snapshot_id("second", 0)).await.unwrap() {
            SnapshotState::Committed(root) => *root,
            other => panic!("{other:?}"),
        };
        let mut committed = 0;
        for outcome in [one, other] {
            match outcome {
                Ok(root) => {
                    assert_eq!(root, stands);
                    committed += 1;
                }
                Err(error) => assert!(matches!(error, Error::Conflict { .. }), "{error:?}"),
            }
        }
        assert!(committed > 0);
        scene.assert_sound(&memory, "after two writers").await;
    }
}
