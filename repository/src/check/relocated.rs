//! Checking packs that are not at their own keys: the record that says where their chunks are, and those chunks.

use std::{collections::BTreeMap, sync::Arc};

use super::packs::{Checked, Depth, READ_BYTES};
use crate::{
    Repository, Result,
    fault::Fault,
    pack::{self, PackReference, TableEntry, find_relocation},
    record::relocation::Relocation,
    repository::names,
    work::Worker,
};

/// Checks a pack that no listing showed, for the chunks that runs speak of.
///
/// # Errors
/// The store's; damage is entered in `checked`.
pub(super) async fn check(repository: &Repository, worker: &Worker, checked: &mut Checked) -> Result<()> {
    let reference = checked.task.reference;
    let relocation = match Fault::sort(find_relocation(repository, reference.id).await)? {
        Ok(Some(relocation)) => relocation,
        Ok(None) => {
            checked.lose(Fault { object: reference.key(), reason: "it is missing".into() });
            return Ok(());
        }
        Err(fault) => {
            checked.lose(fault);
            return Ok(());
        }
    };
    if checked.task.depth == Depth::Size {
        return Ok(());
    }
    let Some(table) = checked.read_table(repository).await? else { return Ok(()) };
    // All are in the table: the highest one was compared with its length.
    let wanted: Vec<(u32, TableEntry)> = checked
        .task
        .wanted
        .ordinals
        .iter()
        .filter_map(|ordinal| Some((*ordinal, *table.entries.get(usize::try_from(*ordinal).ok()?)?)))
        .collect();
    let lost = match checked.task.depth {
        Depth::Content => read(repository, worker, &wanted, checked).await?,
        Depth::Size | Depth::Table => locate(repository, &reference, &relocation, &wanted).await?,
    };
    checked.lose_chunks(lost);
    Ok(())
}

/// Looks whether the record says of each chunk where it is, as readers understand it.
async fn locate(
    repository: &Repository,
    reference: &PackReference,
    relocation: &Relocation,
    wanted: &[(u32, TableEntry)],
) -> Result<BTreeMap<u32, Arc<Fault>>> {
    let all = |fault: Fault| {
        let fault = Arc::new(fault);
        wanted.iter().map(|(ordinal, _)| (*ordinal, Arc::clone(&fault))).collect()
    };
    let record = |reason: String| Fault { object: names::relocation_key(reference.id), reason };
    for target in &relocation.targets {
        let pack = match target.reference() {
            Ok(pack) => pack,
            Err(malformed) => return Ok(all(record(malformed.to_string()))),
        };
        let Some(found) = repository.store().head(&pack.key()).await? else { continue };
        if found.size != u64::from(pack.object_bytes) {
            let reason = format!("it has {} bytes where {} were written", found.size, pack.object_bytes);
            return Ok(all(Fault { object: pack.key(), reason }));
        }
        let table = match Fault::sort(pack::read_table(repository, &pack).await)? {
            Ok(table) => table,
            Err(fault) => return Ok(all(fault)),
        };
        let missing = wanted.iter().filter(|(ordinal, wanted)| {
            let place = target.place(*ordinal).and_then(|place| usize::try_from(place).ok());
            let entry = place.and_then(|place| table.entries.get(place));
            entry.is_none_or(|entry| entry.id != wanted.id || entry.blocks != wanted.blocks)
        });
        let fault = |ordinal: &u32| record(format!("it does not say where chunk {ordinal} is"));
        return Ok(missing.map(|(ordinal, _)| (*ordinal, Arc::new(fault(ordinal)))).collect());
    }
    let reason = "it is missing, and so is what it was repacked into".to_owned();
    Ok(all(Fault { object: reference.key(), reason }))
}

/// Reads and verifies the chunks, wherever they are.
async fn read(
    repository: &Repository,
    worker: &Worker,
    wanted: &[(u32, TableEntry)],
    checked: &mut Checked,
) -> Result<BTreeMap<u32, Arc<Fault>>> {
    let reference = checked.task.reference;
    let mut lost = BTreeMap::new();
    let mut rest = wanted;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|(_, entry)| {
            bytes += entry.stored;
            bytes <= READ_BYTES
        });
        let (group, behind) = rest.split_at(fitting.count().max(1));
        rest = behind;
        match Fault::sort(pack::read_chunks(repository, &reference, group, None).await)? {
            Ok(chunks) => {
                checked.read_bytes += chunks.read_bytes();
                checked.chunks += group.len() as u64;
                let repository = repository.clone();
                let opened = worker.compute(move || {
                    let opened = chunks.open(repository.data_key());
                    opened.filter_map(|(ordinal, plain)| Some((ordinal, plain.err()?))).collect::<Vec<_>>()
                });
                for (ordinal, error) in opened.await? {
                    lost.insert(ordinal, Arc::new(Fault::of(error)?));
                }
            }
            // One by one, to tell those that are lost from those that were asked for with them.
            Err(_) if group.len() > 1 => {
                for single in group.chunks(1) {
                    let found = Box::pin(read(repository, worker, single, checked)).await?;
                    lost.extend(found);
                }
            }
            Err(fault) => lost.extend(group.iter().map(|(ordinal, _)| (*ordinal, Arc::new(fault.clone())))),
        }
    }
    Ok(lost)
}
