//! Copying chunks: what is alive of a pack, verified, and the pack that is being filled with it.
//!
//! A chunk is opened, verified and sealed again; it is not compressed again. Memory: one pack read whole, and one being
//! filled.

use bytes::Bytes;

use super::plan::Unit;
use crate::{
    Error, Repository, Result, Versioned,
    id::{PackId, UploadId},
    pack::{self, Chunks, MAX_CHUNKS, PackReference, Unsealed, Writer},
    record::relocation::{Relocation, Target},
    work::Worker,
};

/// A pack is closed before it has more than this, in bytes, unless one alone has.
const PACK_BYTES: u64 = 32 << 20;

/// What is alive of one pack.
pub(super) struct Copied {
    /// How runs refer to it.
    pub(super) reference: PackReference,
    /// Its table, as stored.
    pub(super) table: Bytes,
    /// Its record, where it has one.
    pub(super) known: Option<Versioned<Relocation>>,
    chunks: Vec<(u32, Unsealed)>,
}

/// Reads and verifies what is alive of a pack.
///
/// # Errors
/// `Corrupt` where it is not there, or damaged, and the store's.
pub(super) async fn read(repository: &Repository, worker: &Worker, unit: &Unit, live: Vec<u32>) -> Result<Copied> {
    let reference = unit.reference;
    let known = match unit.targets.is_empty() {
        true => None,
        false => repository.relocation(reference.id).await?,
    };
    let (table, chunks) = if unit.in_place {
        let whole = 0..u64::from(reference.object_bytes);
        let object = repository.store().get_range(&reference.key(), whole).await?;
        let at = usize::try_from(reference.table_offset).map_err(|_| reference.damaged("it is too large"))?;
        let sealed = object.slice(at..);
        let table = pack::open_table(repository.data_key(), &reference, &sealed)?;
        let wanted = pack::pick(&reference, &table, &live)?;
        (sealed, Chunks::of_object(&reference, &wanted, &object))
    } else {
        let gone = || reference.damaged("it is gone, and so is what says where to");
        let sealed = Bytes::copy_from_slice(&known.as_ref().ok_or_else(gone)?.value.table);
        let table = pack::open_table(repository.data_key(), &reference, &sealed)?;
        let wanted = pack::pick(&reference, &table, &live)?;
        (sealed, pack::read_chunks(repository, &reference, &wanted, None).await?)
    };
    let unsealing = {
        let repository = repository.clone();
        worker.compute(move || chunks.unseal(repository.data_key()).collect::<Result<Vec<_>>>())
    };
    Ok(Copied { reference, table, known, chunks: unsealing.await?? })
}

/// A pack being filled, and which chunks of which packs it has.
pub(super) struct Filling {
    writer: Writer,
    taken: Vec<(Copied, Vec<(u32, u32)>)>,
}

/// A pack that is full, and what it holds of which packs.
pub(super) struct Filled {
    pub(super) reference: PackReference,
    pub(super) bytes: Bytes,
    pub(super) moves: Vec<(Copied, Target)>,
}

impl Filling {
    /// Starts an empty one, of that upload.
    pub(super) fn new(repository: &Repository, upload: UploadId) -> Self {
        let id = PackId::of(upload, repository.seams().random());
        Self { writer: Writer::new(repository.data_key(), id), taken: Vec::new() }
    }

    /// Tells whether all of a pack's chunks go in; into an empty one they do.
    pub(super) fn has_room(&self, copied: &Copied) -> bool {
        let bytes: usize = copied.chunks.iter().map(|(_, chunk)| chunk.encoded.bytes.len()).sum();
        self.taken.is_empty()
            || (u64::from(self.writer.stored_bytes()) + bytes as u64 <= PACK_BYTES
                && self.writer.chunks() + copied.chunks.len() <= MAX_CHUNKS)
    }

    /// Takes up all of a pack's chunks.
    pub(super) fn take(&mut self, mut copied: Copied) {
        let chunks = std::mem::take(&mut copied.chunks);
        let places = chunks.into_iter().map(|(ordinal, chunk)| {
            let Unsealed { id, blocks, encoded } = chunk;
            (ordinal, self.writer.push(id, blocks, encoded))
        });
        let places = places.collect();
        self.taken.push((copied, places));
    }

    /// Closes it; `None` where nothing was taken up.
    pub(super) fn finish(self) -> Option<Filled> {
        if self.taken.is_empty() {
            return None;
        }
        let (reference, bytes) = self.writer.finish();
        let moves = self.taken.into_iter().map(|(copied, places)| {
            let target = Target::new(&reference, places);
            (copied, target)
        });
        Some(Filled { reference, bytes, moves: moves.collect() })
    }
}

/// Tells whether a pack could not be copied because of what it is, rather than because of the store.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::FutureFormat { .. })
}
