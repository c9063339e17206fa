//! Memory: bounded whatever the size of the image. A test binary of its own, since it measures the process.

mod image;
mod storage;

use std::{io, sync::Arc};

use image::init;
use storage::Memory;
use tokio_util::sync::CancellationToken;
use varve_repository::{
    block::{BlockRange, BlockSource, BlockTarget, Blocks, Change, ChangeSource},
    offload::Against,
    progress::Progress,
};

/// 1 GiB, no block like another, made up as they are read. An eighth of each does not compress: four packs or so.
const BLOCKS: u64 = 1 << 18;

struct MadeUp;

impl BlockSource for MadeUp {
    fn capacity(&self) -> Blocks {
        Blocks(BLOCKS)
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        for (block, number) in buffer.chunks_mut(4096).zip(first.0..) {
            block.fill(7);
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut block[..512]);
        }
        Ok(())
    }
}

impl ChangeSource for MadeUp {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        Ok(Box::new(std::iter::once(Ok(Change::Data(BlockRange::new(from.0, BLOCKS - from.0))))))
    }
}

impl BlockTarget for MadeUp {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        for (block, number) in data.chunks(4096).zip(first.0..) {
            assert_eq!(block[..32], *blake3::hash(&number.to_le_bytes()).as_bytes());
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The most memory that the process has held, in bytes; proc(5), `VmHWM`.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_8_memory_does_not_grow_with_the_image() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let before = peak();
    let mut request = image::request(&repository, "large", &image::Image::new(1).cut(), Against::Nothing);
    request.description.capacity_bytes = BLOCKS * 4096;
    request.source = Arc::new(MadeUp);
    request.changes = Arc::new(MadeUp);
    let root = repository.offload(request).await.unwrap();
    assert_eq!(root.statistics.stored_bytes, BLOCKS * 4096);
    let stored = root.statistics.uploaded_bytes;
    let offloaded = peak() - before;
    assert!(offloaded < stored + (200 << 20), "{} MiB, {} of them the store", offloaded >> 20, stored >> 20);

    let moved =
        repository.hydrate(&root, Arc::new(MadeUp), Progress::default(), CancellationToken::new()).await.unwrap();
    assert_eq!(moved.written_bytes, BLOCKS * 4096);
    let hydrated = peak() - before;
    assert!(hydrated < stored + (200 << 20), "{} MiB, {} of them the store", hydrated >> 20, stored >> 20);
    println!("peak {} MiB above {} MiB, {} MiB of it the store", hydrated >> 20, before >> 20, stored >> 20);
}
