//! Bit rot: every object of a repository is damaged in turn, in every way that storage, people and bugs damage objects.
//!
//! Whatever the damage, a restore gives the exact bytes or fails before one wrong byte reaches the target, and a check names
//! the object, and as hurt just those snapshots that do not restore. What no check can find, since it is a state that the
//! repository was once rightly in, is listed in [`finding`], and in `docs/format.md`.

#[path = "../image/mod.rs"]
mod image;
#[path = "../storage/mod.rs"]
mod storage;

mod decay;
mod scene;

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex},
};

use tokio_util::sync::CancellationToken;
use varve_repository::{
    Error, Repository, SnapshotState,
    block::{BlockTarget, Blocks},
    check::{Level, Report},
    id::SnapshotId,
    progress::Progress,
};

use decay::Decay;
use image::BLOCK;
use scene::{Scene, Taken};

/// An image that is compared with the truth block by block, before it would be written.
struct Witness {
    truth: Arc<Vec<u8>>,
    written: Mutex<Vec<bool>>,
}

impl BlockTarget for Witness {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(first.bytes()).unwrap();
        for (block, at) in data.chunks(BLOCK).zip((start..).step_by(BLOCK)) {
            assert!(self.truth.get(at..at + block.len()) == Some(block), "wrong bytes reach block {}", at / BLOCK);
            self.written.lock().unwrap()[at / BLOCK] = true;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Restores a snapshot from what stands in the store. `Ok` means that the target holds exactly what was cut.
async fn restore(repository: &Repository, taken: &Taken) -> Result<(), Error> {
    let root = match repository.snapshot(taken.id).await? {
        SnapshotState::Committed(root) => root,
        SnapshotState::Absent | SnapshotState::Gone(_) => return Err(Error::NoSnapshot { snapshot: taken.id }),
    };
    let blocks = taken.truth.len() / BLOCK;
    let witness = Arc::new(Witness { truth: Arc::clone(&taken.truth), written: Mutex::new(vec![false; blocks]) });
    let target = Arc::clone(&witness) as Arc<dyn BlockTarget>;
    repository.hydrate(&root, target, Progress::default(), CancellationToken::new()).await?;
    assert_eq!(root.description.capacity_bytes, taken.truth.len() as u64);
    let written = witness.written.lock().unwrap();
    for (number, (block, written)) in taken.truth.chunks(BLOCK).zip(&*written).enumerate() {
        assert!(*written || block.iter().all(|byte| *byte == 0), "block {number} of {} is left out", taken.id);
    }
    Ok(())
}

async fn check(repository: &Repository) -> Report {
    repository.check(Level::Content, Progress::default(), CancellationToken::new()).await.unwrap()
}

/// What a check says of a decay.
enum Finding<'a> {
    /// Just these objects.
    Objects(BTreeSet<&'a str>),
    /// Nothing at all: the repository is then as it rightly was at some time, or as it may rightly be.
    Nothing(&'static str),
    /// Something if snapshots are hurt, by whatever name, and otherwise nothing but what decayed.
    WhateverHurts,
}

/// What a check must say of a decay of objects, of which `referred` are those that anything depends on.
fn finding<'a>(scene: &Scene, decay: &Decay, referred: BTreeSet<&'a str>) -> Finding<'a> {
    use Finding::{Nothing, Objects, WhateverHurts};
    match (decay.key().split('/').next().unwrap_or_default(), decay) {
        // What nothing refers to is garbage: what an offload that is under way has put, and what deleted snapshots left.
        ("packs" | "runs" | "relocated", _) if referred.is_empty() => Nothing("nothing refers to it"),
        // A pack that is nowhere is what is named, and of those that others were repacked into only what is wanted is read.
        ("packs" | "relocated", _) if scene.repacked => WhateverHurts,
        ("runs", Decay::Extend(_)) => Nothing("a run is read up to the end that its root knows"),
        ("reserve", _) => Nothing("nobody reads the padding"),
        ("repacking", Decay::Delete(_) | Decay::Replay(..)) => Nothing("repacking begins and ends"),
        ("volumes", Decay::Delete(_)) => Nothing("volumes are removed"),
        ("volumes", Decay::Replay(..)) => Nothing("volumes are updated"),
        ("uploads", Decay::Delete(_)) => Nothing("intents end with their offload"),
        ("uploads", Decay::Replay(..)) => Nothing("attempts are added"),
        ("repository.copy", Decay::Replay(..)) => Nothing("the copy is brought up with the next change"),
        ("snapshots", Decay::Delete(_)) => Nothing("nothing else tells which snapshots there are"),
        // A root where its tombstone stood: as good as what is left of its runs and packs.
        ("snapshots", Decay::Replay(..)) => WhateverHurts,
        _ => Objects(referred),
    }
}

/// Applies one decay and sees what comes of it.
async fn judge(scene: &Scene, decay: &Decay) -> Result<(), String> {
    let what = format!("{decay}");
    let undo = decay.apply(&scene.memory).await;
    if undo.is_empty() {
        return Ok(());
    }
    // A handle without caches; where none can be had, that is as good an answer as any, and one from before does.
    let repository = match scene.open().await {
        Ok(repository) => repository,
        Err(Error::Corrupt { object, .. } | Error::FutureFormat { object, .. }) => {
            assert_eq!((object.as_str(), decay.key()), ("repository", "repository"), "{what}");
            scene.repository.clone()
        }
        Err(Error::NoRepository { .. }) if decay.key() == "repository" => scene.repository.clone(),
        Err(error) => panic!("{what}: {error}"),
    };
    let report = check(&repository).await;
    let reasons: Vec<_> = report.damages.iter().map(|damage| format!("{}: {}", damage.object, damage.reason)).collect();
    let found: BTreeSet<&str> = report.damages.iter().map(|damage| damage.object.as_str()).collect();
    let named: BTreeSet<SnapshotId> =
        report.damages.iter().flat_map(|one| &one.hurt).map(|hurt| hurt.snapshot).collect();

    let mut lost = BTreeSet::new();
    for taken in scene.taken.iter().filter(|taken| undo.iter().any(|(key, _)| taken.reads(key))) {
        match restore(&repository, taken).await {
            Ok(()) => {}
            Err(Error::Corrupt { .. } | Error::FutureFormat { .. }) => drop(lost.insert(taken.id)),
            // Without its record it is as if it had never been, and so it is for a check.
            Err(Error::NoSnapshot { .. }) => {
                assert!(taken.deleted || matches!(decay, Decay::Delete(_)), "{what}: {} has vanished", taken.id);
            }
            Err(error) => panic!("{what}: snapshot {}: {error}", taken.id),
        }
    }
    Decay::undo(&scene.memory, undo.clone()).await;

    let keys: BTreeSet<&str> = undo.iter().map(|(key, _)| key.as_str()).collect();
    let referred = keys.iter().copied().filter(|key| scene.is_referred_to(key)).collect();
    if named != lost {
        return Err(format!("{what}: {named:?} are said to be hurt, and {lost:?} are: {reasons:?}"));
    }
    let wrong = match finding(scene, decay, referred) {
        Finding::Objects(expected) if found != expected => format!("{expected:?} should be"),
        Finding::Nothing(why) if !found.is_empty() => format!("nothing should be, since {why}"),
        Finding::WhateverHurts if found.is_empty() && !lost.is_empty() => format!("{lost:?} are hurt"),
        Finding::WhateverHurts if lost.is_empty() && !found.is_subset(&keys) => "nothing is hurt".into(),
        _ => return Ok(()),
    };
    Err(format!("{what}: {found:?} are found, and {wrong}: {reasons:?}"))
}

/// Judges every decay of every object, on as many threads as there are cores.
fn judge_all(make: impl Fn() -> Scene + Sync, least_objects: usize) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let wrong: Vec<Vec<String>> = std::thread::scope(|scope| {
        let workers = (0..threads).map(|worker| {
            let make = &make;
            scope.spawn(move || {
                let scene = make();
                scene.runtime.block_on(async {
                    let objects = scene.memory.objects().await;
                    assert!(objects.len() >= least_objects, "{} objects", objects.len());
                    let decays = decay::of(&objects, &scene.history);
                    let mut wrong = Vec::new();
                    for decay in decays.iter().skip(worker).step_by(threads) {
                        wrong.extend(judge(&scene, decay).await.err());
                    }
                    // Every decay was undone.
                    assert!(scene.memory.objects().await == objects);
                    println!("{} decays, of which every {threads}th was judged here", decays.len());
                    wrong
                })
            })
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker failed")).collect()
    });
    let wrong = wrong.concat();
    assert!(
        wrong.is_empty(),
        "{} decays are not judged rightly, among them: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
}

#[test]
fn invariant_6_no_rot_goes_unnoticed_or_reaches_a_volume() {
    judge_all(scene::many, 200);
}

#[test]
fn invariant_6_nor_where_packs_were_repacked() {
    judge_all(scene::repacked, 10);
}

#[test]
fn invariant_6_nor_in_snapshots_of_several_levels_and_pages() {
    judge_all(scene::wide, 5);
}
