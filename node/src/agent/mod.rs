//! The agent: what a controller asks of the node that holds a volume's image.
//!
//! ```text
//! rpc          requests become domain types, errors become status codes
//! image/       making, growing, deleting images; hydration
//! snapshot     cutting, listing, deleting
//! offload/     moving cuts into the repository, one lane a volume
//! reconcile    what is put in order at the start
//! account      what the repository knows of what is here, looked up now and then
//! activity     what is under way and what needs a person, for those whom it concerns
//! health       what is the matter with volumes and pool
//! reading      how things stand, in numbers
//! space        what goes when the pool runs full
//! ```
//!
//! # Concurrency
//!
//! Calls on one volume or snapshot are serialised or answered `ABORTED` through one [`Exclusive`], which the node's CSI
//! service shares. Whatever changes something runs in a task of its own that a caller who leaves does not end.
//!
//! # Cancellation
//!
//! [`Agent::stop`] turns new calls away, interrupts offloads and hydrations at a point from which they go on, and waits
//! for every task and every blocking call. Nothing is ever frozen afterwards.

mod account;
mod activity;
mod ailment;
mod error;
mod health;
mod image;
mod offload;
mod reading;
mod reconcile;
mod rpc;
mod snapshot;
mod space;

use std::{future::Future, sync::Arc};

pub use ailment::{Ailment, Severity};
pub use error::Error;
use error::Result;
pub use offload::Standing;
pub use reading::{CutCounts, PoolReading, Reading};
pub use reconcile::StartError;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use varve_csi::exclusive::{Exclusive, Held};
use varve_repository::{Repository, stages::Stages};

use crate::{
    config::Config,
    cut::{Cuts, Stranded},
    observe::Observer,
    pool::Pool,
    volume::{Limits, Volumes},
};

/// The agent of one node. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Agent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    pool: Pool,
    repository: Repository,
    volumes: Volumes,
    cuts: Cuts,
    stranded: Stranded,
    exclusive: Exclusive,
    creations: image::Creations,
    activities: activity::Activities,
    offloads: offload::Offloads,
    strays: account::Strays,
    space: space::Space,
    /// Where the time of all offloads and hydrations went.
    stages: Stages,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Agent {
    /// Puts the pool in order after whatever ended the last process, and takes up its offloads where they were.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config, pool: Pool, repository: Repository) -> Result<Self, StartError> {
        let agent = reconcile::start(config, pool, repository).await?;
        agent.resume_offloads();
        agent.watch_space();
        agent.watch_accounts();
        Ok(agent)
    }

    /// Takes no more calls, interrupts offloads and hydrations, and waits for what cannot be interrupted. Afterwards
    /// nothing is frozen, nothing is under way, and the caller may close the pool.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// The node's name.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.0.config.node_id
    }

    /// What the node was configured with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// The repository that cuts are offloaded to.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.0.repository
    }

    /// The volumes of this node.
    #[must_use]
    pub fn volumes(&self) -> &Volumes {
        &self.0.volumes
    }

    /// The cuts of this node.
    #[must_use]
    pub fn cuts(&self) -> &Cuts {
        &self.0.cuts
    }

    /// What calls are working on: by volume id and by snapshot id, as text. The CSI service of the node takes part.
    #[must_use]
    pub fn exclusive(&self) -> &Exclusive {
        &self.0.exclusive
    }

    /// Where the time of all offloads and hydrations went since the start.
    #[must_use]
    pub fn stages(&self) -> &Stages {
        &self.0.stages
    }

    /// Who is told of what is done.
    fn observer(&self) -> &dyn Observer {
        self.0.config.observer.as_deref().unwrap_or(&())
    }

    /// Takes part in the work that [`Agent::stop`] waits for, for as long as the token lives.
    ///
    /// # Errors
    /// `Stopping` once the agent is being stopped.
    pub(crate) fn enter(&self) -> Result<TaskTrackerToken> {
        // In this order: either `stop` sees the token and waits for it, or it is seen here.
        let token = self.0.tasks.token();
        if self.0.stop.is_cancelled() { Err(Error::Stopping) } else { Ok(token) }
    }

    /// Runs work to its end, even if the caller leaves.
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let _token = self.enter()?;
        self.0.tasks.spawn(work).await.unwrap_or_else(|error| Err(Error::Panicked(error.to_string())))
    }

    /// Runs work that blocks, off the runtime and to its end.
    async fn block<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let agent = self.clone();
        self.0
            .tasks
            .spawn_blocking(move || work(&agent))
            .await
            .unwrap_or_else(|error| Err(Error::Panicked(error.to_string())))
    }

    /// Takes a volume or a snapshot for the length of a call.
    fn hold(&self, id: impl ToString) -> Result<Held> {
        let id = id.to_string();
        self.0.exclusive.hold(id.clone()).map_err(|_| Error::Busy(id))
    }

    /// How much may be promised to volumes; blocks.
    fn limits(&self) -> Result<Limits> {
        let usage = self.0.pool.usage().map_err(Error::system("measuring", self.0.pool.root()))?;
        Ok(Limits::new(usage, self.0.config.overcommit, self.0.config.marks))
    }
}
