//! The story that is told on every store: a repository is made, filled, thinned out, restored, checked and collected.
//!
//! Each step is told again while it ends with an error that allows for it, as a driver would. Between attempts, and at the
//! end, a second handle on the undisturbed store sees what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use tokio_util::sync::CancellationToken;
use varve_repository::{
    Error, ErrorKind, Repository, Result, SnapshotState, check::Level, collect::Options, id::SnapshotId,
    offload::Against, progress::Progress, record::snapshot::Root, store::Store,
};

use crate::image::{self, Cut, Image, Seeded, assert_same, base, id};

/// Most attempts at one step.
const ATTEMPTS: usize = 3;

/// What is told, in this order; some steps more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Init,
    Full,
    Incremental,
    Delete,
    Restore,
    Check,
    Collect,
}

impl Step {
    pub(crate) const ALL: [Self; 7] =
        [Self::Init, Self::Full, Self::Incremental, Self::Delete, Self::Restore, Self::Check, Self::Collect];

    /// Kinds of requests that the step makes, by method and a part of the path; at least one of each.
    pub(crate) fn requests(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Init => &[("PUT", "/repository"), ("GET", "/repository"), ("PUT", "/probe/"), ("POST", "delete")],
            Self::Full => &[("PUT", "/packs/"), ("PUT", "/uploads/"), ("PUT", "/runs/"), ("PUT", "/snapshots/")],
            Self::Incremental => &[
                ("PUT", "/packs/"),
                ("GET", "/snapshots/"),
                ("PUT", "/runs/"),
                ("PUT", "/snapshots/"),
                ("POST", "delete"),
            ],
            Self::Delete => &[("PUT", "/snapshots/"), ("GET", "/snapshots/")],
            Self::Restore => &[("GET", "/packs/"), ("GET", "/runs/"), ("GET", "/snapshots/")],
            Self::Check => &[("GET", "/packs/"), ("GET", "/runs/"), ("GET", "list-type=2")],
            Self::Collect => &[("POST", "delete"), ("GET", "/runs/"), ("GET", "list-type=2")],
        }
    }
}

/// Where the story is told.
pub(crate) struct Scene<'a> {
    /// The store as the story's people see it.
    pub(crate) open: Box<dyn Fn() -> Store + 'a>,
    /// The same, undisturbed.
    pub(crate) calm: Box<dyn Fn() -> Store + 'a>,
    /// Told before each step, and not again when the step is.
    pub(crate) before: Box<dyn FnMut(Step) + 'a>,
    /// Told of each failure, before the step is told again.
    pub(crate) failed: Box<dyn FnMut(&Error) + 'a>,
}

/// What went wrong, in the people's eyes.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) failures: BTreeMap<Step, Vec<ErrorKind>>,
}

struct Story<'a> {
    scene: Scene<'a>,
    outcome: Outcome,
}

/// Tells the story.
pub(crate) async fn suite(scene: Scene<'_>) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let random = Seeded::new(77);
    let mut story = Story { scene, outcome: Outcome::default() };
    let store = (story.scene.open)();
    let repository = story
        .step(Step::Init, async || Repository::open_or_init(store.clone(), &image::master(), image::seams(1)).await)
        .await;
    let calm = Repository::open((story.scene.calm)(), &image::master(), image::seams(2)).await.unwrap();
    assert_eq!(calm.uuid(), repository.uuid());

    let mut model: BTreeMap<SnapshotId, (Root, Arc<Vec<u8>>)> = BTreeMap::new();
    let mut image = large(&random);
    let mut against = Against::Nothing;
    for number in 0..3 {
        let cut = image.cut();
        let journal = folder.path().join(format!("journal-{number}"));
        let step = if number == 0 { Step::Full } else { Step::Incremental };
        let name = format!("snapshot {number}");
        let known: BTreeSet<SnapshotId> = model.keys().copied().collect();
        let root = story
            .step(step, async || {
                let mut request = image::request(&repository, &name, &cut, against);
                request.journal = Some(journal.clone());
                let snapshot = request.description.id;
                let offloaded = repository.offload(request).await;
                if offloaded.is_err() {
                    nothing_partial_is_seen(&calm, &known, snapshot, &cut).await;
                }
                offloaded
            })
            .await;
        nothing_was_sent_twice(&calm, story.outcome.failures.values().map(Vec::len).sum()).await;
        against = base(&root);
        model.insert(id(&root), (root, cut.bytes));
        for _ in 0..200 {
            image.write_noise(random.below(image.blocks()), 1, &random);
        }
        image.write_zeroes(random.below(1000), 40, number == 0);
    }

    let first = repository.snapshot_id("snapshot 0", 0);
    story.step(Step::Delete, async || repository.delete_snapshot(first, "deleted").await).await;
    model.remove(&first);
    assert!(matches!(calm.snapshot(first).await.unwrap(), SnapshotState::Gone(_)));

    let collected = story
        .step(Step::Collect, async || {
            repository.collect(&Options::default(), Progress::default(), CancellationToken::new()).await
        })
        .await;
    assert_eq!(collected.plan.unreadable, []);

    let last = *model.keys().next_back().unwrap();
    let restored = story
        .step(Step::Restore, async || match repository.snapshot(last).await? {
            SnapshotState::Committed(root) => image::restore(&repository, &root).await,
            other => panic!("{other:?}"),
        })
        .await;
    assert_same(&restored, &model[&last].1, "restored through the disturbance");

    let report = story
        .step(Step::Check, async || {
            repository.check(Level::Content, Progress::default(), CancellationToken::new()).await
        })
        .await;
    assert_eq!((report.damages.as_slice(), report.snapshots), (&[][..], 2));
    (story.scene.before)(Step::Check);

    // What is there in the end, seen undisturbed.
    let fresh = Repository::open((story.scene.calm)(), &image::master(), image::seams(3)).await.unwrap();
    let listed: BTreeSet<SnapshotId> = fresh.snapshots().await.unwrap().iter().map(|root| id(root)).collect();
    assert_eq!(listed, model.keys().copied().collect());
    for (root, bytes) in model.values() {
        assert_eq!(fresh.snapshot(id(root)).await.unwrap(), SnapshotState::Committed(Box::new(root.clone())));
        assert_same(&image::restore(&fresh, root).await.unwrap(), bytes, &root.description.name);
    }
    assert_eq!(fresh.intents().await.unwrap(), [], "no intent is left behind");
    let plan = fresh.plan_collection(&Options::default(), Progress::default(), CancellationToken::new()).await.unwrap();
    assert_eq!((plan.garbage.as_slice(), plan.kept.snapshots), (&[][..], 2), "the collection left no garbage");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "no journal is left behind");
    story.outcome
}

impl Story<'_> {
    /// Tells a step until it is done.
    async fn step<T>(&mut self, step: Step, mut tell: impl AsyncFnMut() -> Result<T>) -> T {
        (self.scene.before)(step);
        for attempt in 1.. {
            match tell().await {
                Ok(done) => return done,
                Err(error) => {
                    let kind = error.kind();
                    assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Denied), "{step:?}: {error:?}");
                    assert!(attempt < ATTEMPTS, "{step:?} is not done after {attempt} attempts: {error:?}");
                    self.outcome.failures.entry(step).or_default().push(kind);
                    (self.scene.failed)(&error);
                }
            }
        }
        unreachable!("attempts are bounded")
    }
}

/// An image that takes three packs.
pub(crate) fn large(random: &Seeded) -> Image {
    let mut image = Image::new(20_000);
    image.write_noise(0, 18_500, random);
    image.write_text(18_500, 1000, random);
    image
}

/// After an attempt that failed the snapshot is there whole or not at all, and nothing else has changed.
async fn nothing_partial_is_seen(calm: &Repository, known: &BTreeSet<SnapshotId>, snapshot: SnapshotId, cut: &Cut) {
    let mut listed: BTreeSet<SnapshotId> = calm.snapshots().await.unwrap().iter().map(|root| id(root)).collect();
    if let SnapshotState::Committed(root) = calm.snapshot(snapshot).await.unwrap() {
        assert_same(&image::restore(calm, &root).await.unwrap(), &cut.bytes, "committed though it failed");
        listed.remove(&snapshot);
    }
    assert_eq!(&listed, known);
}

/// Packs that no root uses were under way, two at a time, when an attempt failed.
async fn nothing_was_sent_twice(calm: &Repository, failures: usize) {
    let stats = calm.stats().await.unwrap();
    let used = calm.snapshots().await.unwrap().iter().map(|root| root.statistics.packs).sum::<u64>();
    let spare = stats.packs - used;
    assert!(spare <= 2 * failures as u64, "{spare} packs were sent for nothing in {failures} failures");
}

/// Files of a local folder that are no objects.
pub(crate) fn staged_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(staged_files(&entry.path()));
        } else if name.contains('#') && !name.starts_with('.') {
            found.push(name);
        }
    }
    found
}
