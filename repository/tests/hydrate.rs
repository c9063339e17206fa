//! Hydration: what it fetches, what it refuses, and how it ends early.

mod image;
mod storage;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use image::{Image, Seeded, assert_same, base, init, master, offload, restore, restore_counted, seams};
use storage::{Memory, Operation};
use tokio_util::sync::CancellationToken;
use varve_repository::{
    Error, Repository, SnapshotState,
    block::{BlockTarget, Blocks, FileSource, FileTarget},
    offload::Against,
    progress::Progress,
    record::snapshot::Root,
};

#[tokio::test]
async fn chunks_that_lie_together_are_fetched_together() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(30);
    let mut image = Image::new(4096);
    image.write_noise(0, 4096, &random);
    let root = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    memory.arm(None);
    let (restored, moved) = restore_counted(&repository, &root).await.unwrap();
    assert_same(&restored, &image.bytes, "the snapshot");
    // The run, the table, and 16 MiB by 4 MiB.
    let gets = memory.operations().len();
    assert!(gets <= 8, "{gets} requests");
    assert!(moved.fetched_bytes < 16 * 1024 * 1024 + 64 * 1024, "{moved:?}");
}

#[tokio::test]
async fn a_file_is_restored_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(31);
    let mut image = Image::new(3000);
    image.write_text(10, 500, &random);
    image.write_noise(2990, 10, &random);
    let path = folder.path().join("image");
    let target = FileTarget::create(&path, Blocks(3000)).unwrap();
    let written = image.bytes.chunks(4096).zip(0..).filter(|(block, _)| block.iter().any(|byte| *byte != 0));
    for (block, number) in written {
        target.write(Blocks(number), block).unwrap();
    }
    target.sync().unwrap();

    let source = Arc::new(FileSource::open(&path).unwrap());
    let mut request = image::request(&repository, "file", &image.cut(), Against::Nothing);
    request.changes = source.clone();
    request.source = source;
    let root = repository.offload(request).await.unwrap();

    let path = folder.path().join("restored");
    let target = FileTarget::create(&path, Blocks(3000)).unwrap();
    repository.hydrate(&root, Arc::new(target), Progress::default(), CancellationToken::new()).await.unwrap();
    assert_same(&std::fs::read(&path).unwrap(), &image.bytes, "the file");
}

/// A small repository with two snapshots, of which the second stands on the first.
async fn two_snapshots() -> (Arc<Memory>, Vec<(Root, Vec<u8>)>) {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(32);
    let mut image = Image::new(200);
    image.write_text(0, 70, &random);
    image.write_noise(100, 3, &random);
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    let held = image.bytes.clone();
    image.write_text(64, 40, &random);
    let second = offload(&repository, "second", &image.cut(), base(&first)).await.unwrap();
    (memory, vec![(first, held), (second, image.bytes)])
}

#[tokio::test]
async fn invariant_6_no_flipped_bit_reaches_a_volume() {
    let (memory, snapshots) = two_snapshots().await;
    let mut detected = 0;
    for (key, bytes) in memory.objects().await {
        // Every byte of what is small, and a sample of what is large.
        let step = (bytes.len() / 400).max(1);
        for at in (0..bytes.len()).step_by(step) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            memory.overwrite(&key, flipped).await;
            let Ok(repository) = Repository::open(memory.store(), &master(), seams(3)).await else {
                assert_eq!(key, "repository");
                detected += 1;
                continue;
            };
            for (root, expected) in &snapshots {
                let read = match repository.snapshot(root.description.id).await {
                    Ok(SnapshotState::Committed(root)) => restore(&repository, &root).await,
                    Ok(other) => panic!("{key} at {at}: {other:?}"),
                    Err(error) => Err(error),
                };
                match read {
                    Ok(restored) => assert_same(&restored, expected, &format!("{key} at {at}")),
                    Err(Error::Corrupt { object, .. }) => {
                        assert_eq!(object, key);
                        detected += 1;
                    }
                    Err(Error::FutureFormat { object, .. }) => {
                        assert_eq!(object, key);
                        detected += 1;
                    }
                    Err(error) => panic!("{key} at {at}: {error:?}"),
                }
            }
        }
        memory.overwrite(&key, bytes).await;
    }
    assert!(detected > 1000, "{detected}");
}

#[tokio::test]
async fn objects_that_are_missing_or_cut_short_are_named() {
    let (memory, snapshots) = two_snapshots().await;
    let repository = Repository::open(memory.store(), &master(), seams(3)).await.unwrap();
    let (root, _) = &snapshots[1];
    let objects = memory.objects().await;
    for (key, bytes) in objects.iter().filter(|(key, _)| key.starts_with("packs/") || key.starts_with("runs/")) {
        if key.starts_with("runs/") && !root.runs.iter().any(|run| *key == format!("runs/{}", run.id)) {
            continue;
        }
        for length in [None, Some(0), Some(8), Some(bytes.len() / 2), Some(bytes.len() - 1)] {
            match length {
                None => memory.remove(key).await,
                Some(length) => memory.overwrite(key, bytes[..length].to_vec()).await,
            }
            match restore(&repository, root).await {
                Err(Error::Corrupt { object, .. }) => assert_eq!(object, *key, "{length:?}"),
                other => panic!("{key} {length:?}: {other:?}"),
            }
            memory.overwrite(key, bytes.clone()).await;
        }
    }
    // A pack in another's place is not taken for it.
    let packs: Vec<_> = objects.iter().filter(|(key, _)| key.starts_with("packs/")).collect();
    memory.overwrite(&packs[0].0, packs[1].1.clone()).await;
    assert!(matches!(restore(&repository, root).await, Err(Error::Corrupt { .. })));
}

/// A target that counts, and fails or cancels at a write.
struct Trap {
    writes: AtomicU64,
    at: u64,
    cancel: Option<CancellationToken>,
}

impl BlockTarget for Trap {
    fn write(&self, _: Blocks, _: &[u8]) -> io::Result<()> {
        if self.writes.fetch_add(1, Ordering::SeqCst) != self.at {
            return Ok(());
        }
        match &self.cancel {
            Some(cancel) => {
                cancel.cancel();
                Ok(())
            }
            None => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        panic!("what failed is not synced")
    }
}

#[tokio::test]
async fn a_failed_write_and_a_cancellation_end_it_with_nothing_under_way() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let mut image = Image::new(16_384);
    image.write_noise(0, 16_384, &Seeded::new(33));
    let root = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    for cancel in [None, Some(CancellationToken::new())] {
        let trap = Arc::new(Trap { writes: AtomicU64::new(0), at: 9, cancel: cancel.clone() });
        let token = cancel.clone().unwrap_or_default();
        let result = repository.hydrate(&root, trap.clone(), Progress::default(), token).await;
        match (&cancel, &result) {
            (None, Err(Error::Local { what, source })) => {
                assert!(what.starts_with("writing "), "{what}");
                assert_eq!(source.kind(), io::ErrorKind::StorageFull);
            }
            (Some(_), Err(Error::Interrupted)) => {}
            _ => panic!("{result:?}"),
        }
        // Nothing else holds the target: no thread will write to it any more.
        assert_eq!(Arc::strong_count(&trap), 1);
        assert!(trap.writes.load(Ordering::SeqCst) < 64, "{}", trap.writes.load(Ordering::SeqCst));
    }
}

#[tokio::test]
async fn progress_ends_where_the_work_does() {
    let (memory, snapshots) = two_snapshots().await;
    let repository = Repository::open(memory.store(), &master(), seams(3)).await.unwrap();
    memory.arm(None);
    for (root, _) in &snapshots {
        let folder = tempfile::tempdir().unwrap();
        let target = FileTarget::create(&folder.path().join("image"), Blocks(200)).unwrap();
        let progress = Progress::default();
        let moved =
            repository.hydrate(root, Arc::new(target), progress.clone(), CancellationToken::new()).await.unwrap();
        let reading = progress.read();
        assert_eq!((reading.total, reading.done), (moved.written_bytes, moved.written_bytes));
        assert_eq!(reading.moved, moved.fetched_bytes);
    }
    assert!(memory.operations().iter().all(|operation| matches!(operation, Operation::Get(_))));
}

#[tokio::test]
async fn a_snapshot_that_is_deleted_meanwhile_is_cancelled_and_not_damaged() {
    let (memory, snapshots) = two_snapshots().await;
    let repository = Repository::open(memory.store(), &master(), seams(3)).await.unwrap();
    let (root, _) = &snapshots[1];
    repository.delete_snapshot(root.description.id, "not wanted").await.unwrap();
    for key in memory.keys("").await {
        if key.starts_with("packs/") || key.starts_with("runs/") {
            memory.remove(&key).await;
        }
    }
    let cancelled = |error| matches!(error, Error::Cancelled { ref reason, .. } if reason == "not wanted");
    assert!(cancelled(restore(&repository, root).await.unwrap_err()));
    let target = Arc::new(image::Restored::new(200 * 4096));
    let salvaged = repository.salvage(root, target, Progress::default(), CancellationToken::new()).await;
    assert!(cancelled(salvaged.unwrap_err()));
    // The other one is there, and is damaged.
    assert!(matches!(restore(&repository, &snapshots[0].0).await, Err(Error::Corrupt { .. })));
}
