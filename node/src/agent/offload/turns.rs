//! Turns as tasks take them: the [schedule](super::schedule), shared and with the time of the machine.
//!
//! # Cancellation
//! Whoever stops waiting is forgotten; a turn ends with the value that stands for it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use varve_repository::id::VolumeId;

use super::schedule::{Demand, Schedule, Standing};

/// The turns of a node. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    since: Instant,
}

#[derive(Debug)]
struct State {
    schedule: Schedule<VolumeId>,
    waiting: HashMap<VolumeId, oneshot::Sender<Arc<Turn>>>,
    running: HashMap<VolumeId, CancellationToken>,
}

/// A volume's turn to offload, until it is [ended](Turn::end) or dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    volume: VolumeId,
    interrupted: CancellationToken,
    ended: AtomicBool,
}

/// That somebody hydrates, until it is dropped.
#[derive(Debug)]
pub(in crate::agent) struct Hydrating(Turns);

/// That a volume waits, until it is dropped.
struct Asking<'a>(&'a Turns, VolumeId);

impl Turns {
    /// At most `at_once` turns at a time, at least one; each lasts for `shortest` if it needs that long.
    pub(super) fn new(at_once: usize, shortest: Duration) -> Self {
        let schedule = Schedule::new(at_once, shortest);
        let state = State { schedule, waiting: HashMap::new(), running: HashMap::new() };
        Self(Arc::new(Shared { state: Mutex::new(state), since: Instant::now() }))
    }

    /// Waits for a volume's turn. A volume takes one at a time.
    pub(super) async fn take(&self, volume: VolumeId, demand: Demand) -> Arc<Turn> {
        let (sender, receiver) = oneshot::channel();
        // Withdraws wherever this future ends; where it was granted its turn, there is nothing to withdraw.
        let _asking = Asking(self, volume);
        {
            let mut state = self.state();
            state.schedule.ask(volume, demand);
            state.waiting.insert(volume, sender);
        }
        self.grant();
        receiver.await.expect("whoever waits is granted a turn, or withdraws")
    }

    /// Has a volume's offload stop at once, if it has its turn, and go on where it was.
    pub(super) fn interrupt(&self, volume: VolumeId) {
        if let Some(running) = self.state().running.get(&volume) {
            running.cancel();
        }
    }

    /// Says that somebody hydrates.
    pub(super) fn hydrate(&self) -> Hydrating {
        self.state().schedule.hydration_begins();
        Hydrating(self.clone())
    }

    /// How many run and wait.
    pub(super) fn standing(&self) -> Standing {
        self.state().schedule.standing()
    }

    /// Gives all turns that there are to give.
    fn grant(&self) {
        loop {
            let granted = {
                let mut state = self.state();
                let Some(volume) = state.schedule.grant(Instant::now()) else { return };
                let turn = Turn::of(self, volume);
                state.running.insert(volume, turn.interrupted.clone());
                state.waiting.remove(&volume).map(|sender| (sender, Arc::new(turn)))
            };
            // Not under the lock: where nobody waits any more, the turn ends here.
            if let Some((sender, turn)) = granted {
                drop(sender.send(turn));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder panics")
    }
}

impl Turn {
    fn of(turns: &Turns, volume: VolumeId) -> Self {
        Self { turns: turns.clone(), volume, interrupted: CancellationToken::new(), ended: AtomicBool::new(false) }
    }

    /// Ends it, whoever still holds it.
    pub(super) fn end(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            let mut state = self.turns.state();
            state.schedule.end(self.volume);
            state.running.remove(&self.volume);
            drop(state);
            self.turns.grant();
        }
    }

    /// Counts bytes that are about to be moved; tells whether the offload is to stop instead.
    pub(super) fn advance(&self, bytes: u64) -> bool {
        self.turns.state().schedule.advance(self.volume, bytes, Instant::now())
    }

    /// Waits until the offload is to stop at once.
    pub(super) async fn interrupted(&self) {
        self.interrupted.cancelled().await;
    }

    /// How long to wait before the next read, for the sake of those who hydrate.
    pub(super) fn rest(&self) -> Option<Duration> {
        self.turns.state().schedule.rest(self.turns.0.since.elapsed())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Hydrating {
    fn drop(&mut self) {
        self.0.state().schedule.hydration_ends();
        self.0.grant();
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        // Gone where the turn was granted meanwhile: one that nobody receives ends as it is dropped.
        if state.waiting.remove(&self.1).is_some() {
            state.schedule.withdraw(self.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    const SMALL: Demand = Demand { weight: 10, bytes: 0, fruitless: 0 };

    fn volume(n: u8) -> VolumeId {
        VolumeId::from_bytes([n; 16])
    }

    fn standing(turns: &Turns) -> (usize, usize) {
        let Standing { running, waiting, .. } = turns.standing();
        (running, waiting)
    }

    #[tokio::test]
    async fn whoever_stops_waiting_is_forgotten_also_where_the_turn_was_just_granted() {
        let turns = Turns::new(1, Duration::ZERO);
        let first = turns.take(volume(1), SMALL).await;
        {
            let mut second = pin!(turns.take(volume(2), SMALL));
            assert!(second.as_mut().now_or_never().is_none());
            assert_eq!(standing(&turns), (1, 1));
        }
        assert_eq!(standing(&turns), (1, 0));
        {
            let mut third = pin!(turns.take(volume(3), SMALL));
            assert!(third.as_mut().now_or_never().is_none());
            first.end();
            assert_eq!(standing(&turns), (1, 0), "granted, and not taken up");
        }
        assert_eq!(standing(&turns), (0, 0));
        drop(first);
        let fourth = turns.take(volume(1), SMALL).await;
        assert_eq!(standing(&turns), (1, 0));
        drop(fourth);
        assert_eq!(standing(&turns), (0, 0));
    }

    #[tokio::test]
    async fn only_the_turn_that_runs_is_interrupted() {
        let turns = Turns::new(1, Duration::ZERO);
        let turn = turns.take(volume(1), SMALL).await;
        turns.interrupt(volume(2));
        assert!(turn.interrupted().now_or_never().is_none());
        turns.interrupt(volume(1));
        turn.interrupted().await;
        turn.end();
        let turn = turns.take(volume(1), SMALL).await;
        assert!(turn.interrupted().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_hydration_ends_as_it_is_dropped_and_lets_others_go_on() {
        let turns = Turns::new(2, Duration::ZERO);
        let hydrating = turns.hydrate();
        let _first = turns.take(volume(1), SMALL).await;
        let mut second = pin!(turns.take(volume(2), SMALL));
        assert!(second.as_mut().now_or_never().is_none());
        drop(hydrating);
        second.await;
    }
}
