//! Which base or cut goes next.
//!
//! What counts is what a removal frees: of many volumes, the oldest base may be of one that hardly writes, and shedding it
//! would cost a full comparison and free nothing. So the oldest base goes that alone holds what is missing, else the one that
//! holds the most. A base that somebody reads helps a cut into the repository and is spared while space is only low. Holding
//! hardly anything, a base stays until space is scarce.

use std::time::{Duration, Instant};

use super::{Agent, Error, Result};
use crate::{
    cut::{Cut, State},
    extent,
    pool::Usage,
    watermark::Level,
};

/// How long is spent on finding out what cuts hold.
const LOOKING: Duration = Duration::from_secs(1);

/// What a base holds at the least to go while space is only low: one part of the pool in so many.
const WORTHWHILE: u64 = 1000;

/// What goes next.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) cut: Cut,
    /// What only it holds, in bytes, about.
    pub(super) pinned: u64,
}

impl Agent {
    /// Finds what is to go next, if anything may.
    pub(super) async fn victim(&self, usage: Usage) -> Result<Option<Victim>> {
        let level = self.level(usage);
        let missing = self.config().marks.levels(usage.capacity).shed.saturating_sub(usage.free);
        let of = |wanted: fn(&State) -> bool| {
            let mut cuts: Vec<_> = self.cuts().list();
            cuts.retain(|cut| wanted(&cut.record().state) && !cut.removal().is_cancelled());
            cuts.sort_by_key(|cut| (cut.record().description.created_at, cut.id()));
            cuts
        };
        let mut bases = of(|state| *state == State::Base);
        if level == Level::Low {
            bases.retain(|cut| !cut.is_read());
        }
        let least = if level == Level::Low { missing.min(usage.capacity / WORTHWHILE) } else { 0 };
        if let Some(victim) = self.largest(bases, missing, least).await? {
            return Ok(Some(victim));
        }
        if level > Level::Last {
            return Ok(None);
        }
        // A person is waited for: longer than for the store.
        let failed = of(|state| matches!(state, State::Failed { .. }));
        if let Some(victim) = self.largest(failed, missing, 1).await? {
            return Ok(Some(victim));
        }
        self.largest(of(|state| *state == State::Pending), missing, 1).await
    }

    /// Finds the first cut that holds `enough`, else the one that holds the most, but at least `least`.
    async fn largest(&self, cuts: Vec<Cut>, enough: u64, least: u64) -> Result<Option<Victim>> {
        self.block(move |_| {
            let started = Instant::now();
            let mut best: Option<Victim> = None;
            for cut in cuts {
                let pinned = match extent::exclusive(&cut.image()) {
                    Ok(pinned) => pinned,
                    // It went meanwhile.
                    Err(_) if cut.removal().is_cancelled() => continue,
                    Err(error) => return Err(Error::system("mapping", cut.image())(error)),
                };
                if pinned >= least && best.as_ref().is_none_or(|best| best.pinned < pinned) {
                    best = Some(Victim { cut, pinned });
                }
                let found = best.as_ref().map_or(0, |best| best.pinned);
                if found > 0 && (found >= enough || started.elapsed() >= LOOKING) {
                    break;
                }
            }
            Ok(best)
        })
        .await
    }
}
