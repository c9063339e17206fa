//! Reading packs wherever they are: at their own key, or, where that is empty, in the packs that they were repacked into.
//!
//! ```text
//! packs/<P>       there: read
//! relocated/<P>   P's sealed table, and targets, newest first
//! packs/<Q>       the first target that is there: its table, then the chunks
//! ```
//!
//! # Invariants
//! A reference to P is verified as if P were there: the record carries P's table. A chunk is verified against the id that
//! P's table gives it, wherever it lies.
//!
//! # Concurrency
//! A pack may be repacked, and repacked again, while it is being read. P goes only when the record says where its chunks
//! are, and a target only when the record says where else: so a reader that finds all of them missing reads the record
//! again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::{
    Opener, PackReference, Table, TableCache, TableEntry,
    reader::{Unsealed, Workspace, open_table},
};
use crate::{
    Error, Repository, Result,
    buffer::Buffers,
    crypto::DataKey,
    id::PackId,
    record::relocation::{Relocation, Target},
    repository::names,
};

/// Chunks that lie at most this far apart in a target are read together, in bytes.
const GAP_BYTES: u32 = 256 << 10;

/// How often the record is read again, because all its targets are gone.
const ROUNDS: usize = 4;

/// Most bytes of records kept.
const CAPACITY: usize = 4 << 20;

/// Repacked packs that were met, so that each costs its record and its target's table once.
#[derive(Default)]
pub(crate) struct Relocations {
    records: Mutex<Records>,
    tables: TableCache,
}

#[derive(Default)]
struct Records {
    by_pack: HashMap<PackId, Arc<Relocation>>,
    /// In the order in which they were read first.
    order: VecDeque<PackId>,
    bytes: usize,
}

impl Relocations {
    fn find(&self, pack: PackId) -> Option<Arc<Relocation>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).by_pack.get(&pack).cloned()
    }

    fn keep(&self, relocation: &Arc<Relocation>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let records = &mut *records;
        records.bytes += relocation.table.len();
        match records.by_pack.insert(relocation.pack, Arc::clone(relocation)) {
            Some(replaced) => records.bytes -= replaced.table.len(),
            None => records.order.push_back(relocation.pack),
        }
        while records.bytes > CAPACITY && records.order.len() > 1 {
            let oldest = records.order.pop_front().and_then(|oldest| records.by_pack.remove(&oldest));
            records.bytes -= oldest.map_or(0, |oldest| oldest.table.len());
        }
    }
}

/// Finds out where the chunks of a pack are that is not at its own key any more; `None` where it was not repacked.
///
/// # Errors
/// The store's, or `Corrupt` naming the record.
pub(crate) async fn find_relocation(repository: &Repository, pack: PackId) -> Result<Option<Arc<Relocation>>> {
    let Some(found) = repository.relocation(pack).await? else { return Ok(None) };
    let found = Arc::new(found.value);
    repository.relocations().keep(&found);
    Ok(Some(found))
}

/// Reads and verifies the table of a pack, wherever the pack is.
///
/// # Errors
/// `Corrupt` where the table is missing or is not what the reference says, or the store's.
pub(crate) async fn read_table(repository: &Repository, reference: &PackReference) -> Result<Table> {
    let mut relocation = repository.relocations().find(reference.id);
    if relocation.is_none() {
        if let Some(sealed) = repository.store().find_range(&reference.key(), reference.table_range()).await? {
            return open_table(repository.data_key(), reference, &sealed);
        }
        relocation = find_relocation(repository, reference.id).await?;
    }
    let relocation = relocation.ok_or_else(|| reference.damaged("it is missing"))?;
    open_table(repository.data_key(), reference, &relocation.table).map_err(|error| match error {
        Error::Corrupt { reason, .. } => {
            Error::Corrupt { object: names::relocation_key(reference.id), reason: format!("its table: {reason}") }
        }
        error => error,
    })
}

/// Reads chunks of a pack, given with their ordinals and in ascending order: at the pack's own key as one range, which the
/// caller keeps small; elsewhere as near as they lie there. That range goes
/// into one of the buffers, if there are any.
///
/// # Errors
/// `Corrupt` where nothing has them or what has them ends too early, or the store's. What the chunks themselves are is
/// found out by [`Chunks::open`].
pub(crate) async fn read_chunks(
    repository: &Repository,
    reference: &PackReference,
    chunks: &[(u32, TableEntry)],
    buffers: Option<&Buffers>,
) -> Result<Chunks> {
    let (Some((_, first)), Some((_, last))) = (chunks.first(), chunks.last()) else {
        return Ok(Chunks { pack: *reference, parts: Vec::new(), read_bytes: 0 });
    };
    let mut relocation = repository.relocations().find(reference.id);
    if relocation.is_none() {
        let range = first.offset.into()..last.end().into();
        if let Some(bytes) = repository.store().find_range_into(&reference.key(), range, buffers).await? {
            return Ok(Chunks::part_of(reference, chunks, &bytes, first.offset));
        }
        relocation = find_relocation(repository, reference.id).await?;
    }
    let mut relocation = relocation.ok_or_else(|| reference.damaged("it is missing"))?;
    for _ in 0..ROUNDS {
        let mut reason = None;
        for target in &relocation.targets {
            match from_target(repository, &relocation, target, chunks).await {
                Ok(Some(read)) => return Ok(read),
                Ok(None) => {}
                // Another target may still be whole.
                Err(error @ Error::Corrupt { .. }) => reason = reason.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        let again = find_relocation(repository, reference.id).await?;
        let again = again.ok_or_else(|| reference.damaged("it is missing"))?;
        if *again == *relocation {
            return Err(
                reason.unwrap_or_else(|| reference.damaged("it is missing, and so is what it was repacked into"))
            );
        }
        relocation = again;
    }
    Err(reference.damaged("it is missing, and is being repacked again and again"))
}

/// Reads chunks from a target; `None` where the target is missing.
async fn from_target(
    repository: &Repository,
    relocation: &Relocation,
    target: &Target,
    chunks: &[(u32, TableEntry)],
) -> Result<Option<Chunks>> {
    let damaged = |reason: String| Error::Corrupt { object: names::relocation_key(relocation.pack), reason };
    let pack = target.reference().map_err(|malformed| damaged(malformed.to_string()))?;
    let Some(table) = target_table(repository, &pack).await? else { return Ok(None) };
    let mut parts = Vec::with_capacity(chunks.len());
    for (ordinal, wanted) in chunks {
        let place =
            target.place(*ordinal).ok_or_else(|| damaged(format!("it does not say where chunk {ordinal} is")))?;
        let entry = usize::try_from(place).ok().and_then(|place| table.entries.get(place));
        let entry = entry.filter(|entry| entry.id == wanted.id && entry.blocks == wanted.blocks);
        let entry = *entry.ok_or_else(|| damaged(format!("chunk {ordinal} is not where it says")))?;
        parts.push(Part { ordinal: *ordinal, place, entry, sealed: None });
    }
    let mut read_bytes = 0;
    for near in parts.chunk_by_mut(|one, other| {
        other.entry.offset >= one.entry.offset && other.entry.offset.saturating_sub(one.entry.end()) <= GAP_BYTES
    }) {
        let (Some(first), Some(last)) = (near.first(), near.last()) else { continue };
        let (start, end) = (first.entry.offset, last.entry.end());
        let Some(bytes) = repository.store().find_range(&pack.key(), start.into()..end.into()).await? else {
            return Ok(None);
        };
        read_bytes += bytes.len() as u64;
        near.iter_mut().for_each(|part| part.take(&bytes, start));
    }
    Ok(Some(Chunks { pack, parts, read_bytes }))
}

/// Reads the table of a target; `None` where the target is missing.
async fn target_table(repository: &Repository, pack: &PackReference) -> Result<Option<Arc<Table>>> {
    let tables = &repository.relocations().tables;
    if let Some(table) = tables.find(pack) {
        return Ok(Some(table));
    }
    let Some(sealed) = repository.store().find_range(&pack.key(), pack.table_range()).await? else { return Ok(None) };
    let table = Arc::new(open_table(repository.data_key(), pack, &sealed)?);
    tables.keep(*pack, Arc::clone(&table));
    Ok(Some(table))
}

/// Chunks that were read and are not verified yet.
pub(crate) struct Chunks {
    /// Where they were.
    pack: PackReference,
    parts: Vec<Part>,
    read_bytes: u64,
}

struct Part {
    /// The ordinal in the pack that was asked for.
    ordinal: u32,
    /// The ordinal where it is.
    place: u32,
    entry: TableEntry,
    sealed: Option<Bytes>,
}

impl Part {
    /// Takes its bytes out of a read that began at `start`.
    fn take(&mut self, bytes: &Bytes, start: u32) {
        let from = self.entry.offset.checked_sub(start).and_then(|from| usize::try_from(from).ok());
        let range = from.zip(usize::try_from(self.entry.stored).ok()).map(|(from, length)| from..from + length);
        self.sealed = range.filter(|range| range.end <= bytes.len()).map(|range| bytes.slice(range));
    }
}

impl Chunks {
    /// Takes chunks out of the whole object.
    pub(crate) fn of_object(pack: &PackReference, chunks: &[(u32, TableEntry)], object: &Bytes) -> Self {
        Self::part_of(pack, chunks, object, 0)
    }

    /// Takes chunks out of what was read of the pack itself, from `start` on.
    fn part_of(pack: &PackReference, chunks: &[(u32, TableEntry)], bytes: &Bytes, start: u32) -> Self {
        let parts = chunks.iter().map(|(ordinal, entry)| {
            let mut part = Part { ordinal: *ordinal, place: *ordinal, entry: *entry, sealed: None };
            part.take(bytes, start);
            part
        });
        Self { pack: *pack, parts: parts.collect(), read_bytes: bytes.len() as u64 }
    }

    /// How many bytes were read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Opens and verifies them one after another: the ordinal in the pack that was asked for, and the plain bytes, or
    /// `Corrupt` naming the pack that has them.
    pub(crate) fn open<'a>(&'a self, key: &'a DataKey) -> impl Iterator<Item = (u32, Result<Vec<u8>>)> + 'a {
        let opener = Opener::new(key, self.pack);
        self.parts.iter().map(move |part| {
            let opened = match &part.sealed {
                Some(sealed) => opener.open(key, part.place, &part.entry, sealed),
                None => Err(self.pack.damaged("it was not read whole")),
            };
            (part.ordinal, opened)
        })
    }

    /// Opens and verifies the `number`th of them into a buffer that is as long as its blocks.
    ///
    /// # Errors
    /// `Corrupt` naming the pack that has it; what is in the buffer then is not to be used.
    pub(crate) fn open_into(
        &self,
        key: &DataKey,
        opener: &Opener,
        number: usize,
        workspace: &mut Workspace,
        plain: &mut [u8],
    ) -> Result<()> {
        let part = self.parts.get(number).ok_or_else(|| self.pack.damaged("it was not read whole"))?;
        match &part.sealed {
            Some(sealed) => opener.open_into(key, part.place, &part.entry, sealed, workspace, plain),
            None => Err(self.pack.damaged("it was not read whole")),
        }
    }

    /// What opens them.
    pub(crate) fn opener(&self, key: &DataKey) -> Opener {
        Opener::new(key, self.pack)
    }

    /// Opens and verifies them one after another, and gives them as they were before they were sealed.
    pub(crate) fn unseal<'a>(&'a self, key: &'a DataKey) -> impl Iterator<Item = Result<(u32, Unsealed)>> + 'a {
        let opener = Opener::new(key, self.pack);
        self.parts.iter().map(move |part| {
            let sealed = part.sealed.as_ref().ok_or_else(|| self.pack.damaged("it was not read whole"))?;
            Ok((part.ordinal, opener.unseal(key, part.place, &part.entry, sealed)?))
        })
    }
}

/// Picks chunks by their ordinals, which ascend.
///
/// # Errors
/// `Corrupt` where the pack does not hold one of them.
pub(crate) fn pick(reference: &PackReference, table: &Table, ordinals: &[u32]) -> Result<Vec<(u32, TableEntry)>> {
    let pick = |ordinal: &u32| {
        let entry = usize::try_from(*ordinal).ok().and_then(|ordinal| table.entries.get(ordinal));
        let entry = entry.ok_or_else(|| reference.damaged(format!("it does not hold chunk {ordinal}")))?;
        Ok((*ordinal, *entry))
    };
    ordinals.iter().map(pick).collect()
}
