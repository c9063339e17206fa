//! Checking packs: that each is there, its table whole, and, where asked, every chunk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Check, Fault, Level, READS, runs::Runs};
use crate::{
    Error, Repository, Result,
    format::header,
    id::PackId,
    pack::{Opener, PackReference, Table, read_table},
    repository::names::PACKS,
    work::Worker,
};

/// Most bytes of one read.
const READ_BYTES: u32 = 4 << 20;

/// What is lost of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// All of it.
    Whole,
    /// These chunks.
    Chunks(BTreeSet<u32>),
}

impl Loss {
    /// Tells whether a chunk is lost.
    pub(super) fn takes(&self, ordinal: u32) -> bool {
        match self {
            Self::Whole => true,
            Self::Chunks(chunks) => chunks.contains(&ordinal),
        }
    }
}

/// What was found of one pack.
struct Checked {
    reference: PackReference,
    fault: Option<(Fault, Loss)>,
    chunks: u64,
    read_bytes: u64,
}

impl Check<'_> {
    /// Checks every pack that a run refers to; returns those that are damaged.
    pub(super) async fn check_packs(&mut self, runs: &Runs) -> Result<BTreeMap<PackReference, Loss>> {
        let sizes = self.listed_sizes(runs).await?;
        self.progress.add_total(runs.packs.keys().map(|pack| work(self.level, pack)).sum());

        let (repository, level) = (self.repository, self.level);
        let sizes = &sizes;
        let packs: Vec<_> = runs.packs.iter().map(|(reference, highest)| (*reference, *highest)).collect();
        let mut checked = stream::iter(packs)
            .map(|(reference, highest)| check_pack(repository, reference, highest, sizes, level))
            .buffer_unordered(READS);
        let mut damaged = BTreeMap::new();
        while let Some(pack) = checked.try_next().await? {
            self.report.packs += 1;
            self.report.chunks += pack.chunks;
            self.report.read_bytes += pack.read_bytes;
            self.progress.add_moved(pack.read_bytes);
            self.progress.add_done(work(level, &pack.reference));
            if let Some((fault, loss)) = pack.fault {
                self.note(fault);
                damaged.insert(pack.reference, loss);
            }
        }
        Ok(damaged)
    }

    /// Takes the sizes of the packs that are referred to from a listing: a thousand for each request.
    async fn listed_sizes(&self, runs: &Runs) -> Result<HashMap<PackId, u64>> {
        let mut sizes: HashMap<PackId, Option<u64>> = runs.packs.keys().map(|pack| (pack.id, None)).collect();
        let mut entries = self.repository.store().list(PACKS);
        while let Some(entry) = entries.try_next().await? {
            let id = entry.key.strip_prefix(PACKS).and_then(|name| name.parse().ok());
            if let Some(size) = id.and_then(|id: PackId| sizes.get_mut(&id)) {
                *size = Some(entry.size);
            }
        }
        Ok(sizes.into_iter().filter_map(|(id, size)| Some((id, size?))).collect())
    }
}

/// How many bytes of a pack a level reads.
fn work(level: Level, pack: &PackReference) -> u64 {
    match level {
        Level::Content => pack.object_bytes.into(),
        Level::Structure | Level::Presence => (pack.object_bytes - pack.table_offset).into(),
    }
}

async fn check_pack(
    repository: &Repository,
    reference: PackReference,
    highest: Option<u32>,
    sizes: &HashMap<PackId, u64>,
    level: Level,
) -> Result<Checked> {
    let mut checked = Checked { reference, fault: None, chunks: 0, read_bytes: 0 };
    let wanted = u64::from(reference.object_bytes);
    let wrong = match sizes.get(&reference.id) {
        None => Some("it is missing".to_owned()),
        Some(size) if *size != wanted => Some(format!("it has {size} bytes where {wanted} were written")),
        Some(_) => None,
    };
    if let Some(reason) = wrong {
        let fault = Fault { object: reference.key(), reason };
        // Of one that was cut short nothing is tried: its table is at the end.
        checked.fault = Some((fault, Loss::Whole));
        return Ok(checked);
    }
    let table = match Fault::sort(read_table(repository, &reference).await)? {
        Ok(table) => table,
        Err(fault) => {
            checked.fault = Some((fault, Loss::Whole));
            return Ok(checked);
        }
    };
    checked.read_bytes += u64::from(reference.object_bytes - reference.table_offset);
    if highest.is_some_and(|highest| u64::from(highest) >= table.entries.len() as u64) {
        let reason = "a run speaks of a chunk that it does not hold".to_owned();
        checked.fault = Some((Fault { object: reference.key(), reason }, Loss::Whole));
        return Ok(checked);
    }
    if level == Level::Content {
        check_chunks(repository, table, &mut checked).await?;
    }
    Ok(checked)
}

/// Reads a pack from its start to its table and verifies every chunk.
async fn check_chunks(repository: &Repository, table: Table, checked: &mut Checked) -> Result<()> {
    let reference = checked.reference;
    let mut faults = Vec::new();
    let mut lost = BTreeSet::new();
    let (mut first, mut start) = (0, 0);
    // The first read begins with the header; an empty pack is all header.
    loop {
        let fits = |end: u32| end - start <= READ_BYTES;
        let count = table.entries[first..].iter().take_while(|entry| fits(entry.end())).count();
        let count = if first < table.entries.len() { count.max(1) } else { 0 };
        let chunks = table.entries[first..first + count].to_vec();
        let end = chunks.last().map_or(reference.table_offset, |chunk| chunk.end());
        let ordinals = u32::try_from(first).unwrap_or(u32::MAX)..;
        match Fault::sort(repository.store().get_range(&reference.key(), start.into()..end.into()).await)? {
            Err(fault) => {
                faults.push(fault);
                lost.extend(ordinals.take(count));
            }
            Ok(bytes) => {
                checked.read_bytes += bytes.len() as u64;
                checked.chunks += count as u64;
                let repository = repository.clone();
                let verified = Worker::new(repository.seams().work).start(move || {
                    let header = (start == 0).then(|| header::expect(&bytes, header::Kind::Pack, &reference.key()));
                    let header = header.and_then(Result::err).map(|error| (None, error));
                    let key = repository.data_key();
                    let opener = Opener::new(key, reference);
                    let chunks = chunks.iter().zip(ordinals).filter_map(|(chunk, ordinal)| {
                        let range = (chunk.offset - start) as usize..(chunk.end() - start) as usize;
                        let opened = match bytes.get(range) {
                            Some(sealed) => opener.open(key, ordinal, chunk, sealed).map(drop),
                            None => Err(reference.damaged("it was not read whole")),
                        };
                        opened.err().map(|error| (Some(ordinal), error))
                    });
                    header.into_iter().chain(chunks).collect::<Vec<(Option<u32>, Error)>>()
                });
                let verified = verified.await.unwrap_or_else(|error| vec![(None, error)]);
                for (ordinal, error) in verified {
                    faults.push(Fault::of(error)?);
                    lost.extend(ordinal);
                }
            }
        }
        first += count;
        start = end;
        if first >= table.entries.len() {
            break;
        }
    }
    checked.fault = faults.into_iter().next().map(|fault| (fault, Loss::Chunks(lost)));
    Ok(())
}
