//! Images of volumes, for tests that need to know what a snapshot holds. Their blocks are made as they are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::Arc,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use varve_repository::{
    block::{BLOCK_SIZE, BlockRange, BlockSource, Blocks, Change, ChangeSource},
    offload::{Against, Request},
    progress::Progress,
    record::{
        snapshot::{Root, SnapshotDescription},
        volume::Presentation,
    },
};

use super::Bench;

/// An image, and what of it was written since it was offloaded last.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    volume: String,
    blocks: u64,
    /// The blocks that are not zero, each with what it was written with.
    written: BTreeMap<u64, u64>,
    changed: BTreeSet<u64>,
    base: Option<Box<Root>>,
}

impl Image {
    /// An image without a written block.
    pub(crate) fn new(volume: &str, blocks: u64) -> Self {
        let (written, changed) = (BTreeMap::new(), BTreeSet::new());
        Self { volume: volume.to_owned(), blocks, written, changed, base: None }
    }

    /// Writes blocks; another number makes other content.
    pub(crate) fn write(&mut self, blocks: Range<u64>, number: u64) {
        self.changed.extend(blocks.clone());
        self.written.extend(blocks.map(|block| (block, number)));
    }

    /// Gives blocks back, which are zero from then on.
    pub(crate) fn discard(&mut self, blocks: Range<u64>) {
        self.changed.extend(blocks.clone());
        self.written.retain(|block, _| !blocks.contains(block));
    }

    /// Adds blocks at the end.
    pub(crate) fn grow(&mut self, blocks: u64) {
        self.blocks += blocks;
    }
}

impl ChangeSource for Image {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        Ok(Box::new(self.changed.range(from.0..).map(|block| {
            let range = BlockRange::new(*block, 1);
            Ok(if self.written.contains_key(block) { Change::Data(range) } else { Change::Zero(range) })
        })))
    }
}

impl BlockSource for Image {
    fn capacity(&self) -> Blocks {
        Blocks(self.blocks)
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        let size = usize::try_from(BLOCK_SIZE).expect("a block is small");
        for (block, bytes) in (first.0..).zip(buffer.chunks_mut(size)) {
            bytes.fill(0);
            if let Some(number) = self.written.get(&block) {
                bytes[..8].copy_from_slice(&(block + 1).to_le_bytes());
                bytes[8..16].copy_from_slice(&number.to_le_bytes());
            }
        }
        Ok(())
    }
}

impl Bench {
    /// Commits a snapshot of an image, as a node does; its id.
    pub(crate) async fn commit(&self, name: &str, image: &mut Image) -> String {
        let description = SnapshotDescription {
            id: self.repository.snapshot_id(name, 0),
            name: name.to_owned(),
            volume: self.repository.volume_id(&image.volume),
            volume_name: image.volume.clone(),
            incarnation: Uuid::nil(),
            capacity_bytes: image.blocks * BLOCK_SIZE,
            presentation: Presentation::Block,
            created_at: Timestamp::UNIX_EPOCH,
            node: "a".to_owned(),
            group: None,
            frozen: false,
            pause_nanos: 0,
            parameters: BTreeMap::new(),
        };
        let cut = Arc::new(image.clone());
        let against = image.base.as_ref().map_or(Against::Nothing, |base| Against::Base(base.description.id));
        let request = Request {
            description,
            against,
            changes: Arc::clone(&cut) as Arc<_>,
            source: cut,
            journal: None,
            parameters: Default::default(),
            progress: Progress::default(),
            cancel: CancellationToken::new(),
        };
        let root = self.repository.offload(request).await.expect("the root is committed");
        let id = root.description.id.to_string();
        image.changed.clear();
        image.base = Some(Box::new(root));
        id
    }
}
