//! Users are told what is going on: events on claims and snapshots, and conditions of claims.
//!
//! ```text
//! plan       what is to be told: a pure function of what was told, what is under way, and the time
//! words      how it is said
//! foreign    snapshots that nobody takes
//! objects    which claim, which snapshot it is about
//! write      events and conditions, written so that several controllers do not tell things twice
//! ```
//!
//! Every few seconds the nodes are asked what is under way; the API is spoken to only where there is something to tell, but for one
//! watch of the contents of snapshots.
//!
//! # Concurrency
//! Every controller tells everything: none leads. An event's name follows from what it says of which object, so the second
//! controller finds it there. What lasts is counted up, at most once in a while whoever does it.
//!
//! # Crash consistency
//! What was told is kept in memory alone. A controller that starts anew finds the events by their names.
//!
//! # Cancellation
//! Telling ends when the token is cancelled; nothing depends on what is still to be told.

mod foreign;
mod objects;
mod plan;
mod words;
mod write;

use std::{fmt, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use varve_controller::Controller;
use varve_csi::status::chain;
use varve_proto::agent::Activity;

use self::{
    objects::Objects,
    plan::{Telling, Told, plan},
    write::Failure,
};
use crate::directory::Kubernetes;

/// How often the nodes are asked what is under way.
const EVERY: Duration = Duration::from_secs(5);

/// Most that is told at a time; the rest is told the next time.
const AT_ONCE: usize = 100;

/// The time; the program's own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Tells users of what is under way, until cancelled.
#[must_use]
pub fn start(
    kubernetes: &Kubernetes,
    controller: Controller,
    clock: Clock,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    let mut teller = Teller::new(kubernetes.client());
    let strays = Box::pin(foreign::watch(kubernetes.client(), Arc::clone(&clock)));
    let telling = async move {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match controller.activities().await {
                Ok(activities) => teller.tell(&activities, clock()).await,
                // The directory has said so already, and the next time is near.
                Err(error) => tracing::debug!(error = chain(&error), "what is under way is not known"),
            }
        }
    };
    tokio::spawn(async move {
        cancel.run_until_cancelled(futures::future::join(telling, strays)).await;
    })
}

/// Whoever tells, and what was told.
struct Teller {
    client: Client,
    objects: Objects,
    told: Told,
    /// Whether the API refused or did not answer the last time.
    broken: bool,
}

impl Teller {
    fn new(client: Client) -> Self {
        Self { objects: Objects::new(client.clone()), client, told: Told::default(), broken: false }
    }

    /// Tells what is to be told of these activities. What cannot be told for now is told the next time.
    async fn tell(&mut self, activities: &[Activity], now: Timestamp) {
        let (told, tellings) = plan(&self.told, activities, now);
        self.told = told;
        let mut failure = None;
        for (number, telling) in tellings.iter().enumerate() {
            if number >= AT_ONCE || failure.is_some() {
                self.told.forget(telling);
                continue;
            }
            match self.write(telling, now).await {
                Ok(()) => {}
                Err(error) if error.is_final() => self.refused(telling, &error),
                Err(error) => {
                    self.told.forget(telling);
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if !self.broken => {
                tracing::warn!(error = chain(&error), "users cannot be told what is going on: it is tried again");
                self.broken = true;
            }
            Some(error) => tracing::debug!(error = chain(&error), "users still cannot be told what is going on"),
            None => self.broken &= tellings.is_empty(),
        }
    }

    async fn write(&mut self, telling: &Telling, now: Timestamp) -> Result<(), Failure> {
        if let Some(object) = self.objects.find(&telling.object, now).await? {
            write::event(&self.client, &object, telling, now).await?;
        }
        if let Some((about, condition)) = &telling.condition
            && let Some(claim) = self.objects.claim(about, now).await?
        {
            write::condition(&self.client, &claim, condition, now).await?;
        }
        Ok(())
    }

    /// Notes that the API will not have it; that is no reason to ask again and again.
    fn refused(&self, telling: &Telling, error: &Failure) {
        let (reason, about) = (telling.reason.as_str(), telling.object.id());
        if error.is_gone() {
            tracing::debug!(reason, about, error = chain(error), "nobody is told: the object is gone");
        } else {
            tracing::warn!(reason, about, error = chain(error), "users are not told");
        }
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("told", &self.told).field("broken", &self.broken).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
