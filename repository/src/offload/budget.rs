//! How much memory an offload takes, and how large it makes packs and how much it does at once with it.

use std::num::NonZero;

use super::scan::READS_AHEAD;
use crate::memory::Memory;

/// A pack is closed at the first mark where it has this many bytes, or less where there is less memory.
const PACK_BYTES: u32 = 32 << 20;

/// A pack is closed at a mark where it has this many bytes, however little memory there is, unless the bandwidth is low.
const LEAST_PACK_BYTES: u32 = 4 << 20;

/// The parts of the memory that packs may take, in packs: as many as that are filled and put at once.
const PACKS_IN_MEMORY: usize = 6;

/// What a pack may take between two marks beyond what it had at the first: fewer than 2048 blocks, chunks' tags and table
/// entries among them.
const RESERVE: usize = (8 << 20) + (256 << 10);

/// Memory for a batch under way: as it was read, and as it is compressed.
const BATCH_BYTES: usize = (2 << 20) + (128 << 10);

/// Memory for what is neither a batch nor a pack: reads ahead, the index of chunks, extents, a run being written.
const CONSTANT_BYTES: usize = (12 << 20) + (READS_AHEAD << 20);

/// What of it an offload keeps once everything is scanned, for its runs and its root.
pub(super) const LAST_BYTES: usize = 12 << 20;

/// Batches that the scan may be ahead.
pub(super) const SCAN_AHEAD: usize = 3;

/// How many batches are hashed and compressed at once.
pub(super) fn batches(memory: &Memory) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    (2 * cores).min(memory.total() / 8 / BATCH_BYTES).max(2)
}

/// Memory that an offload cannot do without, in bytes.
pub(super) fn offload_bytes(memory: &Memory) -> usize {
    // One more is in the scan's hands, and one is being placed.
    (SCAN_AHEAD + 1 + batches(memory) + 1) * BATCH_BYTES + RESERVE + CONSTANT_BYTES
}

/// How large packs are made, as the memory allows.
pub(super) fn pack_bytes(memory: &Memory) -> u32 {
    let share = u32::try_from(memory.total() / PACKS_IN_MEMORY).unwrap_or(PACK_BYTES);
    share.clamp(LEAST_PACK_BYTES, PACK_BYTES)
}
