//! Collection: what nobody refers to goes, what anybody refers to stays, whatever happens meanwhile.

mod image;
mod storage;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use image::{Cut, Image, Seeded, assert_same, base, id, init, master, offload, restore, seams};
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult, path::Path,
};
use storage::{Memory, Stop};
use varve_repository::{
    Repository, Result,
    check::Level,
    collect::{Kind, Options, Plan, Reason, Report},
    offload::Against,
    record::snapshot::Root,
    store::Store,
};

async fn collect(repository: &Repository) -> Report {
    repository.collect(&Options::default(), Default::default(), Default::default()).await.unwrap()
}

async fn plan(repository: &Repository) -> Plan {
    repository.plan_collection(&Options::default(), Default::default(), Default::default()).await.unwrap()
}

/// Opens the repository as a process of its own.
async fn open(memory: &Arc<Memory>, seed: u64) -> Result<Repository> {
    Repository::open(memory.store(), &master(), seams(seed)).await
}

fn found(plan: &Plan, kind: Kind, reason: Reason) -> u64 {
    let garbage = plan.garbage.iter().filter(|garbage| garbage.kind == kind && garbage.reason == reason);
    garbage.map(|garbage| garbage.amount.objects).sum()
}

/// Snapshots, and what each must restore to.
#[derive(Default)]
struct Kept(Vec<(Root, Cut)>);

impl Kept {
    /// Everything restores, nothing is damaged, and nothing unreachable is left.
    async fn assert_alone(&self, memory: &Arc<Memory>, what: &str) {
        self.assert_whole(memory, what).await;
        let repository = open(memory, 98).await.unwrap();
        let plan = plan(&repository).await;
        assert_eq!(plan.garbage, [], "{what}");
        assert_eq!(plan.kept.snapshots, self.0.len() as u64, "{what}");
        assert_eq!(memory.keys("repacking").await, [""; 0], "{what}");
    }

    async fn assert_whole(&self, memory: &Arc<Memory>, what: &str) {
        let repository = open(memory, 99).await.unwrap();
        for (root, cut) in &self.0 {
            let restored = restore(&repository, root).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_same(&restored, &cut.bytes, what);
        }
    }
}

/// Five snapshots of a volume, each built upon the one before.
async fn chain(memory: &Arc<Memory>) -> (Repository, Vec<(Root, Cut)>) {
    let repository = init(memory.store()).await;
    let random = Seeded::new(30);
    let mut image = Image::new(3000);
    image.write_text(0, 1000, &random);
    image.write_noise(1000, 500, &random);
    let mut made: Vec<(Root, Cut)> = Vec::new();
    for number in 0..5_u64 {
        let against = made.last().map_or(Against::Nothing, |(root, _)| base(root));
        let cut = image.cut();
        made.push((offload(&repository, &format!("s{number}"), &cut, against).await.unwrap(), cut));
        // Each overwrites a third of what the first has, so that its packs die by and by.
        image.write_noise(number % 3 * 500, 450, &random);
    }
    (repository, made)
}

#[tokio::test]
async fn invariant_2_what_deleted_snapshots_alone_referred_to_goes() {
    let memory = Memory::new();
    let (repository, made) = chain(&memory).await;
    let before = memory.keys("packs/").await.len();
    assert_eq!(plan(&repository).await.garbage, []);

    let (gone, left) = made.split_at(4);
    for (root, _) in gone {
        repository.delete_snapshot(id(root), "deleted").await.unwrap();
    }
    let kept = Kept(left.to_vec());
    let planned = plan(&repository).await;
    assert_eq!(memory.keys("packs/").await.len(), before, "a plan changes nothing");
    let report = collect(&repository).await;
    assert_eq!(report.plan.garbage, planned.garbage);
    assert_eq!(report.deleted, planned.garbage);
    assert!(found(&planned, Kind::Pack, Reason::Unreferenced) >= 1, "{planned:?}");
    assert!(memory.keys("packs/").await.len() < before);
    kept.assert_alone(&memory, "after a collection").await;

    for (root, _) in left {
        repository.delete_snapshot(id(root), "deleted").await.unwrap();
    }
    collect(&repository).await;
    for folder in ["packs/", "runs/", "relocated/", "uploads/"] {
        assert_eq!(memory.keys(folder).await, [""; 0]);
    }
}

#[tokio::test]
async fn invariant_2_what_an_undecided_attempt_wrote_and_pins_stays() {
    let memory = Memory::new();
    let (repository, made) = chain(&memory).await;
    let (last, _) = made.last().unwrap();
    // An attempt that dies at its root: everything else is put.
    let random = Seeded::new(31);
    let mut image = Image::new(3000);
    image.bytes.clone_from(&made.last().unwrap().1.bytes);
    image.cut();
    image.write_noise(2000, 500, &random);
    let cut = image.cut();
    memory.arm(None);
    let complete = memory.fork().await;
    let rival = open(&complete, 41).await.unwrap();
    complete.arm(None);
    offload(&rival, "late", &cut, base(last)).await.unwrap();
    let commit = complete
        .operations()
        .iter()
        .rposition(|operation| matches!(operation, storage::Operation::Put(key, _) if key.starts_with("snapshots/")));
    let writer = open(&memory, 41).await.unwrap();
    memory.arm(Some(Stop::Before(commit.unwrap())));
    offload(&writer, "late", &cut, base(last)).await.unwrap_err();
    memory.arm(None);
    let repository = {
        drop(repository);
        open(&memory, 42).await.unwrap()
    };

    for (root, _) in &made {
        repository.delete_snapshot(id(root), "deleted").await.unwrap();
    }
    let report = collect(&repository).await;
    let [undecided] = &report.plan.undecided[..] else { panic!("{report:?}") };
    assert_eq!((undecided.snapshot, undecided.attempts.len()), (repository.snapshot_id("late", 0), 1));
    assert_eq!(undecided.attempts[0].node, "node");
    assert!(undecided.held.objects >= 2 && undecided.held.bytes > 500 * 4096, "{undecided:?}");
    // What the base's runs say is still there, although the base is not.
    for run in &last.runs {
        assert!(memory.keys(&format!("runs/{}", run.id)).await.len() == 1);
    }
    // Others go on meanwhile.
    let cut = image.scan();
    let root = offload(&repository, "other", &cut, Against::Nothing).await.unwrap();
    assert_same(&restore(&repository, &root).await.unwrap(), &cut.bytes, "another");

    // Once it is cancelled, nothing holds it.
    repository.delete_snapshot(undecided.snapshot, "cancelled").await.unwrap();
    let report = collect(&repository).await;
    assert_eq!(found(&report.plan, Kind::Intent, Reason::Decided), 1);
    assert!(found(&report.plan, Kind::Pack, Reason::Abandoned) >= 1, "{report:?}");
    Kept(vec![(root, cut)]).assert_alone(&memory, "after the cancellation").await;
}

#[tokio::test]
async fn what_cannot_be_read_keeps_everything_that_it_might_hold() {
    let memory = Memory::new();
    let (repository, made) = chain(&memory).await;
    repository.delete_snapshot(id(&made[0].0), "deleted").await.unwrap();
    let packs = memory.keys("packs/").await;
    let runs = memory.keys("runs/").await;
    let whole = memory.fork().await;

    for (object, runs_go) in
        [(format!("snapshots/{}", id(&made[2].0)), false), (format!("runs/{}", made[2].0.runs[0].id), true)]
    {
        let memory = whole.fork().await;
        let mut bytes = memory.read(&object).await;
        let last = bytes.len() - 40;
        bytes[last] ^= 1;
        memory.overwrite(&object, bytes).await;
        let report = collect(&open(&memory, 50).await.unwrap()).await;
        assert_eq!(report.plan.unreadable.len(), 1, "{report:?}");
        assert_eq!(report.plan.unreadable[0].object, object);
        assert_eq!(memory.keys("packs/").await, packs, "{object}");
        assert_eq!(memory.keys("runs/").await.len() < runs.len(), runs_go, "{object}");
    }

    // Deleting the damaged snapshot helps.
    let object = format!("snapshots/{}", id(&made[2].0));
    memory.overwrite(&object, b"nonsense".to_vec()).await;
    let repository = open(&memory, 51).await.unwrap();
    collect(&repository).await;
    assert_eq!(memory.keys("packs/").await, packs);
    repository.delete_snapshot(id(&made[2].0), "deleted").await.unwrap();
    collect(&repository).await;
    let mut kept = Kept(made.clone());
    kept.0.remove(2);
    kept.0.remove(0);
    kept.assert_alone(&memory, "after the deletion").await;
}

/// A scene with something for every part of a collection: packs that are dead, packs that are mostly dead, a pack that was
/// repacked before and is mostly dead again, an attempt that was cancelled, and one that is not decided.
struct Scene {
    memory: Arc<Memory>,
    kept: Kept,
}

/// An image of `packs` parts of 2 MiB, each of which lies in a pack of its own.
async fn parts(repository: &Repository, image: &mut Image, packs: u64, random: &Seeded) -> Vec<(Root, Cut)> {
    let mut made: Vec<(Root, Cut)> = Vec::new();
    for part in 0..packs {
        image.write_noise(part * 512, 512, random);
        let against = made.last().map_or(Against::Nothing, |(root, _)| base(root));
        let cut = image.cut();
        made.push((offload(repository, &format!("part{part}"), &cut, against).await.unwrap(), cut));
    }
    made
}

/// Overwrites all of each part but `blocks` blocks, and cuts.
async fn overwrite(
    repository: &Repository,
    image: &mut Image,
    name: &str,
    (packs, blocks): (u64, u64),
    on: &Root,
    random: &Seeded,
) -> (Root, Cut) {
    for part in 0..packs {
        image.write_text(part * 512 + blocks, 512 - blocks, random);
    }
    let cut = image.cut();
    (offload(repository, name, &cut, base(on)).await.unwrap(), cut)
}

async fn scene() -> Scene {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(32);
    let mut image = Image::new(4 * 512);
    let made = parts(&repository, &mut image, 4, &random).await;
    let last = &made.last().unwrap().0;
    let (second, _) = overwrite(&repository, &mut image, "second", (4, 200), last, &random).await;
    for (root, _) in &made {
        repository.delete_snapshot(id(root), "deleted").await.unwrap();
    }
    let report = collect(&repository).await;
    assert_eq!((report.repacked.packs, report.repacked.into.objects), (4, 1), "{report:?}");
    let third = overwrite(&repository, &mut image, "third", (4, 64), &second, &random).await;
    repository.delete_snapshot(id(&second), "deleted").await.unwrap();
    // What is dead all over, and what was cancelled.
    let other = offload(&repository, "other", &image.scan(), Against::Nothing).await.unwrap();
    repository.delete_snapshot(id(&other), "deleted").await.unwrap();
    memory.arm(Some(Stop::After(6)));
    let doomed = open(&memory, 60).await;
    if let Ok(doomed) = doomed {
        let _ = offload(&doomed, "cancelled", &image.scan(), Against::Nothing).await;
    }
    memory.arm(None);
    repository.delete_snapshot(repository.snapshot_id("cancelled", 0), "cancelled").await.unwrap();
    Scene { memory, kept: Kept(vec![third]) }
}

#[tokio::test]
async fn packs_that_are_mostly_dead_are_repacked_and_still_restore() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(33);
    let mut image = Image::new(8 * 512);
    let made = parts(&repository, &mut image, 8, &random).await;
    let last = made.last().unwrap().clone();
    let second = overwrite(&repository, &mut image, "second", (8, 100), &last.0, &random).await;
    // As long as somebody refers to all of them, there is nothing to repack.
    assert_eq!(plan(&repository).await.repack, []);

    for (root, _) in &made {
        repository.delete_snapshot(id(root), "deleted").await.unwrap();
    }
    let planned = plan(&repository).await;
    assert_eq!(planned.repack.len(), 8);
    assert!(planned.repack.iter().all(|repack| repack.pack == repack.at && repack.utilisation < 50), "{planned:?}");
    let without = Options { repack: false, ..Options::default() };
    let report = repository.collect(&without, Default::default(), Default::default()).await.unwrap();
    assert_eq!((report.plan.repack.len(), report.repacked.packs), (0, 0));
    let before = memory.objects().await.into_iter().filter(|(key, _)| key.starts_with("packs/"));
    let before: usize = before.map(|(_, bytes)| bytes.len()).sum();

    let asked = repository.store().requests();
    let report = collect(&repository).await;
    let asked = repository.store().requests() - asked;
    assert_eq!(report.cost, asked);
    assert_eq!((report.repacked.packs, report.repacked.into.objects), (8, 1), "{report:?}");
    assert_eq!(report.repacked.freed.objects, 8);
    assert_eq!(report.repacked.stopped, None);
    assert_eq!(report.repacked.skipped, []);
    // Beside what finding it out took: reading each, and its record; one pack; taking over, proving and giving up.
    let spent = asked.total() - report.plan.cost.total();
    assert!(spent <= 8 * 2 + 1 + 4 + 2, "{spent} requests: {report:?}");
    let after = memory.objects().await.into_iter().filter(|(key, _)| key.starts_with("packs/"));
    let after: usize = after.map(|(_, bytes)| bytes.len()).sum();
    assert!(after < before * 2 / 3, "{after} of {before} bytes");
    assert_eq!(memory.keys("relocated/").await.len(), 8);

    // Read by a process that knows nothing, and by one that had read the packs before.
    let mut kept = Kept(vec![second.clone()]);
    kept.assert_alone(&memory, "after repacking").await;
    assert_same(&restore(&repository, &second.0).await.unwrap(), &second.1.bytes, "by the collector itself");
    let checked = repository.check(Level::Structure, Default::default(), Default::default()).await.unwrap();
    assert_eq!(checked.damages, []);

    // Built upon, compared with, and repacked again.
    let third = overwrite(&repository, &mut image, "third", (8, 30), &second.0, &random).await;
    let scanned = image.scan();
    let compared = offload(&repository, "compared", &scanned, Against::Content(id(&third.0))).await.unwrap();
    assert!(compared.statistics.stored_bytes < 4 << 20, "{:?}", compared.statistics);
    repository.delete_snapshot(id(&compared), "deleted").await.unwrap();
    repository.delete_snapshot(id(&second.0), "deleted").await.unwrap();
    let targets = memory.keys("packs/").await;
    let report = collect(&repository).await;
    assert!(report.repacked.packs >= 8, "{report:?}");
    assert!(report.plan.repack.iter().filter(|repack| repack.pack != repack.at).count() == 8, "{report:?}");
    let left = memory.keys("packs/").await;
    assert!(targets.iter().any(|target| !left.contains(target)), "the target before is gone");
    kept.0 = vec![third.clone()];
    kept.assert_alone(&memory, "after repacking again").await;
    assert_same(&restore(&repository, &third.0).await.unwrap(), &third.1.bytes, "by one that knew the target before");

    repository.delete_snapshot(id(&third.0), "deleted").await.unwrap();
    collect(&repository).await;
    for folder in ["packs/", "runs/", "relocated/", "uploads/"] {
        assert_eq!(memory.keys(folder).await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn invariant_3_a_collection_may_die_at_any_request() {
    let scene = scene().await;
    let whole = scene.memory.fork().await;
    let repository = open(&whole, 70).await.unwrap();
    whole.arm(None);
    let report = collect(&repository).await;
    let operations = whole.operations();
    assert!(report.repacked.packs >= 4, "{report:?}");
    assert!(found(&report.plan, Kind::Pack, Reason::Unreferenced) >= 1, "{report:?}");
    scene.kept.assert_alone(&whole, "uninterrupted").await;

    for stop in (0..operations.len()).flat_map(|at| [Stop::Before(at), Stop::After(at)]) {
        let what = format!(
            "{stop:?}: {:?}",
            operations.get(match stop {
                Stop::Before(at) | Stop::After(at) => at,
            })
        );
        let memory = scene.memory.fork().await;
        let repository = open(&memory, 70).await.unwrap();
        memory.arm(Some(stop));
        let _ = repository.collect(&Options::default(), Default::default(), Default::default()).await;
        assert!(memory.stopped(), "{what}");
        memory.arm(None);
        scene.kept.assert_whole(&memory, &what).await;
        collect(&open(&memory, 71).await.unwrap()).await;
        scene.kept.assert_alone(&memory, &what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_collectors_at_once_do_no_harm() {
    let scene = scene().await;
    for seed in 0..8 {
        let memory = scene.memory.fork().await;
        let (one, other) = (open(&memory, 80 + seed).await.unwrap(), open(&memory, 180 + seed).await.unwrap());
        let options = Options::default();
        let run = |repository: Repository, ahead: u64| {
            let options = options.clone();
            async move {
                for _ in 0..ahead {
                    tokio::task::yield_now().await;
                }
                repository.collect(&options, Default::default(), Default::default()).await.unwrap()
            }
        };
        let (one, other) = tokio::join!(run(one, seed * 7), run(other, 0));
        let what = format!("{seed}: {one:?} {other:?}");
        scene.kept.assert_whole(&memory, &what).await;
        collect(&open(&memory, 90).await.unwrap()).await;
        scene.kept.assert_alone(&memory, &what).await;
    }
}

/// A store that takes no more packs, or lets some objects not be deleted.
#[derive(Debug)]
struct Refusing {
    inner: Arc<Memory>,
    /// How many more packs it takes.
    room: AtomicUsize,
    locked: bool,
}

impl fmt::Display for Refusing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refusing")
    }
}

#[async_trait]
impl ObjectStore for Refusing {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        let takes = |room: usize| room.checked_sub(1);
        if key.as_ref().starts_with("packs/")
            && self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, takes).is_err()
        {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(StoreError::Generic { store: "refusing", source: full.into() });
        }
        self.inner.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> StoreResult<Box<dyn MultipartUpload>> {
        panic!("nothing is put in parts")
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.inner.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        let (inner, locked) = (Arc::clone(&self.inner), self.locked);
        let deleted = keys.and_then(move |key| {
            let inner = Arc::clone(&inner);
            async move {
                if locked && key.as_ref().starts_with("packs/") {
                    return Err(StoreError::PermissionDenied { path: key.into(), source: "retention".into() });
                }
                inner.delete(&key).await.map(|()| key)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> StoreResult<()> {
        panic!("nothing is copied")
    }
}

async fn refusing(memory: &Arc<Memory>, room: usize, locked: bool) -> Repository {
    let store = Refusing { inner: Arc::clone(memory), room: AtomicUsize::new(room), locked };
    Repository::open(Store::new(Arc::new(store), "memory:///"), &master(), seams(95)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_full_store_is_emptied_as_far_as_no_copy_is_needed() {
    let scene = scene().await;
    let full = refusing(&scene.memory, 0, false).await;
    let report = collect(&full).await;
    assert!(found(&report.plan, Kind::Pack, Reason::Unreferenced) >= 1, "{report:?}");
    assert_eq!(report.deleted, report.plan.garbage);
    assert!(!report.plan.repack.is_empty());
    assert_eq!((report.repacked.packs, report.repacked.stopped.as_deref()), (0, Some("the store is full")));
    scene.kept.assert_whole(&scene.memory, "full").await;
    collect(&open(&scene.memory, 96).await.unwrap()).await;
    scene.kept.assert_alone(&scene.memory, "with room again").await;
}

#[tokio::test]
async fn what_is_under_retention_is_left_and_costs_no_second_copy() {
    let scene = scene().await;
    let packs = scene.memory.keys("packs/").await;
    let locked = refusing(&scene.memory, usize::MAX, true).await;
    let report = collect(&locked).await;
    assert!(report.repacked.packs >= 4 && report.locked.objects >= 2, "{report:?}");
    assert_eq!(report.repacked.freed.objects, 0);
    assert!(report.deleted.iter().all(|garbage| garbage.kind != Kind::Pack), "{report:?}");
    let left = scene.memory.keys("packs/").await;
    assert!(packs.iter().all(|pack| left.contains(pack)));
    scene.kept.assert_whole(&scene.memory, "locked").await;

    let again = collect(&locked).await;
    assert_eq!(again.repacked.packs, 0, "{again:?}");
    assert_eq!(scene.memory.keys("packs/").await, left);
    // The retention ends.
    collect(&open(&scene.memory, 97).await.unwrap()).await;
    scene.kept.assert_alone(&scene.memory, "after the retention").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restores_go_on_while_their_packs_are_repacked() {
    let scene = scene().await;
    let done = tokio_util::sync::CancellationToken::new();
    let restoring = tokio::spawn({
        let (memory, done) = (Arc::clone(&scene.memory), done.clone());
        let (root, cut) = scene.kept.0[0].clone();
        async move {
            let repository = open(&memory, 61).await.unwrap();
            let mut restored = 0;
            while !done.is_cancelled() || restored < 2 {
                assert_same(&restore(&repository, &root).await.unwrap(), &cut.bytes, "while it is repacked");
                restored += 1;
            }
            restored
        }
    });
    let repository = open(&scene.memory, 62).await.unwrap();
    let report = collect(&repository).await;
    assert!(report.repacked.packs >= 4, "{report:?}");
    // And again into another pack, of everything.
    let all = Options { threshold: 100, ..Options::default() };
    repository.collect(&all, Default::default(), Default::default()).await.unwrap();
    done.cancel();
    assert!(restoring.await.unwrap() >= 2);
    scene.kept.assert_alone(&scene.memory, "afterwards").await;
}
