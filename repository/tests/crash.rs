//! Crashes: the process dies at every request to the store, before and after it is applied, and another one takes up
//! where it was.

mod image;
mod storage;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

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
        request.parameters = OffloadParameters { compression: Some(1), bandwidth: Some(1 << 20) };
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

/// Packs in the store that no root of `roots` could refer to: those of other uploads, and those put twice over.
async fn packs_by_upload(memory: &Memory, root: &Root) -> (usize, usize) {
    let packs = memory.keys("packs/").await;
    let prefix = format!("packs/{}", root.upload);
    let own = packs.iter().filter(|pack| pack.starts_with(&prefix)).count();
    (own, packs.len() - own)
}

async fn crash_everywhere(journal: Option<&Path>) {
    let scene = scene().await;
    let whole = scene.memory.fork().await;
    whole.arm(None);
    let expected = scene.attempt(&whole, 50, None).await.unwrap();
    let packs = usize::try_from(expected.statistics.packs).unwrap();
    assert!(packs >= 3, "{packs} packs");
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
        let stored: HashSet<String> = memory.keys("packs/").await.into_iter().collect();
        memory.arm(None);
        scene.assert_sound(&memory, &what).await;

        memory.arm(None);
        let root = scene.attempt(&memory, 70, journal.map(Path::to_owned)).await.unwrap();
        let again = memory.puts().into_iter().filter(|(key, _)| key.starts_with("packs/")).count();
        scene.assert_sound(&memory, &what).await;
        assert_eq!(root.statistics.changed_bytes, expected.statistics.changed_bytes, "{what}");
        assert_eq!(root.statistics.data_bytes, expected.statistics.data_bytes, "{what}");
        assert_eq!(root.statistics.stored_bytes, expected.statistics.stored_bytes, "{what}");
        assert!(memory.keys("uploads/").await.is_empty(), "{what}");
        assert!(journal.is_none_or(|journal| !journal.exists()), "{what}");

        let (own, other) = packs_by_upload(&memory, &root).await;
        if journal.is_some() {
            // What was stored and written down is not sent again. Two packs are under way at a time, so that one may be
            // stored, and the one before it be what the process died at.
            let stored_second = stored.len() - 1;
            assert!(again + stored_second <= packs + 2, "{what}: {again} packs sent after {stored_second}");
            assert!(own <= packs + 2, "{what}: {own} packs of the upload");
            resumed += usize::from(other == 1 && stored_second > 0 && again < packs && again > 0);
        } else {
            assert!(own <= packs, "{what}");
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
