//! Everybody but the writers: deleters, restorers and verifiers.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use varve_repository::{Error, Repository, SnapshotState, check::Level, id::SnapshotId, progress::Progress};

use crate::{dice::Dice, process::Process, world::World};

/// Most restores, and most checks, of one process.
const ROUNDS: usize = 3;

/// How often a deleter finds nothing before it gives up, once everything is written.
const IDLE: u64 = 3;

/// Picks a snapshot, as likely as not one of the latest.
fn pick(world: &World, dice: &Dice, wanted: impl Fn(&crate::world::Known) -> bool) -> Option<SnapshotId> {
    let model = world.model.lock().unwrap();
    let fit: Vec<SnapshotId> = model.iter().filter(|(_, known)| wanted(known)).map(|(id, _)| *id).collect();
    (!fit.is_empty()).then(|| fit[dice.index(fit.len())])
}

/// Deletes snapshots, committed ones and others, now and then.
pub(crate) async fn delete(world: Arc<World>, repository: Repository, process: Arc<Process>, dice: Dice, most: u64) {
    let mut left = most;
    let mut idle = 0;
    while left > 0 && idle < IDLE {
        process.pause(dice.time(100, 2_000_000)).await;
        idle += u64::from(world.is_over());
        // Often what is being built upon.
        let built_on: Vec<_> = world.built_on.lock().unwrap().values().flatten().copied().collect();
        let base = (!built_on.is_empty() && dice.one_in(2)).then(|| built_on[dice.index(built_on.len())]);
        let committed = !dice.one_in(4);
        let id = base.or_else(|| pick(&world, &dice, |known| !known.gone && known.committed == committed));
        let Some(id) = id.filter(|id| !world.known(*id).gone) else { continue };
        (left, idle) = (left - 1, 0);
        world.learn(id, |known| known.asked = true);
        loop {
            let deletion = repository.delete_snapshot(id, "deleted").await;
            let said = deletion.as_ref().map(std::mem::discriminant).is_ok();
            world.trace.note(&process.name, format_args!("deletion of {id}: {said}"));
            match deletion {
                Ok(_) => world.learn(id, |known| known.gone = true),
                Err(error) if error.is_transient() || matches!(error, Error::Conflict { .. }) => {
                    process.pause(dice.time(100, 60_000)).await;
                    continue;
                }
                Err(error) => world.violated(format!("{}: the deletion of {id} failed: {error:?}", process.name)),
            }
            break;
        }
    }
}

/// Restores snapshots: it may be told that one is gone, but must never get wrong bytes.
pub(crate) async fn restore(world: Arc<World>, repository: Repository, process: Arc<Process>, dice: Dice) {
    for _ in 0..ROUNDS {
        process.pause(dice.time(1000, 1_000_000)).await;
        let Some(id) = pick(&world, &dice, |known| known.committed && !known.gone) else { continue };
        let who = &process.name;
        let outcome = match repository.snapshot(id).await {
            Ok(SnapshotState::Committed(root)) => world.restores(&repository, &root).await,
            Ok(_) if world.known(id).asked => Ok(()),
            Ok(_) => return world.violated(format!("{who}: snapshot {id} was committed, and is not there")),
            Err(error) => Err(error),
        };
        world.trace.note(who, format_args!("restore of {id}: {outcome:?}"));
        match outcome {
            Err(error) if !error.is_transient() && !world.known(id).asked => {
                world.violated(format!("{who}: snapshot {id} does not restore: {error}"));
            }
            _ => {}
        }
    }
}

/// Checks the repository while it is in use: only what is being deleted may show as damaged.
pub(crate) async fn verify(world: Arc<World>, repository: Repository, process: Arc<Process>, dice: Dice) {
    for _ in 0..ROUNDS {
        process.pause(dice.time(10_000, 10_000_000)).await;
        let checked = repository.check(Level::Content, Progress::default(), CancellationToken::new()).await;
        let said = checked.as_ref().map(|report| report.damages.len());
        world.trace.note(&process.name, format_args!("check: {said:?}"));
        match checked {
            Ok(report) => {
                for damage in report.damages {
                    let deleted = damage.hurt.iter().all(|hurt| world.known(hurt.snapshot).asked);
                    if !deleted {
                        world.violated(format!("{}: a check finds damage: {damage:?}", process.name));
                    }
                }
            }
            Err(error) if error.is_transient() => {}
            Err(error) => world.violated(format!("{}: a check fails: {error:?}", process.name)),
        }
    }
}
