//! Volumes and their cuts: small images, of content that is met again and again.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex},
};

use varve_repository::{
    block::{BlockRange, BlockSource, BlockTarget, Blocks, Change, ChangeSource},
    id::SnapshotId,
};

use crate::dice::Dice;

const BLOCK: usize = 4096;

/// Blocks of an image that make a chunk by themselves, if all of them change.
const WINDOW: u64 = 32;

/// How many different windows there are. Few, so that the same chunk is written over and over.
const CONTENTS: u64 = 6;

/// One cut of a volume, or of one that it was cloned from.
#[derive(Clone)]
pub(crate) struct Cut {
    pub(crate) snapshot: SnapshotId,
    pub(crate) bytes: Arc<Vec<u8>>,
    /// Blocks that changed since the cut before.
    changed: Arc<BTreeSet<u64>>,
}

/// A volume's image, and the cuts that led to it, oldest first.
#[derive(Clone, Default)]
pub(crate) struct Image {
    bytes: Vec<u8>,
    changed: BTreeSet<u64>,
    pub(crate) cuts: Vec<Cut>,
}

impl Image {
    pub(crate) fn new(windows: u64) -> Self {
        Self { bytes: vec![0; blocks_len(windows * WINDOW)], ..Self::default() }
    }

    /// Writes here and there.
    pub(crate) fn change(&mut self, dice: &Dice) {
        if dice.one_in(8) {
            self.bytes.resize(self.bytes.len() + blocks_len(1 + dice.below(WINDOW)), 0);
        }
        let blocks = (self.bytes.len() / BLOCK) as u64;
        let windows = blocks.div_ceil(WINDOW);
        // The first time more, so that there is something to be left unchanged later.
        let writes = if self.cuts.is_empty() { windows } else { 1 + dice.below(3) };
        for _ in 0..writes {
            let window = dice.below(windows) * WINDOW;
            let whole = BlockRange::new(window, WINDOW.min(blocks - window));
            match dice.below(8) {
                0..5 => self.write(whole, 1 + dice.below(CONTENTS)),
                5 => self.write(whole, 0),
                kind => {
                    let first = window + dice.below(whole.count.0);
                    let count = 1 + dice.below((window + whole.count.0 - first).min(4));
                    self.write(BlockRange::new(first, count), if kind == 6 { 0 } else { 1 + dice.below(CONTENTS) });
                }
            }
        }
    }

    /// Writes content of that number; 0 is zeroes. What a block holds follows from the number and its place in the window.
    fn write(&mut self, range: BlockRange, content: u64) {
        for block in range.first.0..range.end().0 {
            let start = blocks_len(block);
            let word = if content == 0 { 0 } else { (content << 32) | (block % WINDOW) };
            self.bytes[start..start + BLOCK].copy_from_slice(&word.to_le_bytes().repeat(BLOCK / 8));
            self.changed.insert(block);
        }
    }

    /// Cuts the image.
    pub(crate) fn cut(&mut self, snapshot: SnapshotId) -> Cut {
        let changed = Arc::new(std::mem::take(&mut self.changed));
        let cut = Cut { snapshot, bytes: Arc::new(self.bytes.clone()), changed };
        self.cuts.push(cut.clone());
        cut
    }

    /// The image as it was cut last, and what led to it.
    pub(crate) fn at_last_cut(&self) -> Option<Self> {
        let bytes = self.cuts.last()?.bytes.to_vec();
        Some(Self { bytes, changed: BTreeSet::new(), cuts: self.cuts.clone() })
    }

    /// What changed from one cut to the last one.
    pub(crate) fn changes_since(&self, base: SnapshotId) -> Option<Vec<Change>> {
        let position = self.cuts.iter().position(|cut| cut.snapshot == base)?;
        let last = self.cuts.last()?;
        let blocks: BTreeSet<u64> =
            self.cuts[position + 1..].iter().flat_map(|cut| cut.changed.iter().copied()).collect();
        // That a block is zero may show in the extent map, or not.
        let changes = blocks.into_iter().map(|block| (block, !(last.is_zero(block) && block.is_multiple_of(2))));
        Some(ranges(changes))
    }
}

impl Cut {
    fn is_zero(&self, block: u64) -> bool {
        let start = blocks_len(block);
        self.bytes[start..start + BLOCK] == [0; BLOCK]
    }

    /// Everything allocated.
    pub(crate) fn allocated(&self) -> Vec<Change> {
        let blocks = (self.bytes.len() / BLOCK) as u64;
        ranges((0..blocks).filter(|block| !self.is_zero(*block)).map(|block| (block, true)))
    }
}

fn blocks_len(blocks: u64) -> usize {
    usize::try_from(blocks).unwrap() * BLOCK
}

fn ranges(blocks: impl Iterator<Item = (u64, bool)>) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for (block, data) in blocks {
        match changes.last_mut() {
            Some(Change::Data(range)) if data && range.end().0 == block => range.count += Blocks(1),
            Some(Change::Zero(range)) if !data && range.end().0 == block => range.count += Blocks(1),
            _ if data => changes.push(Change::Data(BlockRange::new(block, 1))),
            _ => changes.push(Change::Zero(BlockRange::new(block, 1))),
        }
    }
    changes
}

impl BlockSource for Cut {
    fn capacity(&self) -> Blocks {
        Blocks((self.bytes.len() / BLOCK) as u64)
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(first.bytes()).unwrap();
        let bytes = self.bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// Changes as an offload takes them.
pub(crate) struct Changes(pub(crate) Vec<Change>);

impl ChangeSource for Changes {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        Ok(Box::new(self.0.iter().filter(move |change| change.range().end() > from).copied().map(Ok)))
    }
}

/// An image being restored.
pub(crate) struct Restored(Mutex<Vec<u8>>);

impl Restored {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Mutex::new(vec![0; usize::try_from(bytes).unwrap()]))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl BlockTarget for Restored {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(first.bytes()).unwrap();
        self.0.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
