//! Offloads as their users see them: what they send, and that what comes back is what was cut.

mod image;
mod storage;

use std::{sync::Arc, time::Duration};

use image::{Image, Seeded, assert_same, base, id, init, offload, request, restore};
use storage::Memory;
use tokio_util::sync::CancellationToken;
use varve_repository::{
    Deletion, Error, SnapshotState,
    block::{BlockSource, Blocks},
    offload::Against,
    record::{snapshot::Method, volume::OffloadParameters},
};

const KIB: u64 = 1 << 10;

/// Bytes of everything put since the store was armed.
fn put_bytes(memory: &Memory) -> u64 {
    memory.puts().iter().map(|(_, size)| size).sum()
}

#[tokio::test]
async fn invariant_1_a_full_offload_restores_byte_for_byte() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(2);
    let mut image = Image::new(6000);
    image.write_noise(0, 1500, &random);
    image.write_text(2001, 999, &random);
    image.write_zeroes(2100, 33, false);
    image.write_noise(5999, 1, &random);
    let cut = image.cut();
    let request = request(&repository, "first", &cut, Against::Nothing);
    let progress = request.progress.clone();
    let root = repository.offload(request).await.unwrap();

    assert_eq!(root.method, Method::Full);
    assert_eq!(root.base, None);
    assert_eq!(root.runs.len(), 1);
    let statistics = root.statistics;
    assert_eq!(statistics.changed_bytes, 2500 * 4096);
    assert_eq!(statistics.read_bytes, 2500 * 4096);
    assert_eq!(statistics.stored_bytes, (2500 - 33) * 4096);
    assert_eq!(statistics.data_bytes, (2500 - 33) * 4096);
    assert_eq!(statistics.packs, 1);
    let reading = progress.read();
    assert_eq!((reading.total, reading.done), (2500 * 4096, 2500 * 4096));
    assert_eq!(reading.moved, statistics.uploaded_bytes);

    let (restored, moved) = image::restore_counted(&repository, &root).await.unwrap();
    assert_same(&restored, &cut.bytes, "the first snapshot");
    assert_eq!(moved.written_bytes, statistics.stored_bytes);
    assert_eq!(repository.snapshot(id(&root)).await.unwrap(), SnapshotState::Committed(Box::new(root)));
    assert!(memory.keys("uploads/").await.is_empty());
}

#[tokio::test]
async fn an_empty_image_makes_a_root_and_nothing_else() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let root = offload(&repository, "empty", &Image::new(100).cut(), Against::Nothing).await.unwrap();
    assert!(root.runs.is_empty());
    assert_eq!(root.statistics.data_bytes, 0);
    assert!(memory.keys("packs/").await.is_empty() && memory.keys("runs/").await.is_empty());
    assert_same(&restore(&repository, &root).await.unwrap(), &vec![0; 409_600], "an empty image");
}

#[tokio::test]
async fn an_incremental_offload_sends_what_changed_and_little_else() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(3);
    let mut image = Image::new(40_000);
    image.write_text(0, 20_000, &random);
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();

    // A thousand scattered blocks that do not compress.
    let mut blocks: Vec<u64> = (0..1000).map(|n| n * 20 + random.below(20)).collect();
    blocks.dedup();
    for block in &blocks {
        image.write_noise(*block, 1, &random);
    }
    let cut = image.cut();
    memory.arm(None);
    let second = offload(&repository, "second", &cut, base(&first)).await.unwrap();
    let changed = blocks.len() as u64 * 4096;
    assert_eq!(second.method, Method::Incremental);
    assert_eq!(second.base, Some(id(&first)));
    assert_eq!(second.statistics.changed_bytes, changed);
    let limit = changed * 13 / 10 + 64 * KIB;
    assert!(put_bytes(&memory) <= limit, "{} bytes put, {limit} allowed", put_bytes(&memory));
    assert!(put_bytes(&memory) <= changed + 40 * KIB, "{} bytes put", put_bytes(&memory));
    let keys: Vec<String> = memory.puts().into_iter().map(|(key, _)| key).collect();
    let mut folders: Vec<&str> = keys.iter().map(|key| key.split('/').next().unwrap()).collect();
    // The run is put beside the pack.
    folders[1..3].sort_unstable();
    assert_eq!(folders, ["uploads", "packs", "runs", "snapshots"]);
    assert_same(&restore(&repository, &second).await.unwrap(), &cut.bytes, "the second snapshot");

    // Nothing at all.
    memory.arm(None);
    let third = offload(&repository, "third", &image.cut(), base(&second)).await.unwrap();
    let folders: Vec<String> =
        memory.puts().into_iter().map(|(key, _)| key.split('/').next().unwrap().into()).collect();
    assert_eq!(folders, ["uploads", "snapshots"]);
    assert!(put_bytes(&memory) <= 16 * KIB, "{} bytes put", put_bytes(&memory));
    assert_eq!(third.runs, second.runs);
    assert_same(&restore(&repository, &third).await.unwrap(), &cut.bytes, "the third snapshot");
}

#[tokio::test]
async fn a_chain_of_sixty_snapshots_restores_each_and_survives_deletions() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(4);
    let mut image = Image::new(2000);
    image.write_text(0, 1000, &random);
    let mut history = Vec::new();
    let mut against = Against::Nothing;
    for number in 0..60 {
        let cut = image.cut();
        let root = offload(&repository, &format!("snapshot {number}"), &cut, against).await.unwrap();
        against = base(&root);
        history.push((root, cut.bytes));
        for _ in 0..random.below(30) {
            let (first, count) = (random.below(image.blocks()), 1 + random.below(40));
            let count = count.min(image.blocks() - first);
            match random.below(4) {
                0 => image.write_zeroes(first, count, true),
                1 => image.write_zeroes(first, count, false),
                2 => image.write_text(first, count, &random),
                _ => image.write_noise(first, count, &random),
            }
        }
        if number % 13 == 12 {
            image.grow(100);
        }
    }
    for (number, (root, bytes)) in history.iter().enumerate() {
        assert_same(&restore(&repository, root).await.unwrap(), bytes, &format!("snapshot {number}"));
        assert!(root.runs.len() <= 6, "snapshot {number} has {} runs", root.runs.len());
        let data = bytes.chunks(4096).filter(|block| block.iter().any(|byte| *byte != 0)).count() as u64;
        assert!(root.statistics.data_bytes >= data * 4096, "snapshot {number}");
    }
    // Every second one goes; nothing of it was what another stood on.
    for (root, _) in history.iter().step_by(2) {
        assert!(matches!(repository.delete_snapshot(id(root), "deleted").await.unwrap(), Deletion::Deleted(_)));
    }
    for (number, (root, bytes)) in history.iter().enumerate().skip(1).step_by(2) {
        assert_same(&restore(&repository, root).await.unwrap(), bytes, &format!("snapshot {number}"));
    }
}

#[tokio::test]
async fn compared_by_content_an_equal_image_sends_next_to_nothing() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(5);
    let mut image = Image::new(20_000);
    image.write_noise(0, 10_000, &random);
    image.write_text(12_345, 3000, &random);
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();

    memory.arm(None);
    let second = offload(&repository, "second", &image.scan(), Against::Content(id(&first))).await.unwrap();
    assert_eq!(second.method, Method::Compared);
    assert_eq!((second.statistics.stored_bytes, second.statistics.packs), (0, 0));
    assert_eq!(second.statistics.deduplicated_bytes, 13_000 * 4096);
    assert!(put_bytes(&memory) <= 16 * KIB, "{} bytes put", put_bytes(&memory));
    assert_same(&restore(&repository, &second).await.unwrap(), &image.bytes, "the second snapshot");

    // A change of one block costs its window, and what it stands on may go.
    image.write_noise(5000, 1, &random);
    let third = offload(&repository, "third", &image.scan(), Against::Content(id(&second))).await.unwrap();
    assert_eq!(third.statistics.stored_bytes, 32 * 4096);
    for root in [&first, &second] {
        repository.delete_snapshot(id(root), "deleted").await.unwrap();
    }
    assert_same(&restore(&repository, &third).await.unwrap(), &image.bytes, "the third snapshot");
}

#[tokio::test]
async fn equal_chunks_within_an_image_are_stored_once() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(6);
    let mut image = Image::new(3200);
    image.write_noise(0, 32, &random);
    let pattern = image.bytes[..32 * 4096].to_vec();
    for copy in image.bytes.chunks_mut(32 * 4096) {
        copy.copy_from_slice(&pattern);
    }
    let root = offload(&repository, "copies", &image.scan(), Against::Nothing).await.unwrap();
    assert_eq!((root.statistics.chunks, root.statistics.stored_bytes), (1, 32 * 4096));
    assert_eq!(root.statistics.deduplicated_bytes, 99 * 32 * 4096);
    let (restored, moved) = image::restore_counted(&repository, &root).await.unwrap();
    assert_same(&restored, &image.bytes, "copies");
    assert!(moved.fetched_bytes < 2 * 32 * 4096, "{moved:?}");
}

#[tokio::test]
async fn a_base_that_is_gone_is_told() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let mut image = Image::new(64);
    image.write_noise(0, 64, &Seeded::new(7));
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    repository.delete_snapshot(id(&first), "deleted").await.unwrap();
    let error = offload(&repository, "second", &image.cut(), base(&first)).await.unwrap_err();
    assert!(matches!(error, Error::BaseGone { base, .. } if base == id(&first)), "{error:?}");
    // Without the base it goes through, in place of the attempt that failed.
    let second = offload(&repository, "second", &image.scan(), Against::Nothing).await.unwrap();
    assert_same(&restore(&repository, &second).await.unwrap(), &image.bytes, "the second snapshot");
}

#[tokio::test]
async fn a_cancelled_snapshot_is_told_and_cleared_up() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let mut image = Image::new(64);
    image.write_noise(0, 64, &Seeded::new(8));
    let cut = image.cut();
    let request = request(&repository, "doomed", &cut, Against::Nothing);
    assert_eq!(repository.delete_snapshot(request.description.id, "not wanted").await.unwrap(), Deletion::Cancelled);
    let error = repository.offload(request).await.unwrap_err();
    assert!(matches!(&error, Error::Cancelled { reason, .. } if reason == "not wanted"), "{error:?}");
    assert!(memory.keys("uploads/").await.is_empty());
}

#[tokio::test]
async fn offloading_again_returns_the_root_that_stands() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let mut image = Image::new(64);
    image.write_noise(0, 64, &Seeded::new(9));
    let cut = image.cut();
    let root = offload(&repository, "once", &cut, Against::Nothing).await.unwrap();
    memory.arm(None);
    assert_eq!(offload(&repository, "once", &cut, Against::Nothing).await.unwrap(), root);
    assert!(memory.puts().is_empty());
}

#[tokio::test]
async fn an_error_of_the_tracking_is_found() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(10);
    let mut image = Image::new(500);
    image.write_noise(0, 500, &random);
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    // Everything but one block changes, and the change list knows of block 3 alone.
    let mut other = Image::new(500);
    other.write_noise(0, 500, &random);
    let mut cut = other.cut();
    image.write_noise(3, 1, &random);
    cut.changes = image.cut().changes;
    let error = offload(&repository, "second", &cut, base(&first)).await.unwrap_err();
    assert!(matches!(error, Error::Tracking { block, .. } if block != 3), "{error:?}");
    assert!(!memory.keys("snapshots/").await.iter().any(|key| key.contains("second")));
}

#[tokio::test]
async fn an_interrupted_offload_decides_nothing() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let mut image = Image::new(5000);
    image.write_noise(0, 5000, &Seeded::new(11));
    let cut = image.cut();
    let mut slow = request(&repository, "slow", &cut, Against::Nothing);
    // A pack goes every other second, so that there is one before there are all.
    slow.parameters = OffloadParameters { bandwidth: Some(2 << 20), ..OffloadParameters::default() };
    let (snapshot, cancel) = (slow.description.id, slow.cancel.clone());
    let running = tokio::spawn({
        let repository = repository.clone();
        async move { repository.offload(slow).await }
    });
    while memory.keys("packs/").await.is_empty() {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    let result = tokio::time::timeout(Duration::from_secs(20), running).await.expect("it ends promptly").unwrap();
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    assert_eq!(repository.snapshot(snapshot).await.unwrap(), SnapshotState::Absent);
    let root = offload(&repository, "slow", &cut, Against::Nothing).await.unwrap();
    assert_same(&restore(&repository, &root).await.unwrap(), &cut.bytes, "the second attempt");
}

/// An image of 64 GiB of which every sixteenth window is written, made up as it is read.
struct Vast;

const VAST_BLOCKS: u64 = 64 << 18;

impl BlockSource for Vast {
    fn capacity(&self) -> Blocks {
        Blocks(VAST_BLOCKS)
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> std::io::Result<()> {
        for (block, number) in buffer.chunks_mut(4096).zip(first.0..) {
            block.fill(7);
            block[..8].copy_from_slice(&number.to_le_bytes());
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_vast_sparse_image_is_offloaded_without_reading_its_holes() {
    use varve_repository::block::{BlockRange, Change, ChangeSource};
    struct EverySixtyFourMebibytes;
    impl ChangeSource for EverySixtyFourMebibytes {
        fn changes(
            &self,
            from: Blocks,
        ) -> std::io::Result<Box<dyn Iterator<Item = std::io::Result<Change>> + Send + '_>> {
            let ranges = (0..VAST_BLOCKS).step_by(1 << 14).map(|first| BlockRange::new(first, 33));
            Ok(Box::new(ranges.filter(move |range| range.end() > from).map(|range| Ok(Change::Data(range)))))
        }
    }
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let mut request = request(&repository, "vast", &Image::new(1).cut(), Against::Nothing);
    request.description.capacity_bytes = VAST_BLOCKS * 4096;
    request.source = Arc::new(Vast);
    request.changes = Arc::new(EverySixtyFourMebibytes);
    let root = repository.offload(request).await.unwrap();
    assert_eq!(root.statistics.read_bytes, 1024 * 33 * 4096);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let target = varve_repository::block::FileTarget::create(&path, Blocks(VAST_BLOCKS)).unwrap();
    let moved =
        repository.hydrate(&root, Arc::new(target), Default::default(), CancellationToken::new()).await.unwrap();
    assert_eq!(moved.written_bytes, 1024 * 33 * 4096);
    let source = varve_repository::block::FileSource::open(&path).unwrap();
    let (mut found, mut expected) = (vec![0; 33 * 4096], vec![0; 33 * 4096]);
    for first in (0..VAST_BLOCKS).step_by(1 << 14) {
        source.read(Blocks(first), &mut found).unwrap();
        Vast.read(Blocks(first), &mut expected).unwrap();
        assert_same(&found, &expected, "a window");
    }
    source.read(Blocks((1 << 14) - 33), &mut found).unwrap();
    assert!(found.iter().all(|byte| *byte == 0));
}

/// A cut whose disk fails at a block.
struct Failing {
    cut: image::Cut,
    at: u64,
}

impl BlockSource for Failing {
    fn capacity(&self) -> Blocks {
        self.cut.capacity()
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> std::io::Result<()> {
        if (first.0..first.0 + buffer.len() as u64 / 4096).contains(&self.at) {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.cut.read(first, buffer)
    }
}

#[tokio::test]
async fn what_a_larger_base_holds_past_the_end_does_not_come_back() {
    let repository = init(Memory::new().store()).await;
    let random = Seeded::new(13);
    let mut image = Image::new(3000);
    image.write_noise(0, 3000, &random);
    let large = offload(&repository, "large", &image.cut(), Against::Nothing).await.unwrap();
    // Many extents above it, so that the two are merged in one case and not in the other.
    for scattered in [1, 80] {
        let mut image = image.clone();
        image.bytes.truncate(2000 * image::BLOCK);
        (0..scattered).for_each(|n| image.write_noise(n * 7, 1, &random));
        let small = offload(&repository, &format!("small-{scattered}"), &image.cut(), base(&large)).await.unwrap();
        image.grow(500);
        image.write_noise(2400, 1, &random);
        let cut = image.cut();
        let grown = offload(&repository, &format!("grown-{scattered}"), &cut, base(&small)).await.unwrap();
        assert_same(&restore(&repository, &grown).await.unwrap(), &cut.bytes, "larger than its base");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_told_and_made_good_by_the_next_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    // So small that the scan never waits for a put: the paused clock would wait for the scan.
    let mut image = Image::new(3500);
    image.write_noise(0, 3500, &Seeded::new(12));
    let cut = image.cut();
    for at in [0, 1023, 1500, 2047, 2048, 3000, 3499] {
        let memory = Memory::new();
        let repository = init(memory.store()).await;
        let attempt = |source: Arc<dyn BlockSource>| {
            let mut request = request(&repository, "first", &cut, Against::Nothing);
            request.source = source;
            request.journal = Some(journal.clone());
            // Packs of 4 MiB, so that there is something to go on from.
            request.parameters =
                OffloadParameters { compression: Some(0), bandwidth: Some(1 << 20), ..OffloadParameters::default() };
            repository.offload(request)
        };
        let error = attempt(Arc::new(Failing { cut: cut.clone(), at })).await.unwrap_err();
        assert!(matches!(&error, Error::Local { what, .. } if what.starts_with("reading ")), "{error:?}");
        memory.arm(None);
        let root = attempt(Arc::new(cut.clone())).await.unwrap();
        assert_same(&restore(&repository, &root).await.unwrap(), &cut.bytes, "after a failed read");
        assert_eq!(root.statistics.changed_bytes, 3500 * 4096);
        let sent = memory.puts().iter().filter(|(key, _)| key.starts_with("packs/")).count() as u64;
        assert_eq!(sent < root.statistics.packs, at >= 1024 + 256, "failed at {at}: {sent} packs sent");
    }
}
