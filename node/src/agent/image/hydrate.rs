//! Hydration: filling a new image from the repository.
//!
//! What was hydrated is also kept as a cut, so that the first snapshot of the new volume is computed against it and only
//! what was changed since the restore is offloaded.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{Instant as Tick, interval_at};
use tokio_util::sync::CancellationToken;
use varve_repository::{
    SnapshotState, hydrate::Statistics, id::SnapshotId, progress::Progress, record::snapshot::Root,
};

use super::{
    super::activity::Hydration,
    Agent, Error, Result, Wanted,
    fill::{Making, fits},
};
use crate::{
    cut::{self, Cut},
    extent::ImageTarget,
    observe::Outcome,
    volume::DATA,
};

/// How often it is told how far a hydration has come.
const REPORT: Duration = Duration::from_secs(5);

impl Agent {
    /// Makes a volume's image and fills it with what the repository holds of a snapshot.
    pub(super) async fn hydrate(&self, wanted: Wanted, source: SnapshotId, cancel: CancellationToken) -> Result<()> {
        let root = match self.repository().snapshot(source).await? {
            SnapshotState::Committed(root) => root,
            SnapshotState::Absent | SnapshotState::Gone(_) => return Err(Error::NoSnapshot(source)),
        };
        let bytes = root.description.capacity_bytes;
        fits(&wanted, bytes)?;
        // An upper bound where runs overlap: a pool that it just fits in may refuse it, and none is filled by it.
        self.require_room_for(root.statistics.data_bytes.min(bytes)).await?;
        let id = wanted.id;
        let (making, target) = self
            .block(move |agent| {
                let making = Making::new(agent, id)?;
                let data = making.data();
                agent.pool().filesystem().create(&data, bytes).map_err(Error::system("making", &data))?;
                let target = ImageTarget::open(&making.image()).map_err(Error::system("opening", making.image()))?;
                Ok((making, target))
            })
            .await?;
        let started = Instant::now();
        let listed = Hydration::begin(self, &wanted, source);
        let transferred = self.transfer(&root, target, &listed.progress, &cancel).await;
        let outcome = match &transferred {
            Ok(_) => Some(Outcome::Done),
            Err(varve_repository::Error::Interrupted) => None,
            Err(_) => Some(Outcome::Failed),
        };
        if let Some(outcome) = outcome {
            self.observer().hydrated(outcome, started.elapsed());
        }
        let outcome = match transferred {
            Ok(statistics) => {
                tracing::info!(
                    snapshot = %source, written = statistics.written_bytes,
                    fetched = statistics.fetched_bytes, millis = started.elapsed().as_millis(), "hydrated"
                );
                self.block(move |agent| agent.finish_hydration(&wanted, &root, making)).await
            }
            Err(error) => {
                // Removing what is there takes time, and is not to hold up the runtime.
                self.block(move |_| {
                    drop(making);
                    Ok(())
                })
                .await?;
                match error {
                    varve_repository::Error::Interrupted => Err(self.cancelled(id)),
                    error => Err(error.into()),
                }
            }
        };
        listed.end(&outcome);
        outcome
    }

    async fn transfer(
        &self,
        root: &Root,
        target: ImageTarget,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> varve_repository::Result<Statistics> {
        let _first = self.0.offloads.make_way();
        let work = self.repository().hydrate(root, Arc::new(target), progress.clone(), cancel.clone());
        tokio::pin!(work);
        let mut reports = interval_at(Tick::now() + REPORT, REPORT);
        loop {
            tokio::select! {
                result = &mut work => return result,
                _ = reports.tick() => {
                    let reading = progress.read();
                    tracing::info!(
                        snapshot = %root.description.id,
                        done = reading.done, total = reading.total, fetched = reading.moved, "hydrating"
                    );
                }
            }
        }
    }

    /// Puts the volume into place, and beside it what was hydrated as a base.
    fn finish_hydration(&self, wanted: &Wanted, root: &Root, making: Making) -> Result<()> {
        let id = root.description.id;
        let pool = self.pool();
        let folder =
            pool.make_folder(&id.to_string()).map_err(Error::system("making a folder in", pool.making_dir()))?;
        let record = cut::Record {
            description: root.description.clone(),
            state: cut::State::Base,
            origin: None,
            offload: wanted.offload,
        };
        // The cut is made before the volume is in place and may change, and put into place after it: a base that no
        // volume refers to would be taken for superseded.
        let cut = pool.filesystem().cut(&making.data(), &folder.join(DATA));
        let placed = making.place(wanted, Some(id));
        let kept = cut.and_then(|()| {
            if placed.is_err() {
                return pool.remove_folder(&folder);
            }
            cut::write_record(&folder, &record)?;
            pool.commit_folder(&folder, &pool.cut_dir(id))?;
            self.cuts().insert(Cut::load(pool.cut_dir(id))?);
            Ok(())
        });
        if let Err(error) = kept {
            tracing::warn!(
                volume = %wanted.id, snapshot = %id, %error,
                "what was hydrated cannot be kept as a base: the next snapshot reads everything allocated"
            );
            if let Err(error) = pool.remove_folder(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "unfinished work stays until the next start");
            }
        }
        placed.map(|_| ())
    }
}
