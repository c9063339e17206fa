//! Checks: what is damaged is named, with the snapshots and ranges that it hurts, and nothing else is.

mod image;
mod storage;

use std::sync::Arc;

use image::{Image, Seeded, base, id, init, offload, restore};
use storage::Memory;
use tokio_util::sync::CancellationToken;
use varve_repository::{
    Error, ErrorKind, Repository,
    check::{Level, Options, Percent, Report},
    offload::Against,
    progress::Progress,
    record::snapshot::Root,
};

async fn check(repository: &Repository, level: Level) -> Report {
    repository.check(level, Progress::default(), CancellationToken::new()).await.unwrap()
}

/// Three snapshots: the second stands on the first, the third on nothing.
async fn scene() -> (Arc<Memory>, Repository, Vec<Root>) {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(40);
    let mut image = Image::new(3000);
    image.write_text(0, 2000, &random);
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    image.write_text(500, 100, &random);
    let second = offload(&repository, "second", &image.cut(), base(&first)).await.unwrap();
    let mut other = Image::new(100);
    other.write_noise(0, 50, &random);
    let third = offload(&repository, "third", &other.cut(), Against::Nothing).await.unwrap();
    (memory, repository, vec![first, second, third])
}

fn packs_of(memory_keys: &[String], root: &Root) -> Vec<String> {
    let prefix = format!("packs/{}", root.upload);
    memory_keys.iter().filter(|key| key.starts_with(&prefix)).cloned().collect()
}

#[tokio::test]
async fn a_whole_repository_has_no_damage_at_any_level() {
    let (memory, repository, _) = scene().await;
    for level in [Level::Structure, Level::Presence, Level::Content] {
        memory.arm(None);
        let progress = Progress::default();
        let report = repository.check(level, progress.clone(), CancellationToken::new()).await.unwrap();
        assert_eq!(report.damages, []);
        assert_eq!(report.snapshots, 3);
        assert_eq!(report.runs, 3);
        assert_eq!(report.packs, if level == Level::Structure { 0 } else { 3 });
        assert_eq!(report.chunks > 0, level == Level::Content);
        let reading = progress.read();
        assert_eq!(reading.total, reading.done);
        assert_eq!(reading.moved, report.read_bytes);
        assert!(memory.puts().is_empty());
    }
}

#[tokio::test]
async fn a_missing_pack_hurts_those_that_see_it_where_they_see_it() {
    let (memory, repository, roots) = scene().await;
    let pack = packs_of(&memory.keys("packs/").await, &roots[0]).remove(0);
    memory.remove(&pack).await;
    assert_eq!(check(&repository, Level::Structure).await.damages, []);
    let report = check(&repository, Level::Presence).await;
    assert_eq!(report.damages.len(), 1, "{report:?}");
    let damage = &report.damages[0];
    assert_eq!((&damage.object, damage.reason.as_str()), (&pack, "it is missing"));
    let mut hurt = damage.hurt.clone();
    hurt.sort_by_key(|hurt| hurt.snapshot != id(&roots[0]));
    assert_eq!(hurt.len(), 2);
    assert_eq!(hurt[0].snapshot, id(&roots[0]));
    assert_eq!(hurt[0].volume, Some(roots[0].description.volume));
    assert_eq!(hurt[0].ranges, [(0, 2000 * 4096)]);
    assert_eq!(hurt[1].snapshot, id(&roots[1]));
    assert_eq!(hurt[1].ranges, [(0, 500 * 4096), (600 * 4096, 1400 * 4096)]);
    restore(&repository, &roots[2]).await.unwrap();
}

#[tokio::test]
async fn a_damaged_chunk_is_found_by_content_alone_and_hurts_its_blocks() {
    let (memory, repository, roots) = scene().await;
    let pack = packs_of(&memory.keys("packs/").await, &roots[0]).remove(0);
    let mut bytes = memory.read(&pack).await;
    bytes[1000] ^= 1;
    memory.overwrite(&pack, bytes).await;
    assert_eq!(check(&repository, Level::Presence).await.damages, []);
    let report = check(&repository, Level::Content).await;
    assert_eq!(report.damages.len(), 1, "{report:?}");
    let damage = &report.damages[0];
    assert_eq!(damage.object, pack);
    assert!(damage.reason.starts_with("chunk 0: "), "{}", damage.reason);
    assert_eq!(damage.hurt.len(), 2);
    for hurt in &damage.hurt {
        assert_eq!(hurt.ranges, [(0, 32 * 4096)]);
    }
}

#[tokio::test]
async fn a_damaged_run_hurts_the_roots_that_list_it() {
    let (memory, repository, roots) = scene().await;
    let key = format!("runs/{}", roots[2].runs[0].id);
    memory.remove(&key).await;
    let report = check(&repository, Level::Structure).await;
    assert_eq!(report.damages.len(), 1);
    assert_eq!(report.damages[0].object, key);
    assert_eq!(report.damages[0].hurt.len(), 1);
    assert_eq!(report.damages[0].hurt[0].snapshot, id(&roots[2]));
    assert_eq!(report.damages[0].hurt[0].ranges, [(0, 100 * 4096)]);
}

#[tokio::test]
async fn several_damages_are_all_reported() {
    let (memory, repository, roots) = scene().await;
    let keys = memory.keys("").await;
    memory.remove(&packs_of(&keys, &roots[2])[0]).await;
    memory.overwrite(&packs_of(&keys, &roots[1])[0], b"short".to_vec()).await;
    memory.overwrite(&format!("snapshots/{}", id(&roots[0])), b"VARVE nonsense".to_vec()).await;
    let report = check(&repository, Level::Content).await;
    assert_eq!(report.damages.len(), 3, "{report:?}");
    let hurt: Vec<_> = report.damages.iter().map(|damage| damage.hurt[0].snapshot).collect();
    assert!(roots.iter().all(|root| hurt.contains(&id(root))));
    assert_eq!(report.snapshots, 2);
}

#[tokio::test]
async fn invariant_6_every_flipped_bit_is_found_and_the_unhurt_restore() {
    let (memory, repository, roots) = scene().await;
    for (key, bytes) in memory.objects().await {
        // Padding that nobody reads.
        if key == "reserve" {
            continue;
        }
        let step = (bytes.len() / 25).max(1);
        for at in (0..bytes.len()).step_by(step) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            memory.overwrite(&key, flipped).await;
            let report = check(&repository, Level::Content).await;
            // Slots of the `repository` object are sealed each by itself; what of them is damaged shows when it is opened.
            if key == "repository" && report.damages.is_empty() {
                continue;
            }
            let objects: Vec<_> = report.damages.iter().map(|damage| &damage.object).collect();
            assert_eq!(objects, [&key], "byte {at}");
            for root in &roots {
                let hurt = report.damages[0].hurt.iter().any(|hurt| hurt.snapshot == id(root));
                let read = restore(&repository, root).await;
                // A damaged root cannot be read, though who holds one can go on with it.
                if !key.starts_with("snapshots/") {
                    assert_eq!(hurt, read.is_err(), "{key} at {at}: {read:?}");
                }
            }
        }
        memory.overwrite(&key, bytes).await;
    }
}

#[tokio::test]
async fn a_check_can_be_interrupted_and_a_store_that_is_down_is_no_damage() {
    let (memory, repository, _) = scene().await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let result = repository.check(Level::Content, Progress::default(), cancel).await;
    assert!(matches!(result, Err(Error::Interrupted)));
    memory.arm(Some(storage::Stop::Before(3)));
    let result = repository.check(Level::Content, Progress::default(), CancellationToken::new()).await;
    assert!(matches!(result, Err(Error::Store { .. })), "{result:?}");
}

/// A dozen snapshots that share nothing, each in one pack.
async fn dozen() -> (Arc<Memory>, Repository) {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(41);
    for number in 0..12 {
        let mut image = Image::new(64);
        image.write_noise(0, 40, &random);
        offload(&repository, &format!("snapshot {number}"), &image.cut(), Against::Nothing).await.unwrap();
    }
    assert_eq!(memory.keys("packs/").await.len(), 12);
    (memory, repository)
}

fn sample(percent: f64) -> Options {
    Options { level: Level::Content, sample: Percent::new(percent), resume: None }
}

async fn check_with(repository: &Repository, options: Options) -> varve_repository::Result<Report> {
    repository.check(options, Progress::default(), CancellationToken::new()).await
}

/// Hurts a chunk of the `number`th pack.
async fn hurt(memory: &Memory, number: usize) -> String {
    let pack = memory.keys("packs/").await.remove(number);
    let mut bytes = memory.read(&pack).await;
    bytes[100] ^= 1;
    memory.overwrite(&pack, bytes).await;
    pack
}

#[tokio::test]
async fn samples_are_of_the_size_asked_for_and_see_everything_in_time() {
    let (memory, repository) = dozen().await;
    let pack = hurt(&memory, 7).await;
    let mut found = 0;
    for _ in 0..40 {
        let report = check_with(&repository, sample(25.0)).await.unwrap();
        let content = report.content.unwrap();
        assert_eq!((content.packs, content.of_packs), (3, 12));
        assert!(content.bytes * 4 >= content.of_bytes, "{content:?}");
        assert_eq!(report.packs, 12, "of the others the tables are read");
        assert!(report.damages.iter().all(|damage| damage.object == pack));
        found += report.damages.len();
    }
    // Each of the twelve is as likely as any other: ten times of forty.
    assert!((3..=20).contains(&found), "{found}");
}

#[tokio::test]
async fn a_pass_of_samples_reads_every_pack_once_and_a_damaged_one_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (memory, repository) = dozen().await;
    let options = || Options { resume: Some(state.clone()), ..sample(25.0) };
    let (mut packs, mut runs) = (0, 0);
    loop {
        let report = check_with(&repository, options()).await.unwrap();
        packs += report.content.unwrap().packs;
        runs += 1;
        let pass = report.pass.unwrap();
        assert_eq!((pass.packs, pass.of_packs), (packs, 12));
        assert_eq!(state.exists(), !pass.complete);
        if pass.complete {
            break;
        }
    }
    assert_eq!((packs, runs), (12, 4));

    let pack = hurt(&memory, 3).await;
    let (mut found, mut again) = (false, 0);
    for _ in 0..4 {
        let report = check_with(&repository, options()).await.unwrap();
        again += usize::from(found && report.damages.len() == 1);
        found |= report.damages.iter().any(|damage| damage.object == pack);
        let pass = report.pass.unwrap();
        if pass.complete {
            // In the run that ends the pass the damage is told too.
            assert_eq!(report.damages.len(), 1);
            break;
        }
        assert!(!found || report.damages.len() == 1, "what was found is found again");
    }
    assert!(found && !state.exists(), "{again}");
}

#[tokio::test]
async fn a_check_that_ended_early_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (memory, repository) = dozen().await;
    let options = || Options { resume: Some(state.clone()), ..Options::from(Level::Content) };
    memory.arm(None);
    check(&repository, Level::Content).await;
    let operations = memory.operations().len();
    memory.arm(Some(storage::Stop::Before(operations - 6)));
    assert!(matches!(check_with(&repository, options()).await, Err(Error::Store { .. })));
    memory.arm(None);
    assert!(state.exists());
    let report = check_with(&repository, options()).await.unwrap();
    let read = report.content.unwrap().packs;
    assert!((1..12).contains(&read), "{read}");
    assert!(report.pass.is_some_and(|pass| pass.complete && pass.packs == 12));
    assert!(!state.exists());
    // What was looked at and is gone since is found nevertheless.
    memory.arm(Some(storage::Stop::Before(operations - 6)));
    assert!(check_with(&repository, options()).await.is_err());
    memory.arm(None);
    for pack in memory.keys("packs/").await {
        memory.remove(&pack).await;
    }
    assert_eq!(check_with(&repository, options()).await.unwrap().damages.len(), 12);
}

#[tokio::test]
async fn a_state_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (_, repository) = dozen().await;
    let options = |level| Options { resume: Some(state.clone()), level, sample: None };
    let refused = async |repository: &Repository, level, words: &str| {
        let error = check_with(repository, options(level)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(words) && error.to_string().contains("/state"), "{error}");
    };
    let cancel = CancellationToken::new();
    cancel.cancel();
    let interrupted = repository.check(options(Level::Content), Progress::default(), cancel).await;
    assert!(matches!(interrupted, Err(Error::Interrupted)) && state.exists());
    refused(&repository, Level::Presence, "another level").await;
    let other = Repository::init(Memory::new().store(), &image::master(), image::seams(77)).await.unwrap();
    refused(&other, Level::Content, "of repository").await;
    std::fs::write(&state, "precious").unwrap();
    refused(&repository, Level::Content, "not the state of a check").await;
    assert_eq!(std::fs::read(&state).unwrap(), b"precious");
    let unwritable = Options { resume: Some("/nowhere/state".into()), ..Options::from(Level::Presence) };
    let report = check_with(&repository, unwritable).await;
    assert!(report.is_ok_and(|report| report.pass.is_some_and(|pass| pass.complete)), "nothing is left to write");
}

#[tokio::test]
async fn damage_that_no_snapshot_shows_hurts_none() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(42);
    let mut image = Image::new(200);
    image.write_noise(0, 64, &random);
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    image.write_noise(0, 64, &random);
    let second = offload(&repository, "second", &image.cut(), base(&first)).await.unwrap();
    let pack = packs_of(&memory.keys("").await, &first).remove(0);
    let mut bytes = memory.read(&pack).await;
    bytes[100] ^= 1;
    memory.overwrite(&pack, bytes).await;
    let report = check(&repository, Level::Content).await;
    assert_eq!(report.hurt_snapshots().into_iter().collect::<Vec<_>>(), [id(&first)]);
    repository.delete_snapshot(id(&first), "deleted").await.unwrap();
    let report = check(&repository, Level::Content).await;
    assert!(report.hurt_snapshots().is_empty(), "{report:?}");
    assert_eq!(report.harmless().count(), report.damages.len());
    assert_eq!(restore(&repository, &second).await.unwrap(), image.bytes);
}
