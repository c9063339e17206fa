//! Blocks: the unit of tracking, and the seams through which blocks are read and written.

mod file;

pub use file::{FileSource, FileTarget};

use std::{fmt, io, ops};

use serde::{Deserialize, Serialize};

/// Bytes in one block. Offsets and lengths of everything tracked are multiples of it.
pub const BLOCK_SIZE: u64 = 4096;

/// Most blocks that one chunk gathers: 32 blocks, 128 KiB.
pub const CHUNK_BLOCKS: u64 = 32;

/// A count of blocks, or the position of a block counted from the start of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Blocks(pub u64);

impl Blocks {
    /// No block; the first position.
    pub const ZERO: Self = Self(0);

    /// Converts a byte count that is a whole number of blocks; `None` for any other.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        bytes.is_multiple_of(BLOCK_SIZE).then_some(Self(bytes / BLOCK_SIZE))
    }

    /// Returns the same length in bytes; saturates far above any image's size.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(BLOCK_SIZE)
    }
}

impl ops::Add for Blocks {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl ops::Sub for Blocks {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl ops::AddAssign for Blocks {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run of blocks: `[first, first + count)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRange {
    /// The first block of the run.
    pub first: Blocks,
    /// How many blocks it has; at least one wherever a range stands for something.
    pub count: Blocks,
}

impl BlockRange {
    /// Makes the range `[first, first + count)`.
    #[must_use]
    pub const fn new(first: u64, count: u64) -> Self {
        Self { first: Blocks(first), count: Blocks(count) }
    }

    /// Returns the position just past the last block.
    #[must_use]
    pub fn end(self) -> Blocks {
        self.first + self.count
    }

    /// Tells whether it holds no block.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.count == Blocks::ZERO
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.first, self.end())
    }
}

/// What an extent map says of a range that may differ from the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The range holds written data: read it.
    Data(BlockRange),
    /// The range reads as zeroes (a hole, or allocated and never written): no need to read it.
    Zero(BlockRange),
}

impl Change {
    /// The range that this is about.
    #[must_use]
    pub const fn range(self) -> BlockRange {
        match self {
            Self::Data(range) | Self::Zero(range) => range,
        }
    }
}

/// The changed ranges of one cut, in ascending order and without overlap.
///
/// Called from a blocking thread; the iterator it returns may do I/O.
pub trait ChangeSource: Send + Sync {
    /// Starts over at the first change that ends after `from`.
    ///
    /// # Errors
    /// Whatever the extent map's source reports; an offload fails with it and is retried.
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>>;
}

/// An immutable image that can be read at any block. Called from blocking threads, from several at once.
pub trait BlockSource: Send + Sync {
    /// The image's length.
    fn capacity(&self) -> Blocks;

    /// Fills `buffer` (a whole number of blocks) with what the image holds at `first`.
    ///
    /// # Errors
    /// The read's own error, or `UnexpectedEof` past the end.
    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()>;

    /// Whether several reads at once come forward faster. Not where one brings what the next will ask for: then they are
    /// asked for one after the other, in ascending order.
    fn reads_at_once(&self) -> bool {
        true
    }
}

/// An image being filled. It reads as zeroes wherever nothing is written.
/// Called from blocking threads, from several at once, never twice for one block.
pub trait BlockTarget: Send + Sync {
    /// Writes `data` (a whole number of blocks) at `first`.
    ///
    /// # Errors
    /// The write's own error, `StorageFull` among them.
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()>;

    /// Makes everything written durable.
    ///
    /// # Errors
    /// The sync's own error: nothing written can then be relied upon.
    fn sync(&self) -> io::Result<()>;
}
