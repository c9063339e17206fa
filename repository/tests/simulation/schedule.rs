//! One schedule: machines, weather and what each machine does follow from the seed; then everything is looked at.

use std::{
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use futures::future::{LocalBoxFuture, join_all};
use varve_repository::{Repository, mutation::Mutation};

use crate::{
    actors, collector,
    dice::Dice,
    mirror,
    network::{MIRROR, Network, Weather},
    process::Process,
    trace::Trace,
    volume::Image,
    world::World,
    writer::{self, Volume},
};

/// What a machine does.
#[derive(Clone)]
enum Job {
    Write(Arc<Mutex<Volume>>),
    Rival,
    Delete(u64),
    Restore,
    Verify,
    Collect(u64),
    Copy(u64),
    CollectMirror(u64),
}

/// A machine: what its processes do, one after the other.
struct Machine {
    name: String,
    jobs: Vec<Job>,
    /// How often it dies.
    deaths: u64,
    /// How often its processes sleep: once in so many requests.
    sleeps: u64,
    dice: Dice,
}

/// What came of a schedule.
pub(crate) struct Outcome {
    /// What is wrong, if anything.
    pub(crate) violation: Option<String>,
    /// What happened, as a hash.
    pub(crate) hash: blake3::Hash,
    /// How many events it were.
    pub(crate) events: u64,
}

/// Runs the schedule of a seed.
pub(crate) fn run(seed: u64, mutation: Option<Mutation>, printed: bool) -> Outcome {
    let folder = journals();
    crate::runtime().block_on(async {
        let trace = Arc::new(Trace::new(printed));
        let dice = Dice::new(seed, "schedule");
        let network = |name| Network::new(name, Dice::new(seed, name), weather(&dice), Arc::clone(&trace));
        let networks = ["simulated:///", MIRROR].map(network);
        let world = World::new(seed, networks, Arc::clone(&trace), mutation);
        let machines = machines(&world, &dice, folder.path());
        let whole = async {
            let monitor = Box::pin(monitor(&world));
            let working = Box::pin(join_all(machines.iter().map(|machine| machine.run(&world))));
            futures::future::select(working, monitor).await;
            finish(&world).await;
        };
        let limited = tokio::time::timeout(Duration::from_secs(400 * 24 * 3600), whole);
        if let Some(Err(_)) = world.failed.run_until_cancelled(limited).await {
            world.violated("it does not end".into());
        }
        let (hash, events) = trace.result();
        Outcome { violation: world.violation(), hash, events }
    })
}

/// A folder for journals, in memory where there is such a place: each frame of a journal is synced.
fn journals() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("varve-simulation.").tempdir_in(folder).unwrap()
}

fn weather(dice: &Dice) -> Weather {
    match dice.below(4) {
        // Nothing fails, but everything may take its time.
        0 => Weather { sleeps: 60, naps: 12, ..Weather::default() },
        1 => Weather { refusals: 200, losses: 200, riddles: 20, breaks: 200, sleeps: 100, naps: 25 },
        2 => Weather { refusals: 60, losses: 40, riddles: 6, breaks: 80, sleeps: 300, naps: 30 },
        _ => Weather { refusals: 500, losses: 300, riddles: 30, breaks: 500, sleeps: 30, naps: 8 },
    }
}

fn machines(world: &World, dice: &Dice, folder: &Path) -> Vec<Machine> {
    let count = 2 + dice.index(3);
    let mut machines: Vec<Machine> = (0..count)
        .map(|number| Machine {
            name: format!("m{number}"),
            jobs: Vec::new(),
            deaths: dice.below(4),
            sleeps: if dice.one_in(3) { 50 + dice.below(200) } else { 0 },
            dice: Dice::new(world.seed, &format!("machine {number}")),
        })
        .collect();
    let (volumes, large) = (1 + dice.index(3), dice.one_in(12));
    world.writers.store(volumes, Ordering::Relaxed);
    let mut earlier: Vec<(Image, Arc<Mutex<Volume>>)> = Vec::new();
    for number in 0..volumes {
        let origin = earlier.last().filter(|_| !dice.one_in(3));
        // Often of the same content as another.
        let image = origin.map_or_else(
            || {
                // From a mebibyte on, content is looked for in other volumes.
                let mut image = Image::new(if large { 9 } else { 2 + dice.below(3) });
                image.change(dice);
                image
            },
            |(image, _)| image.clone(),
        );
        let (name, journal) = (format!("v{number}"), folder.join(format!("v{number}")));
        let own = Dice::new(world.seed, &format!("volume {number}"));
        let mut volume = Volume::new(name, image.clone(), 1 + dice.index(4), journal, own);
        if let Some((_, origin)) = origin.filter(|_| dice.one_in(2)) {
            volume = volume.of(origin);
        }
        let volume = Arc::new(Mutex::new(volume));
        earlier.push((image, Arc::clone(&volume)));
        machines[dice.index(count)].jobs.push(Job::Write(volume));
    }
    let others = [
        (4, Job::Rival),
        (4, Job::Delete(1 + dice.below(4))),
        (2, Job::Delete(1 + dice.below(3))),
        (2, Job::Restore),
        (1, Job::Verify),
        (4, Job::Collect(2 + dice.below(6))),
        (3, Job::Collect(2 + dice.below(6))),
        (1, Job::Collect(2 + dice.below(6))),
    ];
    for (likely, job) in others {
        if dice.below(4) < likely {
            machines[dice.index(count)].jobs.push(job);
        }
    }
    if dice.one_in(4) {
        // Sometimes from two machines at once.
        for _ in 0..1 + dice.below(2) {
            machines[dice.index(count)].jobs.push(Job::Copy(1 + dice.below(3)));
        }
        machines[dice.index(count)].jobs.push(Job::CollectMirror(1 + dice.below(3)));
    }
    machines.retain(|machine| !machine.jobs.is_empty());
    machines
}

impl Machine {
    /// Runs processes one after the other, until one has done everything.
    async fn run(&self, world: &Arc<World>) {
        for life in 0.. {
            let end = (life < self.deaths).then(|| (requests(&self.dice), self.dice.one_in(2)));
            let name = format!("{}.{life}", self.name);
            let dice = Dice::new(world.seed, &format!("process {name}"));
            let process = Process::new(name, Arc::clone(&world.trace), dice, end, self.sleeps);
            let work = Box::pin(async {
                let repository = world.open(&process).await;
                let jobs = self.jobs.iter().map(|job| job.run(world, &repository, &process, &self.dice));
                join_all(jobs).await;
            });
            if process.run(work).await.is_some() {
                return;
            }
            for job in &self.jobs {
                if let Job::Write(volume) = job {
                    volume.lock().unwrap().crash();
                }
            }
            tokio::time::sleep(self.dice.time(1000, 10_000_000)).await;
        }
    }
}

impl Job {
    fn run(
        &self,
        world: &Arc<World>,
        repository: &Repository,
        process: &Arc<Process>,
        dice: &Dice,
    ) -> LocalBoxFuture<'static, ()> {
        let (world, repository, process, dice) =
            (Arc::clone(world), repository.clone(), Arc::clone(process), dice.clone());
        match self {
            Self::Write(volume) => Box::pin(writer::write(world, repository, process, Arc::clone(volume))),
            Self::Rival => Box::pin(writer::rival(world, repository, process, dice)),
            Self::Delete(most) => Box::pin(actors::delete(world, repository, process, dice, *most)),
            Self::Restore => Box::pin(actors::restore(world, repository, process, dice)),
            Self::Verify => Box::pin(actors::verify(world, repository, process, dice)),
            Self::Copy(most) => Box::pin(mirror::copy(world, repository, process, dice, *most)),
            Self::CollectMirror(most) => Box::pin(mirror::collect(world, process, dice, *most)),
            Self::Collect(most) => Box::pin(collector::collect(world, repository, process, dice, *most)),
        }
    }
}

/// How many requests a process lives, as likely few as many.
fn requests(dice: &Dice) -> u64 {
    u64::try_from(dice.time(1, 300).as_millis()).unwrap()
}

/// Looks at everything at moments at which something could have been lost.
async fn monitor(world: &World) {
    let mut changes = world.network.changes.subscribe();
    let dice = Dice::new(world.seed, "monitor");
    let mut looks = 0;
    while changes.changed().await.is_ok() {
        if looks < 8 && dice.one_in(3) {
            looks += 1;
            world.verify("in between").await;
        }
    }
}

/// Lets everything come to rest, and looks at what is left.
async fn finish(world: &Arc<World>) {
    for network in [&world.network, &world.mirror] {
        network.heal();
        network.flying.close();
        network.flying.wait().await;
    }
    world.verify("at the end").await;
    world.verify_mirror("at the end").await;

    let process = Process::new("end".into(), Arc::clone(&world.trace), Dice::new(world.seed, "end"), None, 0);
    let repository = world.open(&process).await;
    world.check(&repository, "at the end").await;
    let is_copied = !world.mirror.bucket.lock().unwrap().keys("uploads/").is_empty()
        || !world.mirror.bucket.lock().unwrap().keys("snapshots/").is_empty();
    if is_copied {
        mirror::last(world, &repository, &process).await;
    }
    collector::last(world, &repository).await;
}
