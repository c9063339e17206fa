//! Writers: volumes that are changed, cut and offloaded, by the machine that they are on and sometimes by another too.

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use varve_repository::{
    Error, Repository,
    block::Change,
    id::SnapshotId,
    offload::{Against, Request},
    progress::Progress,
    record::{
        snapshot::SnapshotDescription,
        volume::{OffloadParameters, Presentation},
    },
};

use crate::{
    dice::Dice,
    process::Process,
    volume::{Changes, Cut, Image},
    world::World,
};

/// A volume on a machine. It outlives the machine's processes.
pub(crate) struct Volume {
    name: String,
    image: Image,
    /// Snapshots yet to be made.
    left: usize,
    /// The snapshot being made.
    task: Option<Task>,
    journal: PathBuf,
    finished: bool,
    /// A volume whose last cut this one begins as.
    origin: Option<Arc<Mutex<Self>>>,
    dice: Dice,
}

/// A cut to be offloaded.
#[derive(Clone)]
pub(crate) struct Task {
    volume: String,
    name: String,
    cut: Cut,
    against: Against,
    changes: Vec<Change>,
}

/// What became of an attempt.
enum Outcome {
    /// The snapshot is committed, or gone.
    Decided,
    /// What it was to build upon is gone.
    BaseGone,
    /// It can be tried again.
    Again,
}

impl Volume {
    pub(crate) fn new(name: String, image: Image, left: usize, journal: PathBuf, dice: Dice) -> Self {
        Self { name, image, left, task: None, journal, finished: false, origin: None, dice }
    }

    /// The same as a clone of another volume.
    pub(crate) fn of(self, origin: &Arc<Mutex<Self>>) -> Self {
        Self { origin: Some(Arc::clone(origin)), ..self }
    }

    /// What a crash leaves of the journal: torn at the end, or, where the disk is lost, nothing.
    pub(crate) fn crash(&mut self) {
        if self.dice.one_in(4) {
            let _ = std::fs::remove_file(&self.journal);
        } else if self.dice.one_in(2)
            && let Ok(mut file) = std::fs::OpenOptions::new().append(true).open(&self.journal)
        {
            file.write_all(&vec![1; self.dice.index(100)]).unwrap();
        }
        if self.dice.one_in(20) {
            // Nobody comes back to it.
            self.task = None;
        }
    }

    /// Returns the snapshot to be made now, if there is one left.
    fn next(&mut self, world: &World, repository: &Repository) -> Option<Task> {
        if self.task.is_none() {
            self.left = self.left.checked_sub(1)?;
            if let Some(origin) = self.origin.take()
                && let Some(image) = origin.lock().unwrap().image.at_last_cut()
            {
                self.image = image;
            }
            let name = format!("{}-{}", self.name, self.image.cuts.len());
            self.image.change(&self.dice);
            let cut = self.image.cut(repository.snapshot_id(&name, 0));
            world.cut(&cut);
            let (against, changes) = self.against(world, &cut, true);
            let task = Task::new(&self.name, &name, cut, against, changes);
            world.trace.note(&self.name, format_args!("cuts {} {} against {against:?}", task.name, task.cut.snapshot));
            if self.dice.one_in(world.rivalry) {
                world.rivals.lock().unwrap().push(task.clone());
            }
            self.task = Some(task);
        }
        let built_on = self.task.as_ref().and_then(Task::base);
        world.built_on.lock().unwrap().insert(self.name.clone(), built_on);
        self.task.clone()
    }

    /// Decides what a cut is offloaded against.
    fn against(&self, world: &World, cut: &Cut, first: bool) -> (Against, Vec<Change>) {
        let model = world.model.lock().unwrap();
        let committed = |cut: &&Cut| model.get(&cut.snapshot).is_some_and(|known| known.committed);
        let earlier: Vec<&Cut> =
            self.image.cuts.iter().filter(|earlier| earlier.snapshot != cut.snapshot).filter(committed).collect();
        if let Some(last) = earlier.last()
            && (first || self.dice.one_in(3))
            && !self.dice.one_in(4)
        {
            let base = if self.dice.one_in(4) { earlier[self.dice.index(earlier.len())] } else { last }.snapshot;
            return (Against::Base(base), self.image.changes_since(base).expect("it is among the cuts"));
        }
        let others: Vec<_> = model.iter().filter(|(_, known)| known.committed).map(|(id, _)| *id).collect();
        if others.is_empty() || self.dice.one_in(3) {
            let against = if self.dice.one_in(4) { Against::Anew } else { Against::Nothing };
            return (against, cut.allocated());
        }
        (Against::Content(others[self.dice.index(others.len())]), cut.allocated())
    }
}

impl Task {
    pub(crate) fn new(volume: &str, name: &str, cut: Cut, against: Against, changes: Vec<Change>) -> Self {
        Self { volume: volume.into(), name: name.into(), cut, against, changes }
    }

    /// The snapshot that it makes.
    pub(crate) fn snapshot(&self) -> SnapshotId {
        self.cut.snapshot
    }

    /// The snapshot that it builds upon.
    fn base(&self) -> Option<SnapshotId> {
        match self.against {
            Against::Nothing | Against::Anew => None,
            Against::Base(base) | Against::Content(base) => Some(base),
        }
    }
}

/// Makes all snapshots of a volume.
pub(crate) async fn write(
    world: Arc<World>,
    repository: Repository,
    process: Arc<Process>,
    volume: Arc<Mutex<Volume>>,
) {
    loop {
        let Some(task) = volume.lock().unwrap().next(&world, &repository) else { break };
        let (journal, dice) = {
            let volume = volume.lock().unwrap();
            (volume.journal.clone(), volume.dice.clone())
        };
        let journal = (!dice.one_in(4)).then_some(journal);
        match attempt(&world, &repository, &process, &task, (journal, CancellationToken::new())).await {
            Outcome::Decided => volume.lock().unwrap().task = None,
            Outcome::BaseGone => {
                let mut volume = volume.lock().unwrap();
                let (against, changes) = volume.against(&world, &task.cut, false);
                world.trace.note(&process.name, format_args!("turns to {against:?} for {}", task.name));
                volume.task = Some(Task { against, changes, ..task });
            }
            Outcome::Again => {}
        }
        process.pause(dice.time(10, 60_000)).await;
    }
    // A later process of the machine finds nothing left to do.
    if !std::mem::replace(&mut volume.lock().unwrap().finished, true) {
        world.writers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Offloads cuts of other machines, as a second attempt beside theirs.
pub(crate) async fn rival(world: Arc<World>, repository: Repository, process: Arc<Process>, dice: Dice) {
    while !world.is_over() {
        let task = world.rivals.lock().unwrap().pop();
        if let Some(task) = task {
            for _ in 0..1 + dice.below(3) {
                // Often it enters itself beside the other, and is never heard of again.
                let cancel = CancellationToken::new();
                let limit = (!dice.one_in(3)).then(|| dice.time(10, 20_000));
                let attempt = attempt(&world, &repository, &process, &task, (None, cancel.clone()));
                let expire = async {
                    if let Some(limit) = limit {
                        tokio::time::sleep(limit).await;
                        cancel.cancel();
                    }
                };
                let (outcome, ()) = futures::join!(attempt, expire);
                if !matches!(outcome, Outcome::Again) {
                    break;
                }
                process.pause(dice.time(10, 60_000)).await;
            }
        }
        process.pause(dice.time(100, 100_000)).await;
    }
}

/// Tries to offload a cut, once.
async fn attempt(
    world: &World,
    repository: &Repository,
    process: &Process,
    task: &Task,
    (journal, cancel): (Option<PathBuf>, CancellationToken),
) -> Outcome {
    let id = task.cut.snapshot;
    let gone_before = world.known(id).gone;
    let result = repository.offload(Request { cancel, ..request(repository, task, journal) }).await;
    let said = result.as_ref().map(|root| root.upload);
    world.trace.note(&process.name, format_args!("offload of {}: {said:?}", task.name));
    let known = world.known(id);
    let who = &process.name;
    match result {
        Ok(_) if gone_before => world.violated(format!("{who} was told that {id} is committed, which was deleted")),
        Ok(_) => world.learn(id, |known| known.committed = true),
        Err(Error::Cancelled { .. }) if known.asked => {}
        Err(Error::BaseGone { base, .. }) if world.known(base).asked => return Outcome::BaseGone,
        Err(Error::Conflict { .. }) => return Outcome::Again,
        Err(error) if error.is_transient() => return Outcome::Again,
        Err(error) => world.violated(format!("{who}: the offload of {id} failed: {error:?}")),
    }
    Outcome::Decided
}

/// How a cut is offloaded.
pub(crate) fn request(repository: &Repository, task: &Task, journal: Option<PathBuf>) -> Request {
    let description = SnapshotDescription {
        id: task.cut.snapshot,
        name: task.name.clone(),
        volume: repository.volume_id(&task.volume),
        volume_name: task.volume.clone(),
        incarnation: Uuid::from_u128(7),
        capacity_bytes: task.cut.bytes.len() as u64,
        presentation: Presentation::Block,
        created_at: Timestamp::UNIX_EPOCH,
        node: "node".into(),
        group: None,
        frozen: false,
        pause_nanos: 0,
        parameters: BTreeMap::new(),
    };
    Request {
        description,
        against: task.against,
        changes: Arc::new(Changes(task.changes.clone())),
        source: Arc::new(task.cut.clone()),
        journal,
        // Mostly none: it costs time and decides nothing.
        parameters: OffloadParameters {
            compression: Some(u8::from(task.name.ends_with('0'))),
            bandwidth: None,
            ..OffloadParameters::default()
        },
        progress: Progress::default(),
        cancel: CancellationToken::new(),
    }
}
