//! One life of a machine's process: when it dies, and when it sleeps.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{dice::Dice, network::Verb, trace::Trace};

/// A process. Nothing of it goes on once it has died, but what it had sent.
pub(crate) struct Process {
    pub(crate) name: Arc<str>,
    trace: Arc<Trace>,
    dice: Dice,
    /// Where its ids, keys and nonces come from.
    pub(crate) entropy: Dice,
    died: CancellationToken,
    dead: AtomicBool,
    state: Mutex<State>,
    gate: Gate,
}

/// Holds one request up until it is let go; for plots that are told step by step.
#[derive(Default)]
struct Gate {
    at: Mutex<Option<(Verb, String)>>,
    reached: Notify,
    open: Notify,
}

struct State {
    /// How many requests are left until it dies, and whether the last one is applied.
    end: Option<(u64, bool)>,
    /// It sleeps once in so many requests.
    sleeps: u64,
    asleep_until: Instant,
}

impl Process {
    pub(crate) fn new(name: String, trace: Arc<Trace>, dice: Dice, end: Option<(u64, bool)>, sleeps: u64) -> Arc<Self> {
        let state = State { end, sleeps, asleep_until: Instant::now() };
        let (died, dead) = (CancellationToken::new(), AtomicBool::new(false));
        let entropy = dice.fork();
        Arc::new(Self {
            name: name.into(),
            trace,
            dice,
            entropy,
            died,
            dead,
            state: Mutex::new(state),
            gate: Gate::default(),
        })
    }

    /// Begins a request, once the process is awake; tells whether it is the last, and if so, whether it is applied.
    pub(crate) async fn enter(&self, verb: Verb, key: &str) -> Option<bool> {
        self.wake().await;
        let is_gate = |at: &mut (Verb, String)| at.0 == verb && key.starts_with(&at.1);
        let held = self.gate.at.lock().unwrap().take_if(is_gate);
        if held.is_some() {
            self.gate.reached.notify_one();
            self.gate.open.notified().await;
        }
        let mut state = self.state.lock().unwrap();
        if self.dice.one_in(state.sleeps) {
            state.asleep_until = Instant::now() + self.dice.time(60_000, 20_000_000);
            self.trace.note(&self.name, format_args!("falls asleep at {verb:?} {key}"));
        }
        let (left, applied) = state.end.as_mut()?;
        *left = left.saturating_sub(1);
        (*left == 0).then(|| {
            self.trace.note(&self.name, format_args!("dies at {verb:?} {key}, applied: {applied}"));
            *applied
        })
    }

    /// Holds the next request up that is of this kind and about such a key.
    pub(crate) fn hold(&self, verb: Verb, prefix: &str) {
        *self.gate.at.lock().unwrap() = Some((verb, prefix.to_owned()));
    }

    /// Waits until that request comes.
    pub(crate) async fn is_held(&self) {
        self.gate.reached.notified().await;
    }

    /// Lets it go.
    pub(crate) fn let_go(&self) {
        self.gate.open.notify_one();
    }

    /// Waits until the process is awake; for ever, where it is dead.
    pub(crate) async fn wake(&self) {
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        loop {
            let until = self.state.lock().unwrap().asleep_until;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Ends it.
    pub(crate) fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.died.cancel();
    }

    /// Runs the process's work until it ends, or dies: then `None`.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.died.run_until_cancelled(work).await
    }

    /// Waits, as the process does that sleeps now and then.
    pub(crate) async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.wake().await;
    }
}
