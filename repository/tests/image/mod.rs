//! Images in memory: what tests snapshot and restore, and the model that they compare with.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use varve_repository::{
    Repository, Result,
    block::{BLOCK_SIZE, BlockRange, BlockSource, BlockTarget, Blocks, Change, ChangeSource},
    crypto::MasterKey,
    hydrate::Statistics,
    id::SnapshotId,
    offload::{Against, Request},
    progress::Progress,
    record::{
        snapshot::{Root, SnapshotDescription},
        volume::{OffloadParameters, Presentation},
    },
    seam::{Clock, Entropy, Seams, Work},
    store::Store,
};

pub(crate) const BLOCK: usize = 4096;

/// Random numbers that are the same each time.
pub(crate) struct Seeded(Mutex<blake3::OutputReader>);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()))
    }

    pub(crate) fn below(&self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }
}

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap().fill(bytes);
    }
}

struct Epoch;

impl Clock for Epoch {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

pub(crate) fn seams(seed: u64) -> Seams {
    Seams::new(Arc::new(Epoch), Arc::new(Seeded::new(seed)), Work::Threads)
}

/// Seams by which everything is done in one thread.
pub(crate) fn inline(seed: u64) -> Seams {
    Seams::new(Arc::new(Epoch), Arc::new(Seeded::new(seed)), Work::Inline)
}

pub(crate) fn master() -> MasterKey {
    MasterKey::generate(&Seeded::new(0))
}

pub(crate) async fn init(store: Store) -> Repository {
    Repository::init(store, &master(), seams(1)).await.unwrap()
}

/// An image whose every change since it was cut last is remembered.
#[derive(Clone, Default)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    changed: BTreeMap<u64, bool>,
}

impl Image {
    pub(crate) fn new(blocks: u64) -> Self {
        Self { bytes: vec![0; usize::try_from(blocks).unwrap() * BLOCK], changed: BTreeMap::new() }
    }

    pub(crate) fn blocks(&self) -> u64 {
        (self.bytes.len() / BLOCK) as u64
    }

    /// Writes blocks that do not compress.
    pub(crate) fn write_noise(&mut self, first: u64, count: u64, random: &Seeded) {
        let start = usize::try_from(first).unwrap() * BLOCK;
        random.fill(&mut self.bytes[start..start + usize::try_from(count).unwrap() * BLOCK]);
        self.changed.extend((first..first + count).map(|block| (block, true)));
    }

    /// Writes blocks that compress to about a quarter.
    pub(crate) fn write_text(&mut self, first: u64, count: u64, random: &Seeded) {
        self.write_noise(first, count, random);
        let start = usize::try_from(first).unwrap() * BLOCK;
        for line in self.bytes[start..start + usize::try_from(count).unwrap() * BLOCK].chunks_mut(64) {
            line[16..].fill(b' ');
        }
    }

    /// Writes zeroes; `known` says whether the extent map shows it.
    pub(crate) fn write_zeroes(&mut self, first: u64, count: u64, known: bool) {
        let start = usize::try_from(first).unwrap() * BLOCK;
        self.bytes[start..start + usize::try_from(count).unwrap() * BLOCK].fill(0);
        self.changed.extend((first..first + count).map(|block| (block, !known)));
    }

    pub(crate) fn grow(&mut self, blocks: u64) {
        self.bytes.resize(self.bytes.len() + usize::try_from(blocks).unwrap() * BLOCK, 0);
    }

    /// Cuts the image: what it holds, and what changed since the cut before.
    pub(crate) fn cut(&mut self) -> Cut {
        let changes = ranges(std::mem::take(&mut self.changed));
        Cut { bytes: Arc::new(self.bytes.clone()), changes: Arc::new(changes), reads: Arc::default() }
    }

    /// The same image as if it had never been cut: everything that is not zero is a change.
    pub(crate) fn scan(&self) -> Cut {
        let allocated = self.bytes.chunks(BLOCK).zip(0..).filter(|(block, _)| block.iter().any(|byte| *byte != 0));
        let changes = ranges(allocated.map(|(_, number)| (number, true)).collect());
        Cut { bytes: Arc::new(self.bytes.clone()), changes: Arc::new(changes), reads: Arc::default() }
    }
}

fn ranges(blocks: BTreeMap<u64, bool>) -> Vec<Change> {
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

/// An immutable image and its changes.
#[derive(Clone)]
pub(crate) struct Cut {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) changes: Arc<Vec<Change>>,
    pub(crate) reads: Arc<Mutex<Vec<BlockRange>>>,
}

impl BlockSource for Cut {
    fn capacity(&self) -> Blocks {
        Blocks((self.bytes.len() / BLOCK) as u64)
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(first.bytes()).unwrap();
        let bytes = self.bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        self.reads.lock().unwrap().push(BlockRange::new(first.0, (buffer.len() / BLOCK) as u64));
        Ok(())
    }
}

impl ChangeSource for Cut {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        Ok(Box::new(self.changes.iter().filter(move |change| change.range().end() > from).copied().map(Ok)))
    }
}

/// An image being restored; a block written twice or past the end fails the test.
pub(crate) struct Restored(Mutex<(Vec<u8>, Vec<bool>)>);

impl Restored {
    pub(crate) fn new(length: usize) -> Self {
        Self(Mutex::new((vec![0; length], vec![false; length / BLOCK])))
    }

    pub(crate) fn into_bytes(self: Arc<Self>) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }
}

impl BlockTarget for Restored {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        let mut guard = self.0.lock().unwrap();
        let (bytes, written) = &mut *guard;
        let start = usize::try_from(first.bytes()).unwrap();
        bytes[start..start + data.len()].copy_from_slice(data);
        for written in &mut written[start / BLOCK..(start + data.len()) / BLOCK] {
            assert!(!std::mem::replace(written, true), "a block is written twice");
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn describe(repository: &Repository, name: &str, capacity_bytes: u64) -> SnapshotDescription {
    SnapshotDescription {
        id: repository.snapshot_id(name, 0),
        name: name.into(),
        volume: repository.volume_id("volume"),
        volume_name: "volume".into(),
        incarnation: Uuid::from_u128(7),
        capacity_bytes,
        presentation: Presentation::Block,
        created_at: Timestamp::UNIX_EPOCH,
        node: "node".into(),
        group: None,
        frozen: false,
        pause_nanos: 0,
        parameters: BTreeMap::new(),
    }
}

pub(crate) fn request(repository: &Repository, name: &str, cut: &Cut, against: Against) -> Request {
    Request {
        description: describe(repository, name, cut.bytes.len() as u64),
        against,
        changes: Arc::new(cut.clone()),
        source: Arc::new(cut.clone()),
        journal: None,
        parameters: OffloadParameters::default(),
        progress: Progress::default(),
        cancel: CancellationToken::new(),
    }
}

pub(crate) async fn offload(repository: &Repository, name: &str, cut: &Cut, against: Against) -> Result<Root> {
    repository.offload(request(repository, name, cut, against)).await
}

pub(crate) async fn restore(repository: &Repository, root: &Root) -> Result<Vec<u8>> {
    Ok(restore_counted(repository, root).await?.0)
}

pub(crate) async fn restore_counted(repository: &Repository, root: &Root) -> Result<(Vec<u8>, Statistics)> {
    let target = Arc::new(Restored::new(usize::try_from(root.description.capacity_bytes).unwrap()));
    let to = Arc::clone(&target);
    let statistics = repository.hydrate(root, to, Progress::default(), CancellationToken::new()).await?;
    Ok((target.into_bytes(), statistics))
}

/// Compares without printing megabytes.
pub(crate) fn assert_same(restored: &[u8], expected: &[u8], what: &str) {
    assert_eq!(restored.len(), expected.len(), "{what}");
    let differs = restored.chunks(BLOCK).zip(expected.chunks(BLOCK)).position(|(one, other)| one != other);
    assert_eq!(differs, None, "{what}: first block that differs");
}

pub(crate) fn base(root: &Root) -> Against {
    Against::Base(root.description.id)
}

pub(crate) fn blocks(bytes: u64) -> u64 {
    bytes / BLOCK_SIZE
}

pub(crate) fn id(root: &Root) -> SnapshotId {
    root.description.id
}
