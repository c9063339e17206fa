//! What is done when the pool runs full: bases go, then cuts that are not in the repository yet; data never.
//!
//! ```text
//! pace      how soon the pool is measured again
//! victims   which base or cut goes next
//! ```
//!
//! A base pins blocks that its volume has overwritten since. Without it nothing is lost but time: the next snapshot reads
//! everything allocated and compares it with the repository. A cut whose offload is not done pins blocks likewise, and
//! nobody was told yet that it is safe; where its volume, or another, would otherwise fail a write, it is given up and its
//! snapshot fails. See `docs/decisions/0017-what-goes-when-a-pool-runs-full.md`.
//!
//! # Concurrency
//! One task measures and removes. What it removes is evicted first, as by any other caller: readers end, and an offload that
//! had committed its root by then has made a base of its cut.
//!
//! # Crash consistency
//! A cut that is given up says so in its record before its image goes; the next start removes what is left of it.

mod pace;
mod victims;

use std::{
    fs, io,
    time::{Duration, Instant},
};

use pace::Pace;
use tokio::sync::Notify;
use varve_csi::status::chain;

use super::{Agent, Error, Result};
use crate::{
    cut::{Cut, State, Status},
    pool::Usage,
    watermark::Level,
};

/// How long one removal is waited for before another is tried beside it: its readers may hang on a store.
const REMOVAL: Duration = Duration::from_secs(5);

/// How long freed blocks are waited for while none are counted.
const STALLED: Duration = Duration::from_millis(500);

/// The pauses between looks at what is free while blocks are being freed.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// While nothing is found that could go, at most this share of the time goes into looking: one part in so many.
const SEARCHING: u32 = 20;

/// What the watch over the pool shares with those who ask for room.
#[derive(Debug, Default)]
pub(super) struct Space {
    wanted: Notify,
}

/// What the watch remembers between two looks.
#[derive(Debug)]
struct Watch {
    pace: Pace,
    level: Level,
    /// Nothing is looked for before.
    quiet_until: Instant,
}

impl Agent {
    /// Watches over the pool until the agent stops.
    pub(super) fn watch_space(&self) {
        let agent = self.clone();
        self.0.tasks.spawn(async move {
            let mut watch = Watch { pace: Pace::default(), level: Level::Ample, quiet_until: Instant::now() };
            loop {
                let pause = agent.keep_room(&mut watch).await.unwrap_or_else(|error| {
                    tracing::warn!(error = chain(&error), "no room could be made in the pool");
                    pace::LONGEST
                });
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = agent.0.space.wanted.notified() => {}
                    () = agent.0.stop.cancelled() => return,
                }
            }
        });
    }

    /// Refuses what would make every overwritten block cost another one, where hardly any are left.
    ///
    /// # Errors
    /// `Scarce`; the watch is woken then.
    pub(super) async fn require_room(&self) -> Result<()> {
        let mut usage = self.measure().await?;
        if self.level(usage) <= Level::Scarce {
            // Something may just have been deleted.
            usage = self.freed(|usage| self.level(usage) > Level::Scarce).await?;
        }
        if self.level(usage) > Level::Scarce {
            return Ok(());
        }
        self.0.space.wanted.notify_one();
        let mark = self.config().marks.levels(usage.capacity).refuse;
        Err(Error::Scarce { free: usage.free, capacity: usage.capacity, mark })
    }

    /// Refuses to fill an image with `bytes` where the pool has not as many.
    ///
    /// # Errors
    /// `Scarce`.
    pub(super) async fn require_room_for(&self, bytes: u64) -> Result<()> {
        let usage = self.freed(|usage| bytes <= usage.free).await?;
        if bytes <= usage.free {
            Ok(())
        } else {
            Err(Error::Scarce { free: usage.free, capacity: usage.capacity, mark: bytes })
        }
    }

    /// Where the pool stands.
    pub(super) fn level(&self, usage: Usage) -> Level {
        self.config().marks.level(usage)
    }

    /// Measures the pool, makes room where that is called for, and says how soon to look again.
    async fn keep_room(&self, watch: &mut Watch) -> Result<Duration> {
        let mut usage = self.measure().await?;
        let was = watch.level;
        if self.level(usage) < Level::Ample && (Instant::now() >= watch.quiet_until || self.level(usage) < was) {
            let started = Instant::now();
            let (after, removed) = self.make_room().await?;
            usage = after;
            if !removed {
                watch.quiet_until = Instant::now() + started.elapsed() * SEARCHING;
            }
        }
        watch.level = self.level(usage);
        if watch.level != was {
            tracing::info!(free = usage.free, capacity = usage.capacity, level = ?watch.level, before = ?was, "the pool's free space");
        }
        let levels = self.config().marks.levels(usage.capacity);
        Ok(watch.pace.next(Instant::now(), usage.free, levels.headroom(usage.free)))
    }

    /// Removes what may go, one after the other, until enough is free or nothing is left; tells whether anything went.
    async fn make_room(&self) -> Result<(Usage, bool)> {
        let mut removed = false;
        let mut usage = self.reclaim().await?;
        while self.level(usage) < Level::Ample && !self.0.stop.is_cancelled() {
            let Some(victim) = self.victim(usage).await? else { break };
            let description = victim.cut.record().description;
            tracing::warn!(
                volume = %description.volume, snapshot = %description.id, state = ?victim.cut.record().state,
                pinned = victim.pinned, free = usage.free, capacity = usage.capacity,
                "the pool is nearly full: a cut goes"
            );
            removed = true;
            let removal = {
                let (agent, cut) = (self.clone(), victim.cut);
                self.0.tasks.spawn(async move { agent.let_go(&cut).await })
            };
            match tokio::time::timeout(REMOVAL, removal).await {
                Ok(outcome) => outcome.unwrap_or_else(|error| Err(Error::Panicked(error.to_string())))?,
                Err(_) => {
                    tracing::warn!(snapshot = %description.id, "somebody still reads it: it goes as soon as they end");
                }
            }
            // Writers go on meanwhile, so that not all of it need ever show.
            let all = usage.free.saturating_add(victim.pinned);
            usage = self.freed(|usage| usage.free >= all || self.level(usage) == Level::Ample).await?;
        }
        Ok((usage, removed))
    }

    /// Waits until what was removed is counted as free, as far as that is to be expected: until `enough` is, or no more is.
    async fn freed(&self, enough: impl Fn(Usage) -> bool) -> Result<Usage> {
        let mut usage = self.reclaim().await?;
        let (mut pause, mut most, mut grown) = (LOOK.0, usage.free, Instant::now());
        while !enough(usage) && grown.elapsed() < STALLED {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.0.stop.cancelled() => break,
            }
            pause = (pause * 2).min(LOOK.1);
            usage = self.measure().await?;
            if usage.free > most {
                (most, grown) = (usage.free, Instant::now());
            }
        }
        Ok(usage)
    }

    /// Removes a base, or gives a cut up that is not in the repository yet.
    async fn let_go(&self, cut: &Cut) -> Result<()> {
        if !cut.record().state.is_wanted() {
            return self.remove_cut(cut).await;
        }
        let alone = cut.evict().await;
        if !cut.record().state.is_wanted() {
            // Its root was committed in the last moment.
            drop(alone);
            return self.remove_cut(cut).await;
        }
        let cut = cut.clone();
        self.block(move |agent| {
            let _alone = alone;
            if *cut.status().borrow() == Status::Removed {
                return Ok(());
            }
            let message =
                "the pool ran full before it reached the repository, and it went so that no volume's write fails: \
                           delete this snapshot, make room in the pool or bring the repository back, and take another"
                    .to_owned();
            cut.set_state(State::GivenUp { message }).map_err(Error::system("writing the record of", cut.folder()))?;
            tracing::error!(snapshot = %cut.id(), "a snapshot is given up: the pool is full");
            agent.forsake(&cut)
        })
        .await
    }

    /// Removes what a cut that is given up still holds; blocks.
    pub(super) fn forsake(&self, cut: &Cut) -> Result<()> {
        // In place: nobody reads it any more, whatever is left of it.
        self.pool().filesystem().remove(&cut.data()).map_err(Error::system("removing", cut.data()))?;
        match fs::remove_file(cut.journal()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::system("removing", cut.journal())(error))
            }
            _ => Ok(()),
        }
    }

    /// Measures the pool.
    async fn measure(&self) -> Result<Usage> {
        self.block(|agent| agent.pool().usage().map_err(Error::system("measuring", agent.pool().root()))).await
    }

    /// Has the pool's file system give back what it took ahead of need, and measures the pool.
    async fn reclaim(&self) -> Result<Usage> {
        self.block(|agent| {
            let pool = agent.pool();
            if let Err(error) = pool.filesystem().reclaim(pool.root()) {
                tracing::debug!(%error, "the pool's file system gives nothing back at once");
            }
            pool.usage().map_err(Error::system("measuring", pool.root()))
        })
        .await
    }
}
