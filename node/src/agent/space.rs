//! What is done when the pool runs full: bases go, data never.
//!
//! A base pins blocks that its volume has overwritten since. Without it nothing is lost but time: the next snapshot reads
//! everything allocated and compares it with the repository.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use varve_csi::status::chain;

use super::{Agent, Error, Result, health::NEARLY_FULL};
use crate::cut::State;

/// How often the pool is measured.
const INTERVAL: Duration = Duration::from_secs(5);

impl Agent {
    /// Watches over the pool until the agent stops.
    pub(super) fn watch_space(&self) {
        let agent = self.clone();
        self.0.tasks.spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = agent.0.stop.cancelled() => return,
                }
                if let Err(error) = agent.make_room().await {
                    tracing::warn!(error = chain(&error), "the pool is nearly full and no base could be removed");
                }
            }
        });
    }

    /// Removes the oldest base where the pool is nearly full. One at a time: freed blocks take a while to be counted.
    async fn make_room(&self) -> Result<()> {
        if !self.is_nearly_full().await? {
            return Ok(());
        }
        let bases = self.cuts().list().into_iter().filter(|cut| cut.record().state == State::Base);
        let Some(oldest) = bases.min_by_key(|cut| (cut.record().description.created_at, cut.id())) else {
            return Ok(());
        };
        let description = oldest.record().description;
        tracing::warn!(volume = %description.volume, snapshot = %oldest.id(), "the pool is nearly full: a base goes");
        self.remove_cut(&oldest).await
    }

    async fn is_nearly_full(&self) -> Result<bool> {
        self.block(|agent| {
            let usage = agent.pool().usage().map_err(Error::system("measuring", agent.pool().root()))?;
            Ok(usage.free < usage.capacity / NEARLY_FULL)
        })
        .await
    }
}
