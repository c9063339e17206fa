//! Collecting now and then, so that what deleted snapshots leave behind does not stay in the bucket.
//!
//! Any number of drivers may do so at once; what one has deleted the others do not find. Between two collections a random
//! part of the interval passes, so that a fleet that was started at once does not list the bucket at once.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use varve_csi::status::chain;
use varve_repository::{
    Repository,
    collect::{Options, Report},
    progress::Progress,
};

use super::monitor::Metrics;

/// Collects again and again until cancelled: first after a random part of the interval, then after between half of it and
/// all.
pub(super) fn start(
    repository: Repository,
    node_id: String,
    every: Duration,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let options = Options { node: node_id, ..Options::default() };
        let mut pause = every.mul_f64(fraction(&repository));
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = every.mul_f64(fraction(&repository).midpoint(1.0));
            match repository.collect(&options, Progress::default(), cancel.clone()).await {
                Ok(report) => {
                    metrics.collected(&report, repository.seams().clock.now().as_duration().as_secs_f64());
                    log(&report);
                }
                Err(_) if cancel.is_cancelled() => return,
                Err(error) => {
                    metrics.not_collected();
                    tracing::warn!(error = chain(&error), "the repository could not be collected");
                }
            }
        }
    })
}

/// A random number from 0 to 1.
fn fraction(repository: &Repository) -> f64 {
    f64::from(u16::from_le_bytes(repository.seams().random())) / f64::from(u16::MAX)
}

fn log(report: &Report) {
    for unreadable in &report.plan.unreadable {
        tracing::error!(
            object = unreadable.object,
            reason = unreadable.reason,
            "nothing is deleted that this object might refer to: see `varve repository check` and `repair`"
        );
    }
    let objects: u64 = report.deleted.iter().map(|garbage| garbage.amount.objects).sum();
    let bytes: u64 = report.deleted.iter().map(|garbage| garbage.amount.bytes).sum();
    tracing::info!(objects, bytes, locked = report.locked.objects, "collected the repository");
}

#[cfg(test)]
mod tests {
    use varve_repository::{
        crypto::MasterKey,
        seam::{Seams, System},
        store::Store,
    };

    use super::*;
    use crate::serve::monitor::Monitor;

    #[tokio::test]
    async fn what_nothing_refers_to_goes_by_itself_and_the_task_ends_when_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&format!("file://{}/repository", folder.path().display()), &[]).expect("a store");
        let repository =
            Repository::init(store, &MasterKey::generate(&System), Seams::system()).await.expect("a repository");
        let packs = folder.path().join("repository/packs");
        std::fs::create_dir_all(&packs).expect("a folder");
        let left = packs.join("0".repeat(32));
        std::fs::write(&left, b"left by a writer that is gone").expect("a file");

        let cancel = CancellationToken::new();
        let monitor = Monitor::start(None).await.expect("it need not listen");
        let metrics = monitor.metrics();
        let task = start(repository, "node-1".into(), Duration::from_millis(20), metrics.clone(), cancel.clone());
        let gone = async {
            while left.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.expect("it is collected");
        let counted = async {
            while !metrics.render().contains("varve_collected_objects_total 1\n") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), counted).await.expect("it is counted");
        cancel.cancel();
        task.await.expect("it ends");
        let text = metrics.render();
        assert!(!text.contains("varve_collections_total{outcome=\"done\"} 0\n"), "{text}");
        assert!(!text.contains("varve_collection_last_success_timestamp_seconds 0"), "{text}");
    }
}
