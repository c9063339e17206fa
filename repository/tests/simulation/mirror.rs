//! Copiers: the same snapshots in a second store, with weather, collections and deletions of its own.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use varve_repository::{
    Error, Repository, collect,
    copy::{Options, Outcome, Report},
    progress::Progress,
};

use crate::{
    collector::{self, EMPTIED, swept},
    dice::Dice,
    process::Process,
    world::World,
};

async fn round(repository: &Repository, mirror: &Repository, prune: bool) -> Result<Report, Error> {
    let options = Options { prune, ..Options::default() };
    repository.copy_to(mirror, options, Progress::default(), CancellationToken::new()).await
}

/// Copies now and then.
pub(crate) async fn copy(world: Arc<World>, repository: Repository, process: Arc<Process>, dice: Dice, most: u64) {
    let mirror = world.open_mirror(&process).await;
    for _ in 0..most {
        process.pause(dice.time(1000, 2_000_000)).await;
        let copied = round(&repository, &mirror, dice.one_in(3)).await;
        let said = copied.as_ref().map(|report| (report.copied(), report.pruned.len()));
        world.trace.note(&process.name, format_args!("copy: {said:?}"));
        match copied {
            Ok(report) => judge(&world, &report, &process.name),
            Err(error) if error.is_transient() || matches!(error, Error::Conflict { .. }) => {}
            Err(error) => world.violated(format!("{}: a copy failed: {error:?}", process.name)),
        }
    }
}

/// Whatever is neither deleted nor being deleted can be copied.
fn judge(world: &World, report: &Report, who: &str) {
    for copied in &report.snapshots {
        if let Outcome::Failed { reason } = &copied.outcome
            && !world.known(copied.snapshot).asked
        {
            world.violated(format!("{who}: snapshot {} could not be copied: {reason}", copied.snapshot));
        }
    }
}

/// Collects in the copy.
pub(crate) async fn collect(world: Arc<World>, process: Arc<Process>, dice: Dice, most: u64) {
    let mirror = world.open_mirror(&process).await;
    collector::collect(world, mirror, process, dice, most).await;
}

/// Completes the copy, and takes it down.
pub(crate) async fn last(world: &World, repository: &Repository, process: &Arc<Process>) {
    let mirror = world.open_mirror(process).await;
    match round(repository, &mirror, true).await {
        Ok(report) if report.is_complete() => {}
        Ok(report) => world.violated(format!("the last copy is not complete: {report:?}")),
        Err(error) => return world.violated(format!("the last copy failed: {error:?}")),
    }
    let (here, there) = match futures::try_join!(repository.snapshots(), mirror.snapshots()) {
        Ok(both) => both,
        Err(error) => return world.violated(format!("the snapshots of a copy cannot be listed: {error}")),
    };
    let here: Vec<_> = here.iter().map(|root| root.description.id).collect();
    let there: Vec<_> = there.iter().map(|root| root.description.id).collect();
    if here != there {
        world.violated(format!("the copy holds {there:?}, the original {here:?}"));
    }
    let repacking = collect::Options { threshold: 100, ..collect::Options::default() };
    for _ in 0..2 {
        swept(world, &mirror, &repacking, "a quiet repacking of the copy").await;
    }
    world.verify_mirror("after a quiet repacking").await;
    world.check(&mirror, "after a quiet repacking of the copy").await;

    let ids: Vec<_> = world.model.lock().unwrap().keys().copied().collect();
    for id in ids {
        if let Err(error) = mirror.delete_snapshot(id, "over").await {
            world.violated(format!("the last deletion of {id} in the copy failed: {error}"));
        }
    }
    swept(world, &mirror, &collect::Options::default(), "the last collection of the copy").await;
    let bucket = world.mirror.bucket.lock().unwrap();
    for folder in EMPTIED {
        let left = bucket.keys(folder);
        if !left.is_empty() {
            world.violated(format!("with every snapshot of the copy deleted, these are left: {left:?}"));
        }
    }
}
