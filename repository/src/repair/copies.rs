//! Other copies of lost chunks in the repository itself: the same chunk, by its id, in another pack.
//!
//! Chunks are deduplicated among what an offload pins and not in the whole repository, so the same content may well have
//! been stored more than once. The tables of packs are searched, those of the same volumes first, up to a bound.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Repository, Result,
    check::{Findings, Loss},
    fault::Fault,
    id::{ChunkId, SnapshotId, VolumeId},
    pack::{PackReference, TableEntry, read_table},
    run::{Origin, Reader},
};

/// Most tables searched.
const MAX_TABLES: usize = 8192;

/// Tables read at once.
const READS: usize = 8;

/// Most copies of one chunk that are remembered.
const MAX_COPIES: usize = 4;

/// Where lost chunks are, too.
pub(super) type Copies = BTreeMap<ChunkId, Vec<Copy>>;

/// One copy of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) pack: PackReference,
    pub(super) ordinal: u32,
    pub(super) entry: TableEntry,
}

/// Searches for copies of all chunks that are lost and whose ids are known.
///
/// # Errors
/// The store's.
pub(super) async fn find(repository: &Repository, findings: &Findings, hurt: &BTreeSet<SnapshotId>) -> Result<Copies> {
    let mut wanted = BTreeSet::new();
    for (pack, loss) in &findings.losses {
        let Loss::Chunks(chunks) = loss else { continue };
        let Ok(table) = Fault::sort(read_table(repository, pack).await)? else { continue };
        let lost = chunks.keys().filter_map(|ordinal| table.entries.get(usize::try_from(*ordinal).ok()?));
        wanted.extend(lost.map(|entry| entry.id));
    }
    let mut copies = Copies::new();
    if wanted.is_empty() {
        return Ok(copies);
    }
    let packs = candidates(repository, findings, hurt).await?;
    let mut tables = stream::iter(packs)
        .map(async |pack| Ok::<_, crate::Error>((pack, Fault::sort(read_table(repository, &pack).await)?)))
        .buffered(READS);
    while let Some((pack, table)) = tables.try_next().await? {
        let Ok(table) = table else { continue };
        let loss = findings.losses.get(&pack);
        for (entry, ordinal) in table.entries.iter().zip(0..) {
            if wanted.contains(&entry.id) && loss.is_none_or(|loss| loss.of(ordinal).is_none()) {
                let known = copies.entry(entry.id).or_default();
                if known.len() < MAX_COPIES {
                    known.push(Copy { pack, ordinal, entry: *entry });
                }
            }
        }
    }
    Ok(copies)
}

/// Orders the packs to be searched: those that snapshots of the hurt volumes refer to, then all others.
async fn candidates(
    repository: &Repository,
    findings: &Findings,
    hurt: &BTreeSet<SnapshotId>,
) -> Result<Vec<PackReference>> {
    let volumes: BTreeSet<VolumeId> = findings
        .roots
        .iter()
        .map(|root| &root.description)
        .filter(|description| hurt.contains(&description.id))
        .map(|description| description.volume)
        .collect();
    let near = findings.roots.iter().filter(|root| volumes.contains(&root.description.volume));
    let runs: BTreeMap<_, _> = near.flat_map(|root| &root.runs).map(|run| (run.id, run)).collect();
    let mut packs = BTreeSet::new();
    for run in runs.into_values() {
        if packs.len() >= MAX_TABLES {
            break;
        }
        let Ok(reader) = Fault::sort(Reader::open(repository, Origin::Stored(run.clone())).await)? else { continue };
        packs.extend(reader.index().packs.iter().copied());
    }
    let others = findings.packs.iter().filter(|pack| !packs.contains(pack)).copied();
    let all: Vec<_> = packs.iter().copied().chain(others).take(MAX_TABLES).collect();
    Ok(all)
}
