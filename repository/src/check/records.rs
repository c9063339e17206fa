//! Checking the small records: that each opens.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Check, Hurt, READS};
use crate::{
    Result, SnapshotState,
    fault::Fault,
    id::{SnapshotId, VolumeId},
    record::snapshot::Root,
    repository::names::{SNAPSHOTS, UPLOADS, VOLUMES},
};

impl Check<'_> {
    /// Opens every record; returns the roots, ordered by id, and those that cannot be read.
    pub(super) async fn check_records(&mut self) -> Result<(Vec<Arc<Root>>, BTreeMap<SnapshotId, Fault>)> {
        let repository = self.repository;
        if let Err(fault) = Fault::sort(repository.reread().await)? {
            self.note(fault);
        }
        let volumes = repository.list_ids::<VolumeId>(VOLUMES).await?;
        let volumes = stream::iter(volumes).map(async |(id, _)| Fault::sort(repository.volume(id).await));
        let volumes: Vec<_> = volumes.buffer_unordered(READS).try_collect().await?;
        let intents = repository.list_ids::<SnapshotId>(UPLOADS).await?;
        let intents = stream::iter(intents).map(async |(id, _)| Fault::sort(repository.read_intent(id).await));
        let intents: Vec<_> = intents.buffer_unordered(READS).try_collect().await?;
        let faults = volumes.into_iter().filter_map(Result::err).chain(intents.into_iter().filter_map(Result::err));
        for fault in faults {
            self.note(fault);
        }

        let mut snapshots = repository.list_ids::<SnapshotId>(SNAPSHOTS).await?;
        snapshots.sort_unstable_by_key(|(id, _)| *id);
        // Read anew and not from the cache: the point is what the store has.
        let mut states = stream::iter(snapshots)
            .map(async |(id, _)| Ok::<_, crate::Error>((id, Fault::sort(repository.snapshot(id).await)?)))
            .buffered(READS);
        let (mut roots, mut lost) = (Vec::new(), BTreeMap::new());
        while let Some((snapshot, state)) = states.try_next().await? {
            match state {
                Ok(SnapshotState::Committed(root)) => roots.push(Arc::from(root)),
                Ok(SnapshotState::Gone(_) | SnapshotState::Absent) => {}
                Err(fault) => {
                    self.note(fault.clone()).hurt.push(Hurt { snapshot, volume: None, ranges: Vec::new() });
                    lost.insert(snapshot, fault);
                }
            }
        }
        Ok((roots, lost))
    }
}
