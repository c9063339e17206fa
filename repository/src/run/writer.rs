//! Writing a level: extents are gathered into pages, pages into runs.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Extent, Index, PAGE_EXTENTS, PageEntry, Place, Segment, damaged, index, page};
use crate::{
    Repository, Result,
    block::{BlockRange, Blocks},
    crypto::{RunCipher, TAG_LEN},
    format::{self, Kind},
    id::{PackId, RunId, UploadId},
    pack::PackReference,
    record::snapshot::RunReference,
};

/// A run is ended at this many bytes; it is what a level holds in memory while it is written.
const RUN_BYTES: usize = 16 << 20;

/// A run is ended when it refers to this many packs, which keeps its index below 8 MiB.
const RUN_PACKS: usize = 1 << 17;

/// A run that is ready to be put.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    /// How a root refers to it.
    pub(crate) reference: RunReference,
    /// The whole object.
    pub(crate) bytes: Bytes,
}

/// Turns ascending extents into the runs of one level.
///
/// # Invariants
/// Bounded by one run in memory: once it [is full](Self::is_full) it is to be [finished](Self::finish) and put before
/// much more is pushed.
pub(crate) struct Writer {
    repository: Repository,
    upload: UploadId,
    run: Option<Open>,
    data: Blocks,
}

/// The run being filled.
struct Open {
    id: RunId,
    cipher: RunCipher,
    bytes: Vec<u8>,
    index: Index,
    positions: HashMap<PackId, u32>,
    pending: Vec<Extent<u32>>,
    extents: u64,
    end: Blocks,
}

impl Writer {
    /// Starts a level of an upload.
    pub(crate) fn new(repository: &Repository, upload: UploadId) -> Self {
        Self { repository: repository.clone(), upload, run: None, data: Blocks::ZERO }
    }

    /// The upload that the level is of.
    pub(crate) const fn upload(&self) -> UploadId {
        self.upload
    }

    /// How many blocks of data were pushed, over all runs.
    pub(crate) const fn data(&self) -> Blocks {
        self.data
    }

    /// Appends an extent, which must lie behind all before it.
    ///
    /// # Errors
    /// `Corrupt` where it does not lie behind, or two extents refer to one pack in different ways.
    pub(crate) fn push(&mut self, segment: &Segment) -> Result<()> {
        self.data += segment.data();
        let run = self.run.get_or_insert_with(|| {
            let id = RunId::of(self.upload, self.repository.seams().random());
            Open::new(id, self.repository.data_key().run_cipher(id))
        });
        run.push(segment)
    }

    /// Tells whether the run being filled has the size that runs are to have.
    pub(crate) fn is_full(&self) -> bool {
        self.run.as_ref().is_some_and(Open::is_full)
    }

    /// Forgets the run being filled: what it would say has been stored by an earlier attempt.
    pub(crate) fn forget(&mut self) {
        self.run = None;
    }

    /// Ends the run being filled, if there is one.
    pub(crate) fn finish(&mut self) -> Option<Finished> {
        self.run.take().map(Open::finish)
    }
}

impl Open {
    fn new(id: RunId, cipher: RunCipher) -> Self {
        let mut bytes = Vec::new();
        format::put_header(&mut bytes, Kind::Run);
        Self {
            id,
            cipher,
            bytes,
            index: Index::default(),
            positions: HashMap::new(),
            pending: Vec::with_capacity(PAGE_EXTENTS),
            extents: 0,
            end: Blocks::ZERO,
        }
    }

    fn push(&mut self, segment: &Segment) -> Result<()> {
        if segment.range.first < self.end {
            return Err(damaged(self.id, format!("{} would come after {}", segment.range, self.end)));
        }
        self.end = segment.range.end();
        let place = match segment.place {
            Place::Zero => Place::Zero,
            Place::Chunk(chunk) => {
                let pack = self.position(&chunk.pack)?;
                Place::Chunk(super::ChunkPlace { pack, ordinal: chunk.ordinal, skip: chunk.skip })
            }
        };
        let extent = Extent { range: segment.range, place };
        if self.pending.last_mut().is_some_and(|last| last.join(&extent)) {
            return Ok(());
        }
        if self.pending.len() == PAGE_EXTENTS {
            self.end_page();
        }
        self.pending.push(extent);
        Ok(())
    }

    fn position(&mut self, pack: &PackReference) -> Result<u32> {
        if let Some(position) = self.positions.get(&pack.id) {
            let known = usize::try_from(*position).ok().and_then(|position| self.index.packs.get(position));
            return if known == Some(pack) {
                Ok(*position)
            } else {
                Err(pack.damaged("two runs of one snapshot disagree about its size or table"))
            };
        }
        let position = u32::try_from(self.index.packs.len())
            .map_err(|_| damaged(self.id, "it would refer to more packs than can be counted"))?;
        self.index.packs.push(*pack);
        self.positions.insert(pack.id, position);
        Ok(position)
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= RUN_BYTES || self.index.packs.len() >= RUN_PACKS
    }

    fn end_page(&mut self) {
        let (Some(first), Some(last)) = (self.pending.first(), self.pending.last()) else { return };
        let range = BlockRange { first: first.range.first, count: last.range.end() - first.range.first };
        let mut sealed = page::encode(&self.pending);
        let ordinal = u32::try_from(self.index.pages.len()).expect("a run is ended before it has 4 billion pages");
        self.cipher.seal_page(ordinal, &mut sealed);
        self.index.pages.push(PageEntry {
            range,
            offset: self.bytes.len() as u64,
            stored: u32::try_from(sealed.len()).expect("a page of 4096 extents is far below 4 GiB"),
            extents: u32::try_from(self.pending.len()).expect("a page has at most 4096 extents"),
            hash: *blake3::hash(&sealed).as_bytes(),
        });
        self.extents += self.pending.len() as u64;
        self.bytes.extend_from_slice(&sealed);
        self.pending.clear();
    }

    fn finish(mut self) -> Finished {
        self.end_page();
        let index_offset = self.bytes.len() as u64;
        let mut sealed = self.index.encode();
        self.cipher.seal_index(&mut sealed);
        debug_assert!(sealed.len() as u64 <= index::MAX_SEALED_LEN && sealed.len() > TAG_LEN);
        let index_hash = blake3::hash(&sealed).to_hex().to_string();
        self.bytes.extend_from_slice(&sealed);
        let reference = RunReference {
            id: self.id,
            object_bytes: self.bytes.len() as u64,
            index_offset,
            index_hash,
            extents: self.extents,
            referenced_bytes: self.index.packs.iter().map(|pack| u64::from(pack.object_bytes)).sum(),
        };
        Finished { reference, bytes: self.bytes.into() }
    }
}
