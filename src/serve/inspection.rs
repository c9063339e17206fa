//! Looking at the repository now and then, so that the health of volumes tells of snapshots that are hurt.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use varve_controller::Controller;
use varve_csi::status::chain;
use varve_repository::{Repository, check::Level, progress::Progress};

use super::monitor::Metrics;

/// How often to look. A look lists the store and reads records and runs, not the content of packs.
const EVERY: Duration = Duration::from_secs(60 * 60);

/// Looks at once, and then again and again until cancelled; what is found goes to the controller.
pub(super) fn start(
    repository: Repository,
    controller: Controller,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match repository.check(Level::Presence, Progress::default(), cancel.clone()).await {
                Ok(report) => {
                    for damage in &report.damages {
                        tracing::error!(object = damage.object, reason = damage.reason, "the repository is damaged");
                    }
                    metrics.inspected(report.damages.len());
                    controller.take_report(&report);
                }
                Err(_) if cancel.is_cancelled() => return,
                Err(error) => {
                    metrics.not_inspected();
                    tracing::warn!(error = chain(&error), "the repository could not be checked");
                }
            }
        }
    })
}
