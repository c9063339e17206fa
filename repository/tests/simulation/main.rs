//! A deterministic simulation: machines that write, delete, restore and check one repository on a store that
//! misbehaves, on one thread and a clock of its own, so that a seed is all it takes to see a failure again.
//!
//! ```text
//! [dice] [trace]      randomness, clocks and a hash of all that happened
//! [bucket]            what is stored, strongly consistent
//! [network] [link]    requests that are slow, lost, refused, or applied hours late
//! [process]           a process that dies at any request, or sleeps
//! [volume] [writer]   images, cuts and their offloads
//! [actors]            deleters, restorers, verifiers
//! [collector]         collectors, and what must be left in the end
//! [mirror]            copiers, and the copy in a second store
//! [world]             the model, and what must be true
//! [schedule]          one seed: who does what where
//! [plots]             what went wrong once, told step by step
//! [mutation]          the protocol broken on purpose
//! ```
//!
//! `VARVE_SEED=7 cargo test -p varve-repository --test simulation replay -- --nocapture` runs one seed and prints all that
//! happens; `VARVE_MUTATION=NoIntent` breaks the protocol on purpose, and `VARVE_SEEDS=100000` with `VARVE_SEED=…`
//! runs more of them: `make soak`.

mod actors;
mod bucket;
mod collector;
mod dice;
mod link;
mod mirror;
mod mutation;
mod network;
mod plots;
mod process;
mod schedule;
mod trace;
mod volume;
mod world;
mod writer;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use varve_repository::mutation::Mutation;

/// Schedules that every run of the tests goes through.
const SCHEDULES: u64 = 5000;

/// A runtime that does one thing at a time, on a clock that jumps to whatever comes next.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Runs a seed; says what is wrong, and how to see it again.
fn failure(seed: u64, mutation: Option<Mutation>) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| schedule::run(seed, mutation, false)));
    let what = match outcome {
        Ok(outcome) => outcome.violation?,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
        }
    };
    let broken = mutation.map_or(String::new(), |mutation| format!("VARVE_MUTATION={mutation:?} "));
    let replay = "cargo test -p varve-repository --test simulation replay -- --nocapture";
    Some(format!("seed {seed}: {what}\n  {broken}VARVE_SEED={seed} {replay}"))
}

/// Runs seeds on all cores until one fails; returns the failure of the lowest one seen.
fn first_failure(first: u64, count: u64, mutation: Option<Mutation>) -> Option<(u64, String)> {
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let found = Mutex::new(None::<(u64, String)>);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    if let Some(failure) = failure(seed, mutation) {
                        stop.store(true, Ordering::Relaxed);
                        let mut found = found.lock().unwrap();
                        if found.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                            *found = Some((seed, failure));
                        }
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn schedules() {
    let first = number("VARVE_SEED").unwrap_or(0);
    let count = number("VARVE_SEEDS").unwrap_or(SCHEDULES);
    let started = std::time::Instant::now();
    if let Some((_, failure)) = first_failure(first, count, None) {
        panic!("{failure}");
    }
    println!("{count} schedules from seed {first} on in {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..20 {
        let (one, other) = (schedule::run(seed, None, false), schedule::run(seed, None, false));
        assert_eq!((one.hash, one.events), (other.hash, other.events), "seed {seed}");
    }
}

/// Runs the seed that `VARVE_SEED` names and prints everything that happens.
#[test]
fn replay() {
    let Some(seed) = number("VARVE_SEED") else { return };
    let mutation = std::env::var("VARVE_MUTATION").ok().map(|name| mutation::named(&name));
    let outcome = schedule::run(seed, mutation, true);
    println!("{} events, hash {}", outcome.events, outcome.hash);
    if let Some(violation) = outcome.violation {
        panic!("seed {seed}: {violation}");
    }
}
