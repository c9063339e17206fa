//! What all machines share, and what must be true of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio_util::sync::CancellationToken;
use varve_repository::{
    Repository, SnapshotState,
    check::Level,
    crypto::MasterKey,
    id::SnapshotId,
    mutation::Mutation,
    progress::Progress,
    record::snapshot::Root,
    seam::{Seams, Work},
    store::Store,
};

use crate::{
    bucket::Bucket,
    dice::{Dice, Skewed},
    link::{Link, Still},
    network::{Network, Weather},
    process::Process,
    trace::Trace,
    volume::{Cut, Restored},
    writer::Task,
};

/// A snapshot as the model knows it.
#[derive(Clone)]
pub(crate) struct Known {
    /// The image at its cut.
    pub(crate) bytes: Arc<Vec<u8>>,
    /// Somebody was told that it is committed.
    pub(crate) committed: bool,
    /// Somebody began to delete it.
    pub(crate) asked: bool,
    /// Somebody was told that it is deleted.
    pub(crate) gone: bool,
}

/// Every snapshot that was ever cut.
pub(crate) type Model = BTreeMap<SnapshotId, Known>;

/// A repository, those who use it, and the model that it is compared with.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) network: Arc<Network>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) model: Mutex<Model>,
    /// One in so many cuts a second machine tries to write too.
    pub(crate) rivalry: u64,
    /// Those cuts.
    pub(crate) rivals: Mutex<Vec<Task>>,
    /// What each volume's snapshot under way builds upon.
    pub(crate) built_on: Mutex<BTreeMap<String, Option<SnapshotId>>>,
    /// Writers that have not finished.
    pub(crate) writers: AtomicUsize,
    /// A second store, for a repository that the first one is copied to.
    pub(crate) mirror: Arc<Network>,
    mutation: Option<Mutation>,
    started: tokio::time::Instant,
    violation: Mutex<Option<String>>,
    /// Cancelled at the first violation.
    pub(crate) failed: CancellationToken,
    oracle: Oracle,
    mirror_oracle: Oracle,
}

/// Sees a store as it is at one moment.
#[derive(Default)]
struct Oracle {
    still: Arc<Still>,
    repository: tokio::sync::Mutex<Option<Repository>>,
}

pub(crate) fn master() -> MasterKey {
    MasterKey::generate(&Dice::new(0, "master key"))
}

/// A bucket with a new repository in it: of one of two.
fn initial(which: u8) -> Bucket {
    static INITIAL: OnceLock<[Bucket; 2]> = OnceLock::new();
    let initial = INITIAL.get_or_init(|| {
        // In a thread of its own: this one may be within a runtime.
        let init = |which| std::thread::scope(|scope| scope.spawn(|| crate::runtime().block_on(new(which))).join());
        [0, 1].map(|which| init(which).unwrap())
    });
    initial[usize::from(which)].clone()
}

async fn new(which: u64) -> Bucket {
    let trace = Arc::new(Trace::new(false));
    let network = Network::new("new:///", Dice::new(which, "network"), Weather::default(), Arc::clone(&trace));
    let process = Process::new("init".into(), trace, Dice::new(which, "process"), None, 0);
    let dice = Arc::new(Dice::new(which, "init"));
    let clock = Arc::new(Skewed { started: tokio::time::Instant::now(), off: 0 });
    let store = Store::new(Arc::new(Link { network: Arc::clone(&network), process }), "simulated:///");
    let seams = Seams::new(clock, Arc::clone(&dice) as _, Work::Inline);
    Repository::init(store.with_entropy(dice), &master(), seams).await.unwrap();
    network.bucket.lock().unwrap().clone()
}

impl World {
    pub(crate) fn new(
        seed: u64,
        [network, mirror]: [Arc<Network>; 2],
        trace: Arc<Trace>,
        mutation: Option<Mutation>,
    ) -> Arc<Self> {
        *network.bucket.lock().unwrap() = initial(0);
        *mirror.bucket.lock().unwrap() = initial(1);
        Arc::new(Self {
            seed,
            network,
            trace,
            model: Mutex::default(),
            rivalry: 1 + Dice::new(seed, "rivalry").below(4),
            rivals: Mutex::default(),
            built_on: Mutex::default(),
            writers: AtomicUsize::new(0),
            mirror,
            mutation,
            started: tokio::time::Instant::now(),
            violation: Mutex::default(),
            failed: CancellationToken::new(),
            oracle: Oracle::default(),
            mirror_oracle: Oracle::default(),
        })
    }

    /// Tells whether nothing more is going to be written.
    pub(crate) fn is_over(&self) -> bool {
        self.writers.load(Ordering::Relaxed) == 0
    }

    /// Takes down that something is wrong; the first such thing counts.
    pub(crate) fn violated(&self, what: String) {
        self.trace.note("!", format_args!("{what}"));
        self.violation.lock().unwrap().get_or_insert(what);
        self.failed.cancel();
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.lock().unwrap().clone()
    }

    /// Opens the repository as a process.
    pub(crate) async fn open(&self, process: &Arc<Process>) -> Repository {
        self.open_on(&self.network, process).await
    }

    /// Opens the repository that is copied to.
    pub(crate) async fn open_mirror(&self, process: &Arc<Process>) -> Repository {
        self.open_on(&self.mirror, process).await
    }

    async fn open_on(&self, network: &Arc<Network>, process: &Arc<Process>) -> Repository {
        let dice = Arc::new(process.entropy.clone());
        let off = i64::try_from(dice.below(200_000_000_000)).unwrap() - 100_000_000_000;
        loop {
            let link = Link { network: Arc::clone(network), process: Arc::clone(process) };
            let store = Store::new(Arc::new(link), network.name).with_entropy(Arc::clone(&dice) as _);
            let clock = Arc::new(Skewed { started: self.started, off });
            let store = if self.mutation == Some(Mutation::TrustsAlreadyExists) { store.credulous() } else { store };
            let mut seams = Seams::new(clock, Arc::clone(&dice) as _, Work::Inline);
            seams.mutation = self.mutation;
            match Repository::open(store, &master(), seams).await {
                Ok(repository) => return repository,
                Err(error) if error.is_transient() => process.pause(dice.time(100, 10_000)).await,
                Err(error) => self.violated(format!("{} cannot open the repository: {error}", process.name)),
            }
        }
    }

    /// Enters a cut in the model.
    pub(crate) fn cut(&self, cut: &Cut) {
        let known = Known { bytes: Arc::clone(&cut.bytes), committed: false, asked: false, gone: false };
        self.model.lock().unwrap().insert(cut.snapshot, known);
    }

    /// Returns what the model knows of a snapshot.
    pub(crate) fn known(&self, id: SnapshotId) -> Known {
        self.model.lock().unwrap()[&id].clone()
    }

    /// Changes what the model knows of a snapshot.
    pub(crate) fn learn(&self, id: SnapshotId, learn: impl FnOnce(&mut Known)) {
        learn(self.model.lock().unwrap().get_mut(&id).expect("only what was cut is spoken of"));
    }

    /// Restores a snapshot and compares it with the model: `Ok` where every byte is right.
    pub(crate) async fn restores(&self, repository: &Repository, root: &Root) -> Result<(), varve_repository::Error> {
        let target = Arc::new(Restored::new(root.description.capacity_bytes));
        let to = Arc::clone(&target) as _;
        repository.hydrate(root, to, Progress::default(), CancellationToken::new()).await?;
        let (id, restored, expected) = (root.description.id, target.bytes(), self.known(root.description.id).bytes);
        if restored != *expected {
            let blocks = || restored.chunks(4096).zip(expected.chunks(4096));
            let differ: Vec<usize> = (0..).zip(blocks()).filter(|(_, (one, two))| one != two).map(|(n, _)| n).collect();
            let lengths = (restored.len() / 4096, expected.len() / 4096);
            self.violated(format!(
                "snapshot {id} restores, and holds something else than was cut: {lengths:?} blocks, {differ:?} differ"
            ));
        }
        Ok(())
    }

    /// Looks at everything as it is at this moment: every root restores, and what must be there or gone is.
    pub(crate) async fn verify(&self, when: &str) {
        let model = self.model.lock().unwrap().clone();
        self.look(&self.network, &self.oracle, when, async |repository, roots| {
            for root in roots.iter().map(|root| root.description.id) {
                if model.get(&root).is_none_or(|known| known.gone) {
                    self.violated(format!("{when}: snapshot {root} was deleted, and stands"));
                }
            }
            for (id, known) in &model {
                let stands = roots.iter().any(|root| root.description.id == *id);
                if known.committed && !known.asked && !stands {
                    self.violated(format!("{when}: snapshot {id} was committed, and is not there"));
                }
                if known.gone && !matches!(repository.snapshot(*id).await, Ok(SnapshotState::Gone(_))) {
                    self.violated(format!("{when}: snapshot {id} was deleted, and has no tombstone"));
                }
            }
        })
        .await;
    }

    /// Looks at the copy in the same way.
    pub(crate) async fn verify_mirror(&self, when: &str) {
        self.look(&self.mirror, &self.mirror_oracle, when, async |_, _| {}).await;
    }

    /// Restores every root of a store as it is at this moment, and hands over what stands.
    async fn look(
        &self,
        network: &Network,
        oracle: &Oracle,
        when: &str,
        judge: impl AsyncFnOnce(&Repository, &[Arc<Root>]),
    ) {
        // Only one at a time has a look: it takes no time, but what others do at the same moment may come in between.
        let bucket = network.bucket.lock().unwrap().clone();
        let mut repository = oracle.repository.lock().await;
        *oracle.still.0.lock().unwrap() = bucket;
        if repository.is_none() {
            let dice = Arc::new(Dice::new(self.seed, "oracle"));
            let clock = Arc::new(Skewed { started: self.started, off: 0 });
            let seams = Seams::new(clock, dice, Work::Inline);
            let store = Store::new(Arc::clone(&oracle.still) as _, "still:///");
            *repository = Some(Repository::open(store, &master(), seams).await.expect("it was opened before"));
        }
        let repository = repository.as_ref().expect("it was opened just now");
        let roots = match repository.snapshots().await {
            Ok(roots) => roots,
            Err(error) => return self.violated(format!("{when}: the roots cannot be read: {error}")),
        };
        for root in &roots {
            let id = root.description.id;
            if let Err(error) = self.restores(repository, root).await {
                self.violated(format!("{when}: snapshot {id} of {} does not restore: {error}", network.name));
            }
        }
        judge(repository, &roots).await;
        let name = network.name;
        self.trace.note("oracle", format_args!("{when}: {} roots of {name} are as they should be", roots.len()));
    }

    /// Checks a repository that nobody uses.
    pub(crate) async fn check(&self, repository: &Repository, when: &str) {
        match repository.check(Level::Content, Progress::default(), CancellationToken::new()).await {
            Ok(report) if report.damages.is_empty() => {}
            Ok(report) => self.violated(format!("{when}: a check finds damage: {:?}", report.damages)),
            Err(error) => self.violated(format!("{when}: a check fails: {error}")),
        }
    }
}
