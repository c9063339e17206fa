//! Reading runs: each once, whatever number of roots and intents list it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    reach::{Marks, Reach},
    report::Unreadable,
    scan::{damage_in_place, reason},
};
use crate::{
    Repository, Result, SnapshotState,
    block::Blocks,
    id::{RunId, SnapshotId},
    progress::Progress,
    record::snapshot::{Root, RunReference},
    run::{self, Origin, Place, Reader},
};

/// Runs read at once.
const READS: usize = 16;

/// A run up to this size is read with one request, in bytes.
const WHOLE_BYTES: u64 = 1 << 20;

/// All runs that are held, by id, and by how they are referred to: not all ways can be right, but each is tried.
#[derive(Debug, Default)]
pub(super) struct HeldRuns(BTreeMap<RunId, Vec<Held>>);

#[derive(Debug)]
struct Held {
    reference: RunReference,
    /// A root that lists it, as far as one was seen last. Without one it may be missing.
    needed_by: Option<SnapshotId>,
    /// Whether it was read.
    done: bool,
}

/// What was found of all runs.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What cannot be read.
    pub(super) damages: Vec<Unreadable>,
    /// Whether what that holds can be told nevertheless.
    pub(super) known: bool,
    /// Runs that are not there.
    pub(super) missing: BTreeSet<RunId>,
}

/// What a run that is not whole leaves to be decided.
enum Read {
    Marks(Vec<Marks>),
    /// Some of its pages cannot be read: all packs that it names are alive.
    Pages(Vec<Marks>, Unreadable),
    Missing,
    Unreadable(Unreadable),
}

impl HeldRuns {
    /// Holds runs.
    pub(super) fn hold<'a>(
        &mut self,
        references: impl IntoIterator<Item = &'a RunReference>,
        needed_by: Option<SnapshotId>,
    ) {
        for reference in references {
            let ways = self.0.entry(reference.id).or_default();
            match ways.iter_mut().find(|held| held.reference == *reference) {
                Some(held) => held.needed_by = held.needed_by.or(needed_by),
                None => ways.push(Held { reference: reference.clone(), needed_by, done: false }),
            }
        }
    }

    /// Tells whether a run is held.
    pub(super) fn contains(&self, run: RunId) -> bool {
        self.0.contains_key(&run)
    }

    /// Reads those that were not read before, and marks what is alive.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn read(
        &mut self,
        repository: &Repository,
        roots: &BTreeMap<SnapshotId, Arc<Root>>,
        reach: &mut Reach,
        progress: &Progress,
    ) -> Result<Found> {
        progress.set_total(self.0.values().flatten().map(|held| held.reference.object_bytes).sum());
        let held: Vec<&Held> = self.0.values().flatten().filter(|held| !held.done).collect();
        let mut found = Found { known: true, ..Found::default() };
        let mut whole = vec![false; held.len()];
        // By position: a future made of a reference is not known to be fit for every thread.
        let mut reads = stream::iter(0..held.len())
            .map(|position| {
                let reference = &held[position].reference;
                async move {
                    let read = read(repository, reference).await?;
                    progress.add_done(reference.object_bytes);
                    progress.add_moved(reference.object_bytes);
                    Ok::<_, crate::Error>((position, read))
                }
            })
            .buffered(READS);
        while let Some((position, read)) = reads.try_next().await? {
            let held = held[position];
            match read {
                Read::Marks(marks) => {
                    marks.into_iter().for_each(|marks| reach.join(marks));
                    whole[position] = true;
                }
                Read::Pages(marks, damage) => {
                    marks.into_iter().for_each(|marks| reach.join(marks));
                    found.damages.push(damage);
                }
                Read::Missing => {
                    found.missing.insert(held.reference.id);
                    if held.is_needed(repository, roots).await? {
                        found.known = false;
                        let (object, reason) = (run::key(held.reference.id), "it is missing".into());
                        found.damages.push(Unreadable { object, reason });
                    }
                }
                Read::Unreadable(damage) => {
                    found.known = false;
                    found.damages.push(damage);
                }
            }
        }
        drop(reads);
        let unread = self.0.values_mut().flatten().filter(|held| !held.done);
        unread.zip(whole).for_each(|(held, whole)| held.done = whole);
        Ok(found)
    }
}

impl Held {
    /// Looks whether a root still lists a run that is missing.
    async fn is_needed(&self, repository: &Repository, roots: &BTreeMap<SnapshotId, Arc<Root>>) -> Result<bool> {
        if self.needed_by.is_none() {
            return Ok(false);
        }
        for (id, _) in roots.iter().filter(|(_, root)| root.runs.contains(&self.reference)) {
            match damage_in_place(repository.snapshot(*id).await)? {
                Ok(SnapshotState::Committed(root)) if !root.runs.contains(&self.reference) => {}
                Ok(SnapshotState::Absent | SnapshotState::Gone(_)) => {}
                Ok(SnapshotState::Committed(_)) | Err(_) => return Ok(true),
            }
        }
        Ok(false)
    }
}

async fn read(repository: &Repository, reference: &RunReference) -> Result<Read> {
    let damage = |error| Unreadable { object: run::key(reference.id), reason: reason(&error) };
    let opened = Reader::open_whole(repository, Origin::Stored(reference.clone()), WHOLE_BYTES).await;
    let mut reader = match damage_in_place(opened)? {
        Ok(reader) => reader,
        Err(error) => {
            let missing = repository.store().head(&run::key(reference.id)).await?.is_none();
            return Ok(if missing { Read::Missing } else { Read::Unreadable(damage(error)) });
        }
    };
    let mut marks: Vec<Marks> = reader.index().packs.iter().map(|pack| Marks::new(*pack)).collect();
    for number in 0..reader.index().pages.len() {
        match damage_in_place(reader.page(number, Blocks(u64::MAX)).await)? {
            Ok(extents) => {
                for extent in extents {
                    let Place::Chunk(place) = extent.place else { continue };
                    // The page was decoded against the number of packs, so each position is one of theirs.
                    if let Some(marks) = usize::try_from(place.pack).ok().and_then(|pack| marks.get_mut(pack)) {
                        marks.mark(place.ordinal);
                    }
                }
            }
            Err(error) => {
                marks.iter_mut().for_each(Marks::mark_whole);
                return Ok(Read::Pages(marks, damage(error)));
            }
        }
    }
    Ok(Read::Marks(marks))
}
