//! Checking packs: that each is there, its table whole, and, where asked, every chunk.
//!
//! Packs are read several at once, each from its start to its end in pieces; the pieces are verified on all cores. Of
//! one that was [repacked](relocated) only those chunks are looked for that a run speaks of: the others are gone for good.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZero,
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Check, Coverage, Level, READS, relocated, runs::Runs};
use crate::{
    Error, Repository, Result,
    fault::Fault,
    format::header,
    id::PackId,
    pack::{Opener, PackReference, Table, find_relocation, read_table},
    repository::names::PACKS,
    seam::Work,
    work::Worker,
};

/// Most bytes of one read.
pub(super) const READ_BYTES: u32 = 4 << 20;

/// Most packs read at once, whatever the number of cores.
const MAX_READS: usize = 64;

/// What is lost of a pack.
#[derive(Clone, Debug)]
pub(crate) enum Loss {
    /// All of it.
    Whole(Arc<Fault>),
    /// These chunks.
    Chunks(BTreeMap<u32, Arc<Fault>>),
}

impl Loss {
    /// Returns what took a chunk; `None` for one that is whole.
    pub(crate) fn of(&self, ordinal: u32) -> Option<&Arc<Fault>> {
        match self {
            Self::Whole(fault) => Some(fault),
            Self::Chunks(chunks) => chunks.get(&ordinal),
        }
    }
}

/// How much of one pack is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Whether it is there, and how long it is.
    Size,
    /// Also its table.
    Table,
    /// All of it.
    Content,
}

impl Depth {
    /// How many bytes of the pack are read.
    fn bytes(self, pack: &PackReference) -> u64 {
        match self {
            Self::Size => 0,
            Self::Table => (pack.object_bytes - pack.table_offset).into(),
            Self::Content => pack.object_bytes.into(),
        }
    }
}

/// The packs that a listing shows, and their sizes.
pub(super) type Listed = HashMap<PackId, u64>;

/// One pack to be looked at.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) reference: PackReference,
    /// What runs speak of.
    pub(super) wanted: Wanted,
    pub(super) depth: Depth,
}

/// The chunks of a pack that runs speak of.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// The last one.
    pub(super) highest: Option<u32>,
    /// All of them, for a pack that no listing showed.
    pub(super) ordinals: BTreeSet<u32>,
}

impl Wanted {
    /// Takes in what another run speaks of.
    pub(super) fn join(&mut self, other: Self) {
        self.highest = self.highest.max(other.highest);
        self.ordinals.extend(other.ordinals);
    }
}

/// What was found of one pack.
pub(super) struct Checked {
    pub(super) task: Task,
    pub(super) faults: Vec<Fault>,
    pub(super) loss: Option<Loss>,
    pub(super) chunks: u64,
    pub(super) read_bytes: u64,
    /// It was repacked since the listing, and left to the next check.
    moved: bool,
}

impl Check<'_> {
    /// Lists the packs: a thousand for each request. Done after the roots were read, so that what is not listed is gone.
    pub(super) async fn list_packs(&self) -> Result<Listed> {
        let mut entries = self.repository.store().list(PACKS);
        let mut listed = Listed::new();
        while let Some(entry) = entries.try_next().await? {
            if let Some(id) = entry.key.strip_prefix(PACKS).and_then(|name| name.parse().ok()) {
                listed.insert(id, entry.size);
            }
        }
        Ok(listed)
    }

    /// Checks every pack that a run refers to; returns what is lost of which.
    pub(super) async fn check_packs(
        &mut self,
        runs: &mut Runs,
        listed: &Listed,
    ) -> Result<BTreeMap<PackReference, Loss>> {
        let tasks = self.tasks(runs);
        let full = if self.level == Level::Content { Depth::Content } else { Depth::Table };
        self.progress.add_total(tasks.iter().map(|task| task.depth.bytes(&task.reference)).sum());
        if self.level == Level::Content {
            let of_bytes = runs.packs.keys().map(|pack| u64::from(pack.object_bytes)).sum();
            self.report.content = Some(Coverage { of_packs: runs.packs.len() as u64, of_bytes, ..Coverage::default() });
        }

        let worker = Worker::new(self.repository.seams().work);
        let reads = match worker.place() {
            Work::Threads => 2 * std::thread::available_parallelism().map_or(1, NonZero::get),
            Work::Inline => READS,
        };
        let repository = self.repository;
        let mut checked = stream::iter(tasks)
            .map(|task| check_pack(repository, &worker, task, listed))
            .buffer_unordered(reads.clamp(READS, MAX_READS));
        let mut losses = BTreeMap::new();
        while let Some(pack) = checked.try_next().await? {
            let Checked { task, faults, loss, chunks, read_bytes, moved } = pack;
            self.report.packs += 1;
            self.report.chunks += chunks;
            self.report.read_bytes += read_bytes;
            self.progress.add_moved(read_bytes);
            self.progress.add_done(task.depth.bytes(&task.reference));
            if let Some(content) = &mut self.report.content
                && task.depth == Depth::Content
                && !moved
            {
                content.packs += 1;
                content.bytes += u64::from(task.reference.object_bytes);
            }
            let sound = faults.is_empty();
            for fault in faults {
                self.note(fault);
            }
            losses.extend(loss.map(|loss| (task.reference, loss)));
            if let Some(pass) = &mut self.pass
                && ((task.depth == full && !moved) || !sound)
            {
                pass.enter(task.reference.id, sound, &worker).await?;
            }
        }
        self.report.pass = self.pass.as_ref().map(|pass| pass.report(runs.packs.keys().map(|pack| pack.id)));
        Ok(losses)
    }

    /// Decides how much of each pack is looked at.
    fn tasks(&self, runs: &mut Runs) -> Vec<Task> {
        let pass = self.pass.as_deref();
        let full = if self.level == Level::Content { Depth::Content } else { Depth::Table };
        let mut tasks: Vec<Task> = Vec::with_capacity(runs.packs.len());
        for (reference, wanted) in &mut runs.packs {
            let verified = pass.is_some_and(|pass| pass.is_verified(reference.id));
            let depth = if verified { Depth::Size } else { full };
            tasks.push(Task { reference: *reference, wanted: std::mem::take(wanted), depth });
        }
        let Some(sample) = self.sample.filter(|_| self.level == Level::Content) else { return tasks };

        // Every order of the packs is as likely as any other, so whoever comes again and again sees all of them.
        let key = self.repository.seams().random();
        let mut order: Vec<_> = (0..tasks.len())
            .map(|number| (*blake3::keyed_hash(&key, tasks[number].reference.id.as_bytes()).as_bytes(), number))
            .collect();
        order.sort_unstable();
        let mut left = sample.of(runs.packs.keys().map(|pack| u64::from(pack.object_bytes)).sum());
        for (_, number) in order {
            let task = &mut tasks[number];
            if task.depth != Depth::Content || pass.is_some_and(|pass| pass.is_damaged(task.reference.id)) {
                continue;
            }
            if left == 0 {
                task.depth = Depth::Table;
            }
            left = left.saturating_sub(task.reference.object_bytes.into());
        }
        tasks
    }
}

async fn check_pack(repository: &Repository, worker: &Worker, task: Task, listed: &Listed) -> Result<Checked> {
    let reference = task.reference;
    let mut checked = Checked { task, faults: Vec::new(), loss: None, chunks: 0, read_bytes: 0, moved: false };
    let Some(size) = listed.get(&reference.id) else {
        relocated::check(repository, worker, &mut checked).await?;
        return Ok(checked);
    };
    let wanted = u64::from(reference.object_bytes);
    if *size != wanted {
        let fault = reference.fault(format!("it has {size} bytes where {wanted} were written"));
        // Of one that was cut short nothing is tried: its table is at the end. What follows an end takes nothing away.
        if *size < wanted {
            checked.lose(fault);
            return Ok(checked);
        }
        checked.faults.push(fault);
    }
    if checked.task.depth == Depth::Size {
        return Ok(checked);
    }
    if let Some(table) = checked.read_table(repository).await?
        && checked.task.depth == Depth::Content
    {
        check_chunks(repository, worker, table, &mut checked).await?;
    }
    if !checked.faults.is_empty()
        && repository.store().head(&reference.key()).await?.is_none()
        && find_relocation(repository, reference.id).await?.is_some()
    {
        (checked.faults, checked.loss, checked.moved) = (Vec::new(), None, true);
    }
    Ok(checked)
}

impl Checked {
    /// Reads the table, which must hold all that runs speak of; `None` where it does not.
    pub(super) async fn read_table(&mut self, repository: &Repository) -> Result<Option<Table>> {
        let reference = self.task.reference;
        let table = match Fault::sort(read_table(repository, &reference).await)? {
            Ok(table) => table,
            Err(fault) => {
                self.lose(fault);
                return Ok(None);
            }
        };
        self.read_bytes += u64::from(reference.object_bytes - reference.table_offset);
        if self.task.wanted.highest.is_some_and(|highest| u64::from(highest) >= table.entries.len() as u64) {
            self.lose(reference.fault("a run speaks of a chunk that it does not hold"));
            return Ok(None);
        }
        Ok(Some(table))
    }

    /// Says that nothing of the pack can be read.
    pub(super) fn lose(&mut self, fault: Fault) {
        self.loss = Some(Loss::Whole(Arc::new(fault.clone())));
        self.faults.push(fault);
    }

    /// Says that chunks cannot be read, which are given with the reason for each.
    pub(super) fn lose_chunks(&mut self, lost: BTreeMap<u32, Arc<Fault>>) {
        let mut before: Option<&Arc<Fault>> = None;
        for fault in lost.values() {
            // Chunks that were lost together share one fault.
            if before.is_none_or(|before| !Arc::ptr_eq(before, fault)) {
                self.faults.push((**fault).clone());
            }
            before = Some(fault);
        }
        if !lost.is_empty() {
            self.loss = Some(Loss::Chunks(lost));
        }
    }
}

impl PackReference {
    /// Says what is wrong with the pack.
    fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault { object: self.key(), reason: reason.into() }
    }
}

/// Reads a pack back whole that was put a moment ago; `None` where it is what was put.
///
/// # Errors
/// The store's.
pub(crate) async fn read_back(repository: &Repository, reference: PackReference) -> Result<Option<Fault>> {
    let listed = Listed::from([(reference.id, reference.object_bytes.into())]);
    let task = Task { reference, wanted: Wanted::default(), depth: Depth::Content };
    let worker = Worker::new(repository.seams().work);
    Ok(check_pack(repository, &worker, task, &listed).await?.faults.into_iter().next())
}

/// Reads a pack from its start to its table and verifies every chunk.
async fn check_chunks(repository: &Repository, worker: &Worker, table: Table, checked: &mut Checked) -> Result<()> {
    let reference = checked.task.reference;
    let table = Arc::new(table);
    let opener = Arc::new(Opener::new(repository.data_key(), reference));
    let mut lost = BTreeMap::new();
    let (mut first, mut start) = (0, 0);
    // The first read begins with the header; an empty pack is all header.
    loop {
        let entries = &table.entries[first..];
        let count = entries.iter().take_while(|entry| entry.end() - start <= READ_BYTES).count();
        let count = if entries.is_empty() { 0 } else { count.max(1) };
        let end = entries[..count].last().map_or(reference.table_offset, |chunk| chunk.end());
        let ordinals = u32::try_from(first).unwrap_or(u32::MAX)..;
        match Fault::sort(repository.store().get_range(&reference.key(), start.into()..end.into()).await)? {
            Err(fault) => {
                let fault = Arc::new(fault);
                lost.extend(ordinals.take(count).map(|ordinal| (ordinal, Arc::clone(&fault))));
            }
            Ok(bytes) => {
                checked.read_bytes += bytes.len() as u64;
                checked.chunks += count as u64;
                let (repository, table, opener) = (repository.clone(), Arc::clone(&table), Arc::clone(&opener));
                let verified = worker.compute(move || {
                    let header = (start == 0).then(|| header::expect(&bytes, header::Kind::Pack, &reference.key()));
                    let header = header.and_then(Result::err).map(|error| (None, error));
                    let key = repository.data_key();
                    let chunks = table.entries[first..first + count].iter().zip(ordinals);
                    let chunks = chunks.filter_map(|(chunk, ordinal)| {
                        let range = (chunk.offset - start) as usize..(chunk.end() - start) as usize;
                        let opened = match bytes.get(range) {
                            Some(sealed) => opener.open(key, ordinal, chunk, sealed).map(drop),
                            None => Err(reference.damaged("it was not read whole")),
                        };
                        opened.err().map(|error| (Some(ordinal), error))
                    });
                    header.into_iter().chain(chunks).collect::<Vec<(Option<u32>, Error)>>()
                });
                for (ordinal, error) in verified.await? {
                    let fault = Fault::of(error)?;
                    match ordinal {
                        Some(ordinal) => drop(lost.insert(ordinal, Arc::new(fault))),
                        None => checked.faults.push(fault),
                    }
                }
            }
        }
        first += count;
        start = end;
        if first >= table.entries.len() {
            break;
        }
    }
    checked.lose_chunks(lost);
    Ok(())
}
