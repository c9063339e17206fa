//! Checking runs: each once, its index and every page, whatever number of roots refer to it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Check, READS,
    packs::{Listed, Wanted},
};
use crate::{
    Repository, Result,
    block::Blocks,
    fault::Fault,
    format::{HEADER_LEN, header},
    id::RunId,
    pack::PackReference,
    record::snapshot::{Root, RunReference},
    run::{self, Origin, Place, Reader},
};

/// What was found of the runs.
#[derive(Default)]
pub(super) struct Runs {
    /// Runs of which some pages, or all, cannot be read.
    pub(super) damaged: HashSet<RunId>,
    /// Runs whose index can be read.
    pub(super) readable: Vec<RunReference>,
    /// The packs that they refer to, and what is wanted of each.
    pub(super) packs: BTreeMap<PackReference, Wanted>,
}

/// What was found of one run.
struct Checked {
    reference: RunReference,
    faults: Vec<Fault>,
    readable: bool,
    damaged: bool,
    packs: BTreeMap<PackReference, Wanted>,
}

impl Check<'_> {
    /// Reads every run that a root refers to. Of packs that are not `listed` it is noted which chunks are wanted.
    pub(super) async fn check_runs(&mut self, roots: &[Arc<Root>], listed: Option<&Listed>) -> Result<Runs> {
        // Roots that refer to one run in different ways cannot all be right: each way is checked.
        let mut references: Vec<RunReference> = roots.iter().flat_map(|root| root.runs.iter().cloned()).collect();
        references.sort_unstable_by(|one, other| (one.id, &one.index_hash).cmp(&(other.id, &other.index_hash)));
        references.dedup();
        self.progress.add_total(references.iter().map(|run| run.object_bytes).sum());

        let repository = self.repository;
        let mut checked =
            stream::iter(references).map(|run| check_run(repository, run, listed)).buffer_unordered(READS);
        let mut runs = Runs::default();
        while let Some(run) = checked.try_next().await? {
            self.report.runs += 1;
            self.report.read_bytes += run.reference.object_bytes;
            self.progress.add_done(run.reference.object_bytes);
            self.progress.add_moved(run.reference.object_bytes);
            for fault in run.faults {
                self.note(fault);
            }
            for (pack, wanted) in run.packs {
                runs.packs.entry(pack).or_default().join(wanted);
            }
            if run.damaged {
                runs.damaged.insert(run.reference.id);
            }
            if run.readable {
                runs.readable.push(run.reference);
            }
        }
        Ok(runs)
    }
}

/// Reads a run back whole that was put a moment ago; `None` where it is what was put.
///
/// # Errors
/// The store's.
pub(crate) async fn read_back(repository: &Repository, reference: &RunReference) -> Result<Option<Fault>> {
    Ok(check_run(repository, reference.clone(), None).await?.faults.into_iter().next())
}

async fn check_run(repository: &Repository, reference: RunReference, listed: Option<&Listed>) -> Result<Checked> {
    let mut checked = Checked { reference, faults: Vec::new(), readable: true, damaged: false, packs: BTreeMap::new() };
    let key = run::key(checked.reference.id);
    let header = repository.store().get_range(&key, 0..HEADER_LEN as u64).await;
    let header = header.and_then(|header| header::expect(&header, header::Kind::Run, &key));
    checked.faults.extend(Fault::sort(header)?.err());
    let origin = Origin::Stored(checked.reference.clone());
    let mut reader = match Fault::sort(Reader::open(repository, origin).await)? {
        Ok(reader) => reader,
        Err(fault) => {
            checked.faults.push(fault);
            (checked.readable, checked.damaged) = (false, true);
            return Ok(checked);
        }
    };
    checked.packs = reader.index().packs.iter().map(|pack| (*pack, Wanted::default())).collect();
    for number in 0..reader.index().pages.len() {
        let everything = Blocks(u64::MAX);
        match Fault::sort(reader.page(number, everything).await)? {
            Ok(extents) => {
                for extent in extents {
                    let Place::Chunk(place) = extent.place else { continue };
                    let pack = usize::try_from(place.pack).ok().and_then(|pack| reader.index().packs.get(pack));
                    let Some((pack, wanted)) = pack.and_then(|pack| Some((pack, checked.packs.get_mut(pack)?))) else {
                        continue;
                    };
                    wanted.highest = wanted.highest.max(Some(place.ordinal));
                    if listed.is_some_and(|listed| !listed.contains_key(&pack.id)) {
                        wanted.ordinals.insert(place.ordinal);
                    }
                }
            }
            Err(fault) => {
                checked.damaged = true;
                checked.faults.push(fault);
            }
        }
    }
    Ok(checked)
}
