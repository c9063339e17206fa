//! Offloads: every cut that belongs into the repository gets there, however long that takes.
//!
//! A volume with such cuts has one *lane*: a task that offloads them in the order in which they were cut, since each is
//! computed against the one before. Lanes share a bounded number of [turns](schedule), given by weight and by what there is
//! to move; a lane asks anew for every attempt, and a long attempt is interrupted for the sake of those who wait, so that
//! no volume keeps the others waiting. Hydrations go first.
//!
//! # Backpressure
//!
//! Cutting takes no turn. But each cut that waits holds blocks that its volume overwrites, so a volume and a node may have
//! a bounded number of them; a snapshot beyond that is refused before anything is cut.
//!
//! # Retries
//!
//! Failures that pass by themselves are tried again for ever, with growing pauses; the cut stays `PENDING` and says why.
//! Those that may need a person (no permission, no room, the image unreadable) are tried a few times; those that surely
//! need one, not at all. The cut is then `FAILED` and kept. It is tried once more when the same snapshot is asked for
//! again after a while, and after a restart.
//!
//! # Crash consistency
//!
//! What is to be done follows from the cuts' records, so there is no queue to lose. The repository keeps a journal beside
//! the cut, behind which the next attempt continues.

mod against;
mod attempt;
mod backlog;
mod backoff;
mod paced;
mod schedule;
mod turns;

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

pub use schedule::Standing;
use tracing::Instrument as _;
use turns::{Hydrating, Turns};
use varve_repository::{
    bandwidth::Bandwidth,
    id::{SnapshotId, VolumeId},
};

use super::{Agent, Error, Result};
use crate::{
    config::OffloadLimits,
    cut::{Cut, State, Status},
};

/// How long a failed cut is left in peace, however often it is asked for.
const PEACE: Duration = Duration::from_secs(60);

/// The lanes, and what they share.
#[derive(Debug)]
pub(super) struct Offloads {
    turns: Turns,
    /// Bytes a second that all offloads together read of cuts.
    reads: Bandwidth,
    lanes: Mutex<HashSet<VolumeId>>,
    failed_at: Mutex<HashMap<SnapshotId, Instant>>,
}

impl Offloads {
    /// At most `at_once` offloads run at the same time; at least one does.
    pub(super) fn new(at_once: usize, limits: &OffloadLimits) -> Self {
        Self {
            turns: Turns::new(at_once, limits.shortest_turn),
            reads: Bandwidth::new(limits.io_bandwidth),
            lanes: Mutex::default(),
            failed_at: Mutex::default(),
        }
    }

    /// Lets somebody who hydrates go first, until what is returned is dropped.
    pub(super) fn make_way(&self) -> Hydrating {
        self.turns.hydrate()
    }

    /// Forgets what is remembered of a cut that is gone.
    pub(super) fn forget(&self, id: SnapshotId) {
        self.failed_at().remove(&id);
    }

    fn lanes(&self) -> MutexGuard<'_, HashSet<VolumeId>> {
        self.lanes.lock().expect("no holder panics")
    }

    fn failed_at(&self) -> MutexGuard<'_, HashMap<SnapshotId, Instant>> {
        self.failed_at.lock().expect("no holder panics")
    }
}

/// Whether a cut has its turn to come.
fn waits(cut: &Cut) -> bool {
    matches!(*cut.status().borrow(), Status::Pending { .. } | Status::Offloading) && !cut.removal().is_cancelled()
}

impl Agent {
    /// How many offloads and hydrations are under way, and how many offloads wait for their turn.
    #[must_use]
    pub fn offloads(&self) -> Standing {
        self.0.offloads.turns.standing()
    }

    /// Has a volume's offload that is under way go on under the parameters that the volume has now.
    pub(super) fn parameters_changed(&self, volume: VolumeId) {
        self.0.offloads.turns.interrupt(volume);
    }

    /// Takes up every offload that the last process left.
    pub(super) fn resume_offloads(&self) {
        let volumes: HashSet<_> =
            self.cuts().list().iter().filter(|cut| waits(cut)).map(|cut| cut.record().description.volume).collect();
        for volume in volumes {
            self.offload_cuts_of(volume);
        }
    }

    /// Sees to it that the volume has a lane, if it has cuts to offload.
    pub(super) fn offload_cuts_of(&self, volume: VolumeId) {
        if self.0.offloads.lanes().insert(volume) {
            let agent = self.clone();
            self.0.tasks.spawn(async move {
                while let Some(cut) = agent.next_in_lane(volume) {
                    let span = tracing::info_span!("offload", %volume, snapshot = %cut.id());
                    agent.see_through(&cut).instrument(span).await;
                }
            });
        }
    }

    /// Has a failed offload tried again, unless it failed just now.
    pub(super) fn try_again(&self, cut: &Cut) {
        let State::Failed { message } = cut.record().state else { return };
        let recent = self.0.offloads.failed_at().get(&cut.id()).is_some_and(|at| at.elapsed() < PEACE);
        if !recent {
            cut.set_status(Status::Pending { message });
            self.offload_cuts_of(cut.record().description.volume);
        }
    }

    /// Returns the lane's next cut, or closes the lane.
    fn next_in_lane(&self, volume: VolumeId) -> Option<Cut> {
        // Under the lock: a cut that comes now either is seen, or finds the lane closed and opens another.
        let mut lanes = self.0.offloads.lanes();
        let next = self.cuts().of_volume(volume).into_iter().find(waits);
        if next.is_none() || self.0.stop.is_cancelled() {
            lanes.remove(&volume);
            return None;
        }
        next
    }

    /// Marks a cut as failed, durably.
    async fn fail(&self, cut: &Cut, message: String) -> Result<()> {
        tracing::error!(reason = message, "the offload needs a person");
        self.0.offloads.failed_at().insert(cut.id(), Instant::now());
        self.settle(cut, State::Failed { message }).await
    }

    /// Writes down what has become of a cut.
    async fn settle(&self, cut: &Cut, state: State) -> Result<()> {
        let written = cut.clone();
        self.block(move |_| written.set_state(state).map_err(Error::system("writing the record of", written.folder())))
            .await
    }
}
