//! Checking runs: each once, its index and every page, whatever number of roots refer to it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Check, Fault, READS};
use crate::{
    Repository, Result,
    block::{BlockRange, Blocks},
    format::{HEADER_LEN, header},
    id::RunId,
    pack::PackReference,
    record::snapshot::{Root, RunReference},
    run::{self, Origin, Place, Reader},
};

/// What was found of the runs.
#[derive(Default)]
pub(super) struct Runs {
    /// Runs of which nothing can be read, by how a root refers to them.
    pub(super) lost: Vec<RunReference>,
    /// Damaged pages, by position, and what they covered.
    pub(super) lost_pages: HashMap<RunId, Vec<(usize, BlockRange)>>,
    /// Runs whose index can be read.
    pub(super) readable: Vec<RunReference>,
    /// The packs that they refer to, and the highest chunk wanted of each.
    pub(super) packs: BTreeMap<PackReference, Option<u32>>,
}

/// What was found of one run.
struct Checked {
    reference: RunReference,
    faults: Vec<Fault>,
    readable: bool,
    lost_pages: Vec<(usize, BlockRange)>,
    packs: BTreeMap<PackReference, Option<u32>>,
}

impl Check<'_> {
    /// Reads every run that a root refers to.
    pub(super) async fn check_runs(&mut self, roots: &[Arc<Root>]) -> Result<Runs> {
        // Roots that refer to one run in different ways cannot all be right: each way is checked.
        let mut references: Vec<RunReference> = roots.iter().flat_map(|root| root.runs.iter().cloned()).collect();
        references.sort_unstable_by(|one, other| (one.id, &one.index_hash).cmp(&(other.id, &other.index_hash)));
        references.dedup();
        self.progress.add_total(references.iter().map(|run| run.object_bytes).sum());

        let repository = self.repository;
        let mut checked = stream::iter(references).map(|run| check_run(repository, run)).buffer_unordered(READS);
        let mut runs = Runs::default();
        while let Some(run) = checked.try_next().await? {
            self.report.runs += 1;
            self.report.read_bytes += run.reference.object_bytes;
            self.progress.add_done(run.reference.object_bytes);
            self.progress.add_moved(run.reference.object_bytes);
            for fault in run.faults {
                self.note(fault);
            }
            for (pack, highest) in run.packs {
                let known = runs.packs.entry(pack).or_default();
                *known = (*known).max(highest);
            }
            if !run.lost_pages.is_empty() {
                runs.lost_pages.insert(run.reference.id, run.lost_pages);
            }
            if run.readable { &mut runs.readable } else { &mut runs.lost }.push(run.reference);
        }
        Ok(runs)
    }
}

async fn check_run(repository: &Repository, reference: RunReference) -> Result<Checked> {
    let mut checked =
        Checked { reference, faults: Vec::new(), readable: true, lost_pages: Vec::new(), packs: BTreeMap::new() };
    let key = run::key(checked.reference.id);
    let header = repository.store().get_range(&key, 0..HEADER_LEN as u64).await;
    let header = header.and_then(|header| header::expect(&header, header::Kind::Run, &key));
    checked.faults.extend(Fault::sort(header)?.err());
    let origin = Origin::Stored(checked.reference.clone());
    let mut reader = match Fault::sort(Reader::open(repository, origin).await)? {
        Ok(reader) => reader,
        Err(fault) => {
            checked.faults.push(fault);
            checked.readable = false;
            return Ok(checked);
        }
    };
    checked.packs = reader.index().packs.iter().map(|pack| (*pack, None)).collect();
    for number in 0..reader.index().pages.len() {
        let everything = Blocks(u64::MAX);
        match Fault::sort(reader.page(number, everything).await)? {
            Ok(extents) => {
                for extent in extents {
                    let Place::Chunk(place) = extent.place else { continue };
                    let pack = usize::try_from(place.pack).ok().and_then(|pack| reader.index().packs.get(pack));
                    if let Some(highest) = pack.and_then(|pack| checked.packs.get_mut(pack)) {
                        *highest = (*highest).max(Some(place.ordinal));
                    }
                }
            }
            Err(fault) => {
                checked.lost_pages.push((number, reader.index().pages[number].range));
                checked.faults.push(fault);
            }
        }
    }
    Ok(checked)
}
