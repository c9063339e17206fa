//! What lies between a machine and a store, and goes wrong: requests that are slow, lost, refused, applied late or
//! applied without an answer.
//!
//! A request lives on by itself once it was sent: dropping the future that waits for its answer does not take it back.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use object_store::{Error, PutMode, Result};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use crate::{
    bucket::{Bucket, generic, refused},
    dice::Dice,
    process::Process,
    trace::Trace,
};

/// How often things go wrong: each is one in so many requests, and 0 never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Refused before anything is done.
    pub(crate) refusals: u64,
    /// The answer is lost, whatever was done, or will be.
    pub(crate) losses: u64,
    /// Conditional puts that are answered by "already exists" or "changed" though they were applied, or though
    /// nothing was.
    pub(crate) riddles: u64,
    /// Bodies that break off.
    pub(crate) breaks: u64,
    /// Requests that take minutes or hours.
    pub(crate) sleeps: u64,
    /// Requests that take that long, of those at which a protocol breaks.
    pub(crate) naps: u64,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Put,
    Get,
    List,
    Delete,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is applied and answered.
    Served,
    /// It is answered by a failure and not applied.
    Refused,
    /// It is answered by a failure, and applied sooner or later.
    Lost,
    /// The condition is said not to hold, after it was applied.
    AppliedRefused,
    /// The condition is said not to hold, and nothing was applied.
    Unapplied,
}

struct Plan {
    fate: Fate,
    /// How long until it is applied.
    there: Duration,
    /// How long until the answer comes, from then on; where the answer is lost, from the start.
    back: Duration,
    /// Whether it is applied though nobody waits any more.
    survives: bool,
}

/// The name of the store that is copied to.
pub(crate) const MIRROR: &str = "mirror:///";

/// A store, and the way to it. Shared by all machines.
pub(crate) struct Network {
    pub(crate) name: &'static str,
    pub(crate) bucket: Mutex<Bucket>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) dice: Dice,
    weather: Mutex<Weather>,
    /// Requests under way.
    pub(crate) flying: TaskTracker,
    /// When everything turns fair, so that a schedule ends.
    fair_at: Instant,
    /// How many changes were made that could have taken something away from a root.
    pub(crate) changes: tokio::sync::watch::Sender<u64>,
}

impl Network {
    pub(crate) fn new(name: &'static str, dice: Dice, weather: Weather, trace: Arc<Trace>) -> Arc<Self> {
        Arc::new(Self {
            name,
            bucket: Mutex::default(),
            trace,
            dice,
            weather: Mutex::new(weather),
            flying: TaskTracker::new(),
            fair_at: Instant::now() + Duration::from_secs(7 * 24 * 3600),
            changes: tokio::sync::watch::Sender::new(0),
        })
    }

    /// From now on nothing goes wrong.
    pub(crate) fn heal(&self) {
        *self.weather.lock().unwrap() = Weather::default();
    }

    /// How its keys are shown.
    fn prefix(&self) -> &'static str {
        if self.name == MIRROR { "mirror:" } else { "" }
    }

    fn weather(&self) -> Weather {
        if Instant::now() >= self.fair_at { Weather::default() } else { *self.weather.lock().unwrap() }
    }

    /// Tells whether a body breaks off.
    pub(crate) fn breaks(&self) -> bool {
        self.dice.one_in(self.weather().breaks)
    }

    fn plan(&self, verb: Verb, key: &str, mode: Option<&PutMode>) -> Plan {
        let (weather, dice) = (self.weather(), &self.dice);
        let conditional = mode.is_some_and(|mode| *mode != PutMode::Overwrite);
        let fate = match () {
            () if dice.one_in(weather.refusals) => Fate::Refused,
            () if dice.one_in(weather.losses) => Fate::Lost,
            () if conditional && dice.one_in(weather.riddles) => {
                if dice.one_in(2) {
                    Fate::AppliedRefused
                } else {
                    Fate::Unapplied
                }
            }
            () => Fate::Served,
        };
        // Where a step of the protocol is between two others.
        let critical = match verb {
            Verb::Put | Verb::Delete => true,
            Verb::Get => key.starts_with("snapshots/") || key.starts_with("uploads/") || key.starts_with("repacking"),
            Verb::List => true,
        };
        let time = || match () {
            () if dice.one_in(weather.sleeps) || (critical && dice.one_in(weather.naps)) => {
                dice.time(60_000, 20_000_000)
            }
            () if dice.one_in(16) => dice.time(100, 30_000),
            () => dice.time(1, 100),
        };
        let (there, back) = (time(), time());
        // A client does not wait for hours.
        let back = if fate == Fate::Lost { back.min(Duration::from_secs(30)) } else { back };
        Plan { fate, there, back, survives: !dice.one_in(3) }
    }

    /// Sends a request of a process, and waits for the answer.
    pub(crate) async fn request<T: Send + 'static>(
        self: &Arc<Self>,
        process: &Arc<Process>,
        (verb, key): (Verb, &str),
        mode: Option<&PutMode>,
        apply: impl FnOnce(&mut Bucket) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let end = process.enter(verb, key).await;
        let name = Arc::clone(&process.name);
        let plan = self.plan(verb, key, mode);
        let apply = {
            let (network, name, key) = (Arc::clone(self), Arc::clone(&name), key.to_owned());
            move || {
                let result = apply(&mut network.bucket.lock().unwrap());
                let said = result.as_ref().err().map_or("", |error| match error {
                    Error::NotFound { .. } => ": missing",
                    Error::AlreadyExists { .. } => ": already exists",
                    Error::Precondition { .. } => ": changed",
                    _ => ": failed",
                });
                network.trace.note(&name, format_args!("  {verb:?} {}{key}{said}", network.prefix()));
                if result.is_ok() && matches!(verb, Verb::Put | Verb::Delete) {
                    network.changes.send_modify(|changes| *changes += 1);
                }
                result
            }
        };
        if let Some(applied) = end {
            // The machine dies at this request.
            if applied {
                let _ = apply();
            }
            process.die();
            return std::future::pending().await;
        }
        let refusal = mode.map(|mode| refused(key, mode));
        let (sender, receiver) = oneshot::channel();
        let (trace, what) = (Arc::clone(&self.trace), format!("{verb:?} {key}"));
        self.flying.spawn(async move {
            let Plan { fate, there, back, survives } = plan;
            match fate {
                Fate::Served | Fate::AppliedRefused => {
                    sleep(there).await;
                    if !survives && sender.is_closed() {
                        trace.note(&name, format_args!("  {what} is lost with its sender"));
                        return;
                    }
                    let result = apply();
                    sleep(back).await;
                    let _ = sender.send(match (fate, refusal) {
                        (Fate::AppliedRefused, Some(refusal)) => Err(refusal),
                        _ => result,
                    });
                }
                Fate::Refused | Fate::Unapplied => {
                    sleep(there).await;
                    trace.note(&name, format_args!("  {what} is not applied: {fate:?}"));
                    let refused = if fate == Fate::Refused { None } else { refusal };
                    let error = "Server returned non-2xx status code: 503 Service Unavailable: <Code>SlowDown</Code>";
                    let _ = sender.send(Err(refused.unwrap_or_else(|| generic(error))));
                }
                Fate::Lost => {
                    let (first, second) = (there.min(back), there.max(back) - there.min(back));
                    let mut apply = Some(apply);
                    sleep(first).await;
                    if there <= back {
                        let _ = apply.take().map(|apply| apply());
                    }
                    if there > back {
                        trace.note(&name, format_args!("  {what} times out"));
                        let _ = sender.send(Err(generic("operation timed out")));
                        sleep(second).await;
                        let _ = apply.take().map(|apply| apply());
                    } else {
                        sleep(second).await;
                        trace.note(&name, format_args!("  {what} is not answered"));
                        let _ = sender.send(Err(generic("operation timed out")));
                    }
                }
            }
        });
        let answer = receiver.await;
        process.wake().await;
        answer.unwrap_or_else(|_| Err(generic("connection reset by peer")))
    }
}
