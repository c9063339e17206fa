//! Collectors: while everybody is at work, and in the end, when nothing may be left over.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use varve_repository::{
    Error, Repository,
    check::Level,
    collect::{Options, Report},
    progress::Progress,
};

use crate::{dice::Dice, process::Process, world::World};

/// Folders in which nothing is left when nothing refers to anything.
pub(crate) const EMPTIED: [&str; 5] = ["packs/", "runs/", "uploads/", "relocated/", "repacking"];

async fn collection(repository: &Repository, options: &Options) -> Result<Report, Error> {
    repository.collect(options, Progress::default(), CancellationToken::new()).await
}

/// Collects now and then, also when everything is written.
pub(crate) async fn collect(world: Arc<World>, repository: Repository, process: Arc<Process>, dice: Dice, most: u64) {
    for _ in 0..most {
        process.pause(dice.time(100, 2_000_000)).await;
        let threshold = if dice.one_in(4) { 50 } else { 100 };
        let options =
            Options { repack: !dice.one_in(4), threshold, node: process.name.to_string(), ..Options::default() };
        let collected = collection(&repository, &options).await;
        let said = collected.as_ref().map(|report| (&report.deleted, report.repacked.packs));
        world.trace.note(&process.name, format_args!("collection: {said:?}"));
        match collected {
            Ok(_) => {}
            Err(error) if error.is_transient() || matches!(error, Error::Conflict { .. }) => {}
            Err(error) => world.violated(format!("{}: a collection failed: {error:?}", process.name)),
        }
    }
}

/// Collects with nobody else at work: nothing that is needed may go, and nothing else may stay.
pub(crate) async fn last(world: &World, repository: &Repository) {
    let plain = Options { repack: false, ..Options::default() };
    swept(world, repository, &plain, "a quiet collection").await;
    world.verify("after a quiet collection").await;
    counted(world, repository).await;

    let repacking = Options { threshold: 100, ..Options::default() };
    // A second time for what the first has made garbage of.
    for _ in 0..2 {
        swept(world, repository, &repacking, "a quiet repacking").await;
    }
    world.verify("after a quiet repacking").await;
    world.check(repository, "after a quiet repacking").await;

    let ids: Vec<_> = world.model.lock().unwrap().keys().copied().collect();
    for id in ids {
        world.learn(id, |known| known.asked = true);
        match repository.delete_snapshot(id, "over").await {
            Ok(_) => world.learn(id, |known| known.gone = true),
            Err(error) => world.violated(format!("the last deletion of {id} failed: {error}")),
        }
    }
    swept(world, repository, &plain, "the last collection").await;
    let bucket = world.network.bucket.lock().unwrap();
    for folder in EMPTIED {
        let left = bucket.keys(folder);
        if !left.is_empty() {
            world.violated(format!("with every snapshot deleted, these are left: {left:?}"));
        }
    }
}

/// Collects, and looks whether anything is left to be collected.
pub(crate) async fn swept(world: &World, repository: &Repository, options: &Options, what: &str) {
    match collection(repository, options).await {
        Ok(report) if report.plan.unreadable.is_empty() && !report.plan.unsettled => {
            world.trace.note("end", format_args!("{what}: {:?}, {:?}", report.deleted, report.repacked));
        }
        Ok(report) => world.violated(format!("{what} is held up: {:?}", report.plan)),
        Err(error) => world.violated(format!("{what} failed: {error:?}")),
    }
    let options = Options { repack: false, ..options.clone() };
    match repository.plan_collection(&options, Progress::default(), CancellationToken::new()).await {
        Ok(plan) if plan.garbage.is_empty() => {}
        Ok(plan) => world.violated(format!("{what} left garbage: {:?}", plan.garbage)),
        Err(error) => world.violated(format!("{what} cannot be planned again: {error:?}")),
    }
}

/// Compares how many packs and runs there are with how many a check comes to, where nothing else is held.
async fn counted(world: &World, repository: &Repository) {
    let (packs, runs, others) = {
        let bucket = world.network.bucket.lock().unwrap();
        let others = ["uploads/", "relocated/", "repacking"].map(|folder| bucket.keys(folder).len());
        (bucket.keys("packs/").len() as u64, bucket.keys("runs/").len() as u64, others)
    };
    if others != [0; 3] {
        return;
    }
    match repository.check(Level::Presence, Progress::default(), CancellationToken::new()).await {
        Ok(report) if (report.packs, report.runs) == (packs, runs) => {}
        Ok(report) => world.violated(format!(
            "{packs} packs and {runs} runs are left, and {} and {} are referred to",
            report.packs, report.runs
        )),
        Err(error) => world.violated(format!("a check fails: {error:?}")),
    }
}
