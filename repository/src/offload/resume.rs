//! Continuing an offload that was interrupted: what its journal says, and what of it is in the store.
//!
//! # Crash consistency
//! Of a pack that was on its way nobody knows whether it arrived, so it is looked for. One that did counts. Where the one
//! before it was lost, its stretch is dealt with once more, and its chunks are found: nothing that is stored is sent again.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    io,
};

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    dedup,
    journal::{Entry, Found, Journal, Stretch},
    level::Level,
};
use crate::{
    Error, Repository, Result,
    id::PackId,
    mutation::Mutation,
    pack::{MAX_CHUNKS, PackReference, Table, chunk_count, read_table},
    run::Place,
    work::Worker,
};

/// Tables read at once.
const READS: usize = 8;

/// An offload to be continued.
pub(super) struct Resumed {
    pub(super) level: Level,
    pub(super) journal: Journal,
    /// Packs that the offload stored before, oldest first, as far as its index has room for their chunks.
    pub(super) packs: Vec<Recovered>,
}

/// A pack that an earlier attempt at the offload stored.
pub(super) struct Recovered {
    pub(super) reference: PackReference,
    pub(super) table: Table,
    /// Whether the level's statistics know of it: its stretch was not lost.
    pub(super) is_counted: bool,
}

/// What a journal says.
struct Replayed {
    level: Level,
    journal: Journal,
    /// Stretches that were about to be stored when it ended.
    pending: VecDeque<Stretch>,
    packs: Packs,
}

/// Packs of the upload that the journal speaks of.
#[derive(Default)]
struct Packs {
    /// In the order in which they were put.
    named: Vec<PackReference>,
    known: HashSet<PackId>,
    /// Those whose stretches are known to be stored.
    stored: HashSet<PackId>,
}

/// Takes up what a journal speaks of; `None` where it cannot be continued.
///
/// # Errors
/// Those of the store, and `Interrupted`.
pub(super) async fn resume(repository: &Repository, worker: &Worker, found: Found) -> Result<Option<Resumed>> {
    let upload = found.upload;
    let level = Level::new(repository, upload);
    let replayed = worker.start(move || replay(found, level)).await?;
    let Replayed { mut level, mut journal, pending, mut packs } = match replayed {
        Ok(replayed) => replayed,
        Err(error) => {
            tracing::warn!(%error, "a journal cannot be continued: starting anew");
            return Ok(None);
        }
    };
    let mut tables = BTreeMap::new();
    let mut wanted = packs.wanted();
    if repository.seams().broken(Mutation::JournalBeforePack) {
        // As if there were more of them than are remembered.
        wanted.retain(|pack| !packs.stored.contains(&pack.id));
    }
    for (pack, table) in read(repository, wanted).await? {
        match table {
            Some(table) => _ = tables.insert(pack.id, table),
            None if packs.stored.contains(&pack.id) => {
                tracing::warn!(pack = %pack.id, "a pack of an interrupted offload is no longer there: starting anew");
                return Ok(None);
            }
            None => {}
        }
    }
    let mut whole = true;
    for stretch in pending {
        let is_there = |pack: &PackReference| packs.stored.contains(&pack.id) || tables.contains_key(&pack.id);
        let own: Vec<_> = packs_of(&stretch).filter(|pack| pack.id.upload() == upload).collect();
        // Stretches follow one another: behind one that was lost, none counts.
        whole = whole && own.iter().all(is_there);
        if whole {
            packs.stored.extend(own.iter().map(|pack| pack.id));
            journal.write(worker, Entry::Stored).await?;
            level.enter(&stretch)?;
        }
    }
    if !whole {
        journal.write(worker, Entry::Anew).await?;
    }
    tracing::info!(position = %level.position, "continuing an offload that was interrupted");
    let Packs { named, stored, .. } = packs;
    let recovered = |reference: PackReference| {
        let table = tables.remove(&reference.id)?;
        Some(Recovered { reference, table, is_counted: stored.contains(&reference.id) })
    };
    let packs = named.into_iter().filter_map(recovered).collect();
    Ok(Some(Resumed { level, journal, packs }))
}

/// Reads a journal to its end; blocks.
fn replay(found: Found, mut level: Level) -> io::Result<Replayed> {
    let upload = found.upload;
    let (mut pending, mut packs) = (VecDeque::new(), Packs::default());
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "more is stored than was about to be");
    let journal = found.replay(|entry| {
        match entry {
            Entry::Stretch(stretch) => {
                packs.named_by(packs_of(&stretch).filter(|pack| pack.id.upload() == upload));
                pending.push_back(stretch);
            }
            Entry::Stored => {
                let stretch = pending.pop_front().ok_or_else(odd)?;
                packs.stored.extend(packs_of(&stretch).map(|pack| pack.id).filter(|id| id.upload() == upload));
                level.enter(&stretch).map_err(io::Error::other)?;
            }
            Entry::Anew => pending.clear(),
            Entry::Run(run) => level.enter_run(run),
        }
        Ok(())
    })?;
    Ok(Replayed { level, journal, pending, packs })
}

impl Packs {
    fn named_by(&mut self, packs: impl Iterator<Item = PackReference>) {
        let Self { named, known, .. } = self;
        named.extend(packs.filter(|pack| known.insert(pack.id)));
    }

    /// Those that it must be looked for, and of the others the newest, as far as their chunks will be remembered.
    fn wanted(&self) -> Vec<PackReference> {
        let mut room = dedup::REMEMBERED;
        let mut wanted: Vec<PackReference> = Vec::new();
        for pack in self.named.iter().rev() {
            let remembered = room.checked_sub(chunk_count(pack).unwrap_or(MAX_CHUNKS));
            room = remembered.unwrap_or(0);
            if remembered.is_some() || !self.stored.contains(&pack.id) {
                wanted.push(*pack);
            }
        }
        wanted.reverse();
        wanted
    }
}

/// Reads tables; `None` stands for a pack that is missing or not what it should be.
async fn read(repository: &Repository, packs: Vec<PackReference>) -> Result<Vec<(PackReference, Option<Table>)>> {
    let read = |pack: PackReference| async move {
        match read_table(repository, &pack).await {
            Ok(table) => Ok((pack, Some(table))),
            Err(Error::Corrupt { .. }) => Ok((pack, None)),
            Err(error) => Err(error),
        }
    };
    stream::iter(packs).map(read).buffered(READS).try_collect().await
}

/// The packs that a stretch speaks of; one that it speaks of twice may come twice.
fn packs_of(stretch: &Stretch) -> impl Iterator<Item = PackReference> + '_ {
    let packs = stretch.segments.iter().filter_map(|segment| match segment.place {
        Place::Chunk(chunk) => Some(chunk.pack),
        Place::Zero => None,
    });
    let mut before = None;
    packs.filter(move |pack| before.replace(pack.id) != Some(pack.id))
}
