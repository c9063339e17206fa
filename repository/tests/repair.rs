//! Repairs: what is lost comes back from wherever it is, byte for byte, and nothing ever becomes worse.

mod image;
mod storage;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use image::{BLOCK, Cut, Image, Restored, Seeded, assert_same, base, id, master, offload, restore, seams};
use storage::{Memory, Stop};
use tokio_util::sync::CancellationToken;
use varve_repository::{
    Error, Repository, Result, SnapshotState,
    check::{self, Level},
    crypto::MasterKey,
    hydrate::{Lost, Salvage},
    id::SnapshotId,
    offload::Against,
    progress::Progress,
    record::snapshot::Root,
    repair::{LocalImage, Mended, Options, Outcome, Proof, Report, Sources},
    store::Store,
};

/// Snapshots and what they hold.
type Images = BTreeMap<SnapshotId, (Root, Arc<Vec<u8>>)>;

/// A repository with three snapshots of one volume, each standing on the one before, and one of another.
async fn scene(store: Store) -> (Repository, Images) {
    let repository = Repository::init(store, &master(), seams(1)).await.unwrap();
    let random = Seeded::new(60);
    let mut images = Images::new();
    let mut image = Image::new(900);
    image.write_text(0, 400, &random);
    image.write_noise(512, 64, &random);
    let first = keep(&repository, &mut images, "first", &image.cut(), Against::Nothing).await;
    image.write_noise(100, 40, &random);
    image.write_zeroes(200, 20, true);
    let second = keep(&repository, &mut images, "second", &image.cut(), base(&first)).await;
    for block in (5..800).step_by(37) {
        image.write_noise(block, 1, &random);
    }
    keep(&repository, &mut images, "third", &image.cut(), base(&second)).await;
    let mut other = Image::new(100);
    other.write_noise(0, 50, &random);
    let cut = other.cut();
    let mut request = image::request(&repository, "other", &cut, Against::Nothing);
    request.description.volume = repository.volume_id("other");
    request.description.volume_name = "other".into();
    let root = repository.offload(request).await.unwrap();
    images.insert(id(&root), (root, cut.bytes));
    (repository, images)
}

async fn keep(repository: &Repository, images: &mut Images, name: &str, cut: &Cut, against: Against) -> Root {
    let root = offload(repository, name, cut, against).await.unwrap();
    images.insert(id(&root), (root.clone(), Arc::clone(&cut.bytes)));
    root
}

fn image_of(bytes: &[u8]) -> Image {
    let mut image = Image::new((bytes.len() / BLOCK) as u64);
    image.bytes.copy_from_slice(bytes);
    image
}

/// Another repository, with another key, that holds the same snapshots under the same ids.
async fn mirror(images: &Images) -> Repository {
    let key = MasterKey::generate(&Seeded::new(9));
    let mirror = Repository::init(Memory::new().store(), &key, seams(90)).await.unwrap();
    for (root, bytes) in images.values() {
        let cut = image_of(bytes).scan();
        let mut request = image::request(&mirror, "copy", &cut, Against::Nothing);
        request.description = root.description.clone();
        mirror.offload(request).await.unwrap();
    }
    mirror
}

fn options() -> Options {
    Options { level: Level::Content, dry_run: false, node: "test".into() }
}

async fn repair(repository: &Repository, sources: &Sources, options: Options) -> Result<Report> {
    repository.repair(sources, options, Progress::default(), CancellationToken::new()).await
}

async fn check(repository: &Repository) -> check::Report {
    repository.check(Level::Content, Progress::default(), CancellationToken::new()).await.unwrap()
}

async fn open(memory: &Arc<Memory>, seed: u64) -> Repository {
    Repository::open(memory.store(), &master(), seams(seed)).await.unwrap()
}

async fn salvage(repository: &Repository, root: &Root) -> Result<(Vec<u8>, Salvage)> {
    let target = Arc::new(Restored::new(usize::try_from(root.description.capacity_bytes).unwrap()));
    let salvage = repository.salvage(root, target.clone(), Progress::default(), CancellationToken::new()).await?;
    Ok((target.into_bytes(), salvage))
}

/// Ranges in blocks, those that touch made one.
fn blocks_of(ranges: impl IntoIterator<Item = (u64, u64)>) -> Vec<u64> {
    let mut blocks: Vec<u64> =
        ranges.into_iter().flat_map(|(start, length)| start / 4096..(start + length) / 4096).collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// Each way to damage each object that is not a record of the repository or a volume.
fn damages(objects: &[(String, Vec<u8>)]) -> Vec<(String, &'static str, Option<Vec<u8>>)> {
    let mut damages = Vec::new();
    for (key, bytes) in objects {
        if !["packs/", "runs/", "snapshots/"].iter().any(|folder| key.starts_with(folder)) {
            continue;
        }
        for (what, at) in
            [("flipped early", 40), ("flipped in the middle", bytes.len() / 2), ("flipped late", bytes.len() - 5)]
        {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            damages.push((key.clone(), what, Some(flipped)));
        }
        damages.push((key.clone(), "cut short", Some(bytes[..bytes.len() / 2].to_vec())));
        damages.push((key.clone(), "emptied", Some(Vec::new())));
        damages.push((key.clone(), "deleted", None));
    }
    damages
}

async fn apply(memory: &Memory, key: &str, bytes: Option<Vec<u8>>) {
    match bytes {
        Some(bytes) => memory.overwrite(key, bytes).await,
        None => memory.remove(key).await,
    }
}

/// Every snapshot is there and is what it was.
async fn assert_all_restore(repository: &Repository, images: &Images, what: &str) {
    for (id, (_, bytes)) in images {
        let SnapshotState::Committed(root) = repository.snapshot(*id).await.unwrap() else {
            panic!("{what}: {id} is gone");
        };
        assert_same(&restore(repository, &root).await.unwrap(), bytes, what);
    }
}

#[tokio::test]
async fn invariant_6_a_check_and_a_restore_that_keeps_going_agree_to_the_byte() {
    let memory = Memory::new();
    let (_, images) = scene(memory.store()).await;
    let objects = memory.objects().await;
    let mut partly = 0;
    for (key, what, bytes) in damages(&objects) {
        let what = format!("{key} {what}");
        let memory = memory.fork().await;
        apply(&memory, &key, bytes).await;
        let repository = open(&memory, 2).await;
        let report = check(&repository).await;
        for (id, (root, image)) in &images {
            if key == format!("snapshots/{id}") {
                continue;
            }
            let hurt = report.damages.iter().flat_map(|damage| damage.hurt.iter().map(move |hurt| (damage, hurt)));
            let hurt: Vec<_> = hurt.filter(|(_, hurt)| hurt.snapshot == *id).collect();
            assert!(hurt.iter().all(|(damage, _)| damage.object == key), "{what}: {hurt:?}");
            let reported = blocks_of(hurt.iter().flat_map(|(_, hurt)| hurt.ranges.iter().copied()));

            let (restored, Salvage { lost, .. }) = salvage(&repository, root).await.unwrap();
            assert!(lost.iter().all(|lost| lost.object == key), "{what}: {lost:?}");
            let zeroed = blocks_of(lost.iter().map(|Lost { start, length, .. }| (*start, *length)));
            assert_eq!(zeroed, reported, "{what}");
            assert_eq!(restore(&repository, root).await.is_err(), !zeroed.is_empty(), "{what}");
            for (number, (found, expected)) in (0..).zip(restored.chunks(BLOCK).zip(image.chunks(BLOCK))) {
                if zeroed.binary_search(&number).is_ok() {
                    assert!(found.iter().all(|byte| *byte == 0), "{what}: block {number}");
                } else {
                    assert!(found == expected, "{what}: block {number}");
                }
            }
            partly += usize::from(!zeroed.is_empty() && zeroed.len() < image.len() / BLOCK / 4);
        }
    }
    assert!(partly > 10, "{partly}");
}

#[tokio::test]
async fn everything_comes_back_from_a_mirror_whatever_is_damaged() {
    let memory = Memory::new();
    let (_, images) = scene(memory.store()).await;
    let sources = Sources { mirror: Some(mirror(&images).await), images: Vec::new() };
    let objects = memory.objects().await;
    for (key, what, bytes) in damages(&objects) {
        let what = format!("{key} {what}");
        let memory = memory.fork().await;
        apply(&memory, &key, bytes).await;
        let repository = open(&memory, 3).await;
        let before = check(&repository).await;

        memory.arm(None);
        let kept = memory.objects().await;
        let dry = repair(&repository, &sources, Options { dry_run: true, ..options() }).await.unwrap();
        assert_eq!(memory.puts(), [], "{what}");
        assert!(memory.objects().await == kept, "{what}: a dry run changed something");

        let report = repair(&repository, &sources, options()).await.unwrap();
        assert!(!report.is_anything_lost(), "{what}: {:?}", report.snapshots);
        assert_eq!(report.found, before, "{what}");
        let outcomes = |report: &Report| -> Vec<_> {
            report.snapshots.iter().map(|mended| (mended.snapshot, mended.outcome)).collect()
        };
        assert_eq!(outcomes(&report), outcomes(&dry), "{what}");
        let mended: Vec<_> = report.snapshots.iter().map(|mended| mended.snapshot).collect();
        assert!(before.hurt_snapshots().iter().all(|hurt| mended.contains(hurt)), "{what}");
        // What was found is what was lost.
        for mended in &report.snapshots {
            let hurt = before.damages.iter().flat_map(|damage| &damage.hurt);
            let hurt = hurt.filter(|hurt| hurt.snapshot == mended.snapshot && !hurt.ranges.is_empty());
            let lost = blocks_of(hurt.flat_map(|hurt| hurt.ranges.iter().copied()));
            let found = blocks_of(mended.recovered.iter().map(|part| (part.start, part.length)));
            assert!(lost.is_empty() || lost == found, "{what}");
        }

        let after = check(&repository).await;
        assert!(after.hurt_snapshots().is_empty(), "{what}: {after:?}");
        assert_eq!(after.snapshots, 4, "{what}");
        let left: Vec<_> = memory.keys("").await.into_iter().filter(|key| !key.contains('/')).collect();
        assert!(memory.keys("uploads/").await.is_empty() && !left.contains(&"repacking".into()), "{what}: {left:?}");
        assert_all_restore(&repository, &images, &what).await;
        assert!(repository.snapshots().await.unwrap().iter().all(|root| root.pending.is_empty()), "{what}");

        // And it goes on from there: nothing is left to do, and a new snapshot stands on what was mended.
        let again = repair(&repository, &sources, options()).await.unwrap();
        assert_eq!(again.snapshots, [], "{what}");
    }
}

/// A chunk of the first snapshot's pack is hurt.
async fn hurt_chunk(memory: &Memory, images: &Images) -> String {
    let first = images.values().find(|(root, _)| root.description.name == "first").unwrap();
    let pack = memory.keys(&format!("packs/{}", first.0.upload)).await.remove(0);
    let mut bytes = memory.read(&pack).await;
    bytes[300] ^= 1;
    memory.overwrite(&pack, bytes).await;
    pack
}

fn named<'a>(report: &'a Report, images: &Images, name: &str) -> &'a Mended {
    let id = images.values().find(|(root, _)| root.description.name == name).unwrap().0.description.id;
    report.snapshots.iter().find(|mended| mended.snapshot == id).unwrap()
}

#[tokio::test]
async fn a_chunk_comes_back_from_another_copy_of_it() {
    let memory = Memory::new();
    let (repository, mut images) = scene(memory.store()).await;
    // The same image again, in full: its chunks are stored a second time.
    let bytes = Arc::clone(&images.values().find(|(root, _)| root.description.name == "first").unwrap().1);
    let cut = image_of(&bytes).scan();
    let copy = keep(&repository, &mut images, "copy", &cut, Against::Nothing).await;
    assert!(copy.statistics.stored_bytes > 0, "it was stored again");
    let pack = hurt_chunk(&memory, &images).await;

    let repository = open(&memory, 4).await;
    assert_eq!(check(&repository).await.hurt_snapshots().len(), 3);
    memory.arm(None);
    let report = repair(&repository, &Sources::default(), options()).await.unwrap();
    assert!(!report.is_anything_lost(), "{:?}", report.snapshots);
    let recovered = &named(&report, &images, "first").recovered;
    assert_eq!(recovered.len(), 1);
    assert_eq!((recovered[0].start, recovered[0].length, recovered[0].proof), (0, 32 * 4096, Proof::Chunk));
    assert!(recovered[0].source.starts_with("packs/") && recovered[0].source != pack, "{recovered:?}");
    // What three snapshots lost is written once.
    let packs = memory.puts().into_iter().filter(|(key, _)| key.starts_with("packs/")).count();
    assert_eq!(packs, 1);
    assert!(check(&repository).await.hurt_snapshots().is_empty());
    assert_all_restore(&repository, &images, "from another copy").await;

    // The next snapshot stands on the mended one.
    let mut image = image_of(&bytes);
    image.write_noise(700, 3, &Seeded::new(61));
    let first = images.values().find(|(root, _)| root.description.name == "first").unwrap().0.clone();
    keep(&repository, &mut images, "next", &image.cut(), base(&first)).await;
    assert_all_restore(&repository, &images, "behind a repair").await;
}

fn write_image(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn lost_bytes_come_back_from_cuts_and_volumes_and_wrong_ones_never_do() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::new();
    let (_, images) = scene(memory.store()).await;
    let pack = hurt_chunk(&memory, &images).await;
    let (first, bytes) = images.values().find(|(root, _)| root.description.name == "first").unwrap();

    // The cut of the same snapshot, but the bytes are others: no hash, no trust.
    let liar = vec![7; bytes.len()];
    let cut = |bytes: &[u8], name| {
        LocalImage::of_cut(write_image(folder.path(), name, bytes), first.description.clone(), true)
    };
    let sources = |image| Sources { mirror: None, images: vec![image] };
    let repository = open(&memory.fork().await, 5).await;
    let report = repair(&repository, &sources(cut(&liar, "liar")), options()).await.unwrap();
    assert!(report.is_anything_lost());
    let mended = named(&report, &images, "first");
    assert_eq!((mended.outcome, mended.recovered.len()), (Outcome::Unchanged, 0));
    let lost = &mended.lost[0];
    assert_eq!((lost.start, lost.length, &lost.object), (0, 32 * 4096, &pack));

    // The true cut: for the snapshot itself, and, where all of the chunk still shows, for those that stand on it.
    let repository = open(&memory.fork().await, 6).await;
    let report = repair(&repository, &sources(cut(bytes, "cut")), options()).await.unwrap();
    let recovered = &named(&report, &images, "first").recovered;
    assert_eq!(recovered[0].proof, Proof::Chunk);
    assert!(recovered[0].source.ends_with("/cut"), "{recovered:?}");
    // The third one has overwritten a block of the chunk, but the repair knows the chunk by now.
    assert!(!report.is_anything_lost(), "{:?}", report.snapshots);
    assert_all_restore(&repository, &images, "from a cut").await;

    // A volume as it is now: what hashes right is right.
    let mut now = bytes.to_vec();
    now[500 * BLOCK..].fill(9);
    let volume = LocalImage::of_volume(write_image(folder.path(), "volume", &now), first.description.volume);
    let repository = open(&memory.fork().await, 7).await;
    let report = repair(&repository, &sources(volume), options()).await.unwrap();
    assert_eq!(named(&report, &images, "first").recovered[0].proof, Proof::Chunk);
    assert!(!report.is_anything_lost(), "{:?}", report.snapshots);
    assert_all_restore(&repository, &images, "from a volume").await;
}

#[tokio::test]
async fn a_pool_is_read_as_a_node_lays_it_out() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::new();
    let (_, images) = scene(memory.store()).await;
    let pool = folder.path();
    for (id, (root, bytes)) in &images {
        let cut = pool.join("cuts").join(id.to_string());
        std::fs::create_dir_all(cut.join("data")).unwrap();
        std::fs::write(cut.join("data/image"), bytes.as_slice()).unwrap();
        let record = serde_json::json!({ "description": root.description, "state": "base", "offload": {} });
        std::fs::write(cut.join("record.json"), record.to_string()).unwrap();
    }
    std::fs::create_dir_all(pool.join("cuts/half.group")).unwrap();
    assert!(LocalImage::of_pool(pool).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound));
    std::fs::create_dir_all(pool.join("volumes")).unwrap();
    let sources = Sources { mirror: None, images: LocalImage::of_pool(pool).unwrap() };
    assert_eq!(sources.images.len(), images.len());
    // All at once: a pack's table, a run, a damaged root and one that is missing.
    let keys = memory.keys("").await;
    let mut ids = images.keys();
    memory.remove(&format!("snapshots/{}", ids.next().unwrap())).await;
    memory.overwrite(&format!("snapshots/{}", ids.next().unwrap()), b"VARVE nonsense".to_vec()).await;
    for key in keys.iter().filter(|key| key.starts_with("packs/") || key.starts_with("runs/")) {
        let mut bytes = memory.read(key).await;
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        memory.overwrite(key, bytes).await;
    }
    let repository = open(&memory, 8).await;
    let report = repair(&repository, &sources, options()).await.unwrap();
    assert!(!report.is_anything_lost() && report.snapshots.len() == 4, "{:?}", report.snapshots);
    assert!(check(&repository).await.hurt_snapshots().is_empty());
    assert_all_restore(&repository, &images, "from a pool").await;
    assert!(memory.keys("uploads/").await.is_empty());
}

#[tokio::test]
async fn a_deleted_snapshot_does_not_come_back() {
    let memory = Memory::new();
    let (repository, images) = scene(memory.store()).await;
    let sources = Sources { mirror: Some(mirror(&images).await), images: Vec::new() };
    let deleted = *images.keys().next().unwrap();
    repository.delete_snapshot(deleted, "deleted").await.unwrap();
    let report = repair(&repository, &sources, options()).await.unwrap();
    assert_eq!(report.snapshots, []);
    assert!(matches!(repository.snapshot(deleted).await, Ok(SnapshotState::Gone(_))));

    // Nor where its tombstone is damaged.
    let key = format!("snapshots/{deleted}");
    let mut bytes = memory.read(&key).await;
    bytes[60] ^= 1;
    memory.overwrite(&key, bytes.clone()).await;
    let report = repair(&repository, &sources, options()).await.unwrap();
    assert_eq!(report.snapshots.len(), 1);
    assert_eq!(report.snapshots[0].outcome, Outcome::Unchanged);
    assert!(report.snapshots[0].lost[0].reason.contains("delete the snapshot again"), "{report:?}");
    assert!(memory.read(&key).await == bytes);
}

#[tokio::test]
async fn what_is_nowhere_stays_as_it_is_and_is_named() {
    let memory = Memory::new();
    let (_, images) = scene(memory.store()).await;
    let pack = hurt_chunk(&memory, &images).await;
    let kept = memory.objects().await;
    let repository = open(&memory, 9).await;
    let report = repair(&repository, &Sources::default(), options()).await.unwrap();
    assert!(report.is_anything_lost());
    for mended in &report.snapshots {
        assert_eq!(mended.outcome, Outcome::Unchanged);
        assert!(mended.recovered.is_empty() && mended.lost.iter().all(|lost| lost.object == pack));
        // What is named is what a restore that keeps going leaves zero.
        let (root, _) = &images[&mended.snapshot];
        let (_, salvage) = salvage(&repository, root).await.unwrap();
        let ranges = |lost: &[Lost]| blocks_of(lost.iter().map(|lost| (lost.start, lost.length)));
        assert_eq!(ranges(&mended.lost), ranges(&salvage.lost));
    }
    assert!(memory.objects().await == kept);
}

#[tokio::test]
async fn a_repair_that_dies_anywhere_has_made_nothing_worse_and_the_next_one_ends_it() {
    let memory = Memory::new();
    let (_, images) = scene(memory.store()).await;
    let sources = Sources { mirror: Some(mirror(&images).await), images: Vec::new() };
    hurt_chunk(&memory, &images).await;
    // A run of the third snapshot is missing, and the other volume's root is damaged.
    let third = images.values().find(|(root, _)| root.description.name == "third").unwrap();
    memory.remove(&format!("runs/{}", third.0.runs[0].id)).await;
    let other = images.values().find(|(root, _)| root.description.name == "other").unwrap();
    memory.overwrite(&format!("snapshots/{}", id(&other.0)), b"VARVE nonsense".to_vec()).await;

    let whole = memory.fork().await;
    let repository = open(&whole, 10).await;
    whole.arm(None);
    assert!(!repair(&repository, &sources, options()).await.unwrap().is_anything_lost());
    let operations = whole.operations();
    let writes = operations
        .iter()
        .enumerate()
        .filter(|(_, operation)| matches!(operation, storage::Operation::Put(..) | storage::Operation::Delete(_)));
    let writes: Vec<usize> = writes.map(|(number, _)| number).collect();
    assert!(writes.len() > 10, "{operations:?}");
    for stop in writes.iter().flat_map(|at| [Stop::Before(*at), Stop::After(*at)]) {
        let what = format!("{stop:?}");
        let memory = memory.fork().await;
        let repository = open(&memory, 10).await;
        memory.arm(Some(stop));
        let result = repair(&repository, &sources, options()).await;
        assert!(memory.stopped() && matches!(result, Err(Error::Store { .. })), "{what}: {result:?}");
        memory.arm(None);
        let repository = open(&memory, 11).await;
        for root in repository.readable_snapshots().await.unwrap().roots {
            let (restored, salvage) = salvage(&repository, &root).await.unwrap();
            let lost = blocks_of(salvage.lost.iter().map(|lost| (lost.start, lost.length)));
            let expected = &images[&id(&root)].1;
            for (number, (found, expected)) in (0..).zip(restored.chunks(BLOCK).zip(expected.chunks(BLOCK))) {
                assert!(found == expected || lost.binary_search(&number).is_ok(), "{what}: block {number}");
            }
        }
        let report = repair(&repository, &sources, options()).await.unwrap();
        assert!(!report.is_anything_lost(), "{what}: {:?}", report.snapshots);
        assert_all_restore(&repository, &images, &what).await;
        assert!(repository.snapshots().await.unwrap().iter().all(|root| root.pending.is_empty()), "{what}");
    }
}

#[tokio::test]
async fn a_repository_in_a_folder_is_checked_salvaged_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repository");
    let store = || Store::open(&format!("file://{}", root.display()), &[]).unwrap();
    let (_, images) = scene(store()).await;
    let mirror = mirror(&images).await;
    let mut packs: Vec<_> = std::fs::read_dir(root.join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    packs.sort();
    assert!(packs.len() >= 4);
    std::fs::remove_file(&packs[0]).unwrap();
    let bytes = std::fs::read(&packs[1]).unwrap();
    std::fs::write(&packs[1], &bytes[..bytes.len() - 1]).unwrap();

    let repository = Repository::open(store(), &master(), seams(12)).await.unwrap();
    let report = check(&repository).await;
    assert_eq!(report.damages.len(), 2, "{report:?}");
    let hurt = report.hurt_snapshots();
    assert!(!hurt.is_empty());
    for (id, (root, image)) in &images {
        assert_eq!(restore(&repository, root).await.is_err(), hurt.contains(id));
        let (restored, salvage) = salvage(&repository, root).await.unwrap();
        let lost = blocks_of(salvage.lost.iter().map(|lost| (lost.start, lost.length)));
        assert_eq!(lost.is_empty(), !hurt.contains(id));
        for (number, (found, expected)) in (0..).zip(restored.chunks(BLOCK).zip(image.chunks(BLOCK))) {
            assert!(found == expected || lost.binary_search(&number).is_ok(), "block {number}");
        }
    }
    let sources = Sources { mirror: Some(mirror), images: Vec::new() };
    assert!(!repair(&repository, &sources, options()).await.unwrap().is_anything_lost());
    assert!(check(&repository).await.hurt_snapshots().is_empty());
    assert_all_restore(&repository, &images, "in a folder").await;
}

#[tokio::test]
async fn one_damaged_root_hides_no_other() {
    let memory = Memory::new();
    let (repository, images) = scene(memory.store()).await;
    let damaged = *images.keys().nth(1).unwrap();
    memory.overwrite(&format!("snapshots/{damaged}"), b"VARVE nonsense".to_vec()).await;
    assert!(repository.snapshots().await.is_err());
    let readable = repository.readable_snapshots().await.unwrap();
    assert_eq!(readable.roots.len(), 3);
    assert_eq!(readable.damaged.len(), 1);
    assert_eq!(readable.damaged[0].snapshot, damaged);
}

#[tokio::test]
async fn damage_to_what_a_pack_was_repacked_into_is_named_and_repaired() {
    let memory = Memory::new();
    let repository = Repository::init(memory.store(), &master(), seams(1)).await.unwrap();
    let random = Seeded::new(62);
    let mut images = Images::new();
    let mut image = Image::new(640);
    image.write_noise(0, 640, &random);
    let first = keep(&repository, &mut images, "first", &image.cut(), Against::Nothing).await;
    image.write_noise(96, 544, &random);
    let second = keep(&repository, &mut images, "second", &image.cut(), base(&first)).await;
    repository.delete_snapshot(id(&first), "deleted").await.unwrap();
    images.remove(&id(&first));
    let collect = varve_repository::collect::Options::default();
    repository.collect(&collect, Progress::default(), CancellationToken::new()).await.unwrap();
    assert_eq!(memory.keys("relocated/").await.len(), 1, "{:?}", memory.keys("").await);
    for level in [Level::Structure, Level::Presence, Level::Content] {
        let report = open(&memory, 13).await.check(level, Progress::default(), CancellationToken::new()).await.unwrap();
        assert_eq!(report.damages, [], "{level:?}");
    }
    let sources = Sources { mirror: Some(mirror(&images).await), images: Vec::new() };
    let own = format!("packs/{}", second.upload);
    let mut cases = 0;
    for (key, bytes) in memory.objects().await {
        let target = key.starts_with("packs/") && !key.starts_with(&own);
        if !target && !key.starts_with("relocated/") {
            continue;
        }
        let mut flipped = bytes.clone();
        flipped[60] ^= 1;
        for damage in [Some(flipped), Some(bytes[..bytes.len() - 1].to_vec()), None] {
            cases += 1;
            let what = format!("{key} {:?}", damage.as_ref().map(Vec::len));
            let gone = damage.is_none();
            let memory = memory.fork().await;
            apply(&memory, &key, damage).await;
            let repository = open(&memory, 14).await;
            let report = check(&repository).await;
            assert_eq!(report.damages.len(), 1, "{what}: {report:?}");
            // Of what is missing all that is known is what it held.
            assert!(gone || report.damages[0].object == key, "{what}: {report:?}");
            assert_eq!(report.damages[0].hurt.len(), 1, "{what}: {report:?}");
            let reported = blocks_of(report.damages[0].hurt[0].ranges.iter().copied());
            assert!(reported.iter().all(|block| *block < 96) && !reported.is_empty(), "{what}: {reported:?}");
            let (_, salvage) = salvage(&repository, &second).await.unwrap();
            assert_eq!(blocks_of(salvage.lost.iter().map(|lost| (lost.start, lost.length))), reported, "{what}");
            let repaired = repair(&repository, &sources, options()).await.unwrap();
            assert!(!repaired.is_anything_lost(), "{what}: {:?}", repaired.snapshots);
            assert!(check(&repository).await.hurt_snapshots().is_empty(), "{what}");
            assert_all_restore(&repository, &images, &what).await;
        }
    }
    assert_eq!(cases, 6);
}
