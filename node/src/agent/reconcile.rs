//! What is put in order at the start, whatever ended the last process.
//!
//! In this order: file systems that may be frozen are thawed, since workloads hang on them; groups of cuts that were
//! committed are completed; devices that nobody uses are detached; what is written down of a staging that a reboot ended is
//! forgotten; cuts are compared with the repository. [`Pool::open`] has emptied `making/` before.
//!
//! # Crash consistency
//!
//! Every step may be cut short and is taken again by the next start.

use std::{
    io,
    path::{Path, PathBuf},
};

use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;
use varve_csi::{exclusive::Exclusive, status::chain};
use varve_repository::{Repository, SnapshotState, stages::Stages};

use super::{Agent, Inner, account::Strays, activity::Activities, image::Creations, offload::Offloads, space::Space};
use crate::{
    config::Config,
    cut::{Cut, Cuts, State, Status, Stranded, making, mounted},
    device::{self, LoopDevice},
    durable, filesystem,
    pool::Pool,
    volume::Volumes,
};

/// What a pool is told of the repository that its cuts go to, in `repository.json`.
const REPOSITORY: &str = "repository.json";

/// How many cuts are looked up in the repository at once.
const LOOK_UPS: usize = 16;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The pool's cuts are of another repository.
    #[error(
        "the pool at {pool:?} belongs to repository {found}, and repository {given} was given: configure the former, or \
         another pool; the pool's snapshots would be computed against what the latter does not hold"
    )]
    OtherRepository {
        /// The pool.
        pool: PathBuf,
        /// What it belongs to.
        found: Uuid,
        /// What was given.
        given: Uuid,
    },
    /// The system refused.
    #[error("{action} {path:?}")]
    System {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A bug.
    #[error("a task failed: {0}")]
    Panicked(String),
}

impl StartError {
    fn system(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::System { action, path, source }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Belonging {
    uuid: Uuid,
}

fn put_in_order(pool: &Pool, repository: Uuid) -> Result<(Volumes, Cuts), StartError> {
    thaw(pool)?;
    belong(pool, repository)?;
    making::finish_groups(pool).map_err(StartError::system("completing groups in", pool.cuts_dir()))?;
    let volumes = Volumes::load(&pool.volumes_dir()).map_err(StartError::system("reading", pool.volumes_dir()))?;
    let cuts = Cuts::load(&pool.cuts_dir()).map_err(StartError::system("reading", pool.cuts_dir()))?;
    detach(pool, &volumes)?;
    for (folder, reason) in volumes.unreadable().iter().chain(cuts.unreadable()) {
        tracing::error!(folder = %folder.display(), reason, "what cannot be read is left alone");
    }
    Ok((volumes, cuts))
}

/// Puts the pool in order and makes its agent. No offload is under way yet.
pub(super) async fn start(config: Config, pool: Pool, repository: Repository) -> Result<Agent, StartError> {
    let given = repository.uuid();
    let (pool, volumes, cuts) = tokio::task::spawn_blocking(move || match put_in_order(&pool, given) {
        Ok((volumes, cuts)) => Ok((pool, volumes, cuts)),
        Err(error) => {
            // Refused as it was found: an image does not stay mounted for a process that does not start.
            if let Err(error) = pool.close() {
                tracing::warn!(%error, "the pool stays as it is");
            }
            Err(error)
        }
    })
    .await
    .unwrap_or_else(|error| Err(StartError::Panicked(error.to_string())))?;
    tracing::info!(
        node = config.node_id, pool = %pool.root().display(), repository = %given,
        volumes = volumes.list().len(), cuts = cuts.list().len(), "the pool is in order"
    );
    let agent = Agent(std::sync::Arc::new(Inner {
        offloads: Offloads::new(config.offloads, &config.offload_limits),
        strays: Strays::default(),
        space: Space::default(),
        stages: Stages::default(),
        config,
        pool,
        repository,
        volumes,
        cuts,
        stranded: Stranded::default(),
        exclusive: Exclusive::default(),
        creations: Creations::default(),
        activities: Activities::default(),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }));
    stream::iter(agent.cuts().list()).for_each_concurrent(LOOK_UPS, |cut| settle(&agent, cut)).await;
    agent.shed().await;
    Ok(agent)
}

/// Binds the pool to the repository, or checks that it is bound to it.
fn belong(pool: &Pool, given: Uuid) -> Result<(), StartError> {
    let path = pool.root().join(REPOSITORY);
    match durable::read::<Belonging>(&path).map_err(StartError::system("reading", &path))? {
        Some(Belonging { uuid }) if uuid == given => Ok(()),
        Some(Belonging { uuid: found }) => {
            Err(StartError::OtherRepository { pool: pool.root().to_owned(), found, given })
        }
        None => durable::write(&path, &Belonging { uuid: given }).map_err(StartError::system("writing", &path)),
    }
}

/// The attached images of the pool.
fn attached(pool: &Pool) -> Result<Vec<(LoopDevice, PathBuf)>, StartError> {
    device::all_below(pool.root()).map_err(StartError::system("listing devices of", pool.root()))
}

/// Thaws whatever a process that was killed in the middle of a cut left frozen.
fn thaw(pool: &Pool) -> Result<(), StartError> {
    use crate::cut::freeze::Freezable as _;
    for (device, image) in attached(pool)? {
        let mounts = mounted::mounts_of(device).map_err(StartError::system("listing mounts of", device.path()))?;
        let Some(mount_point) = mounts.iter().find_map(mounted::MountPoint::open) else { continue };
        match mount_point.thaw() {
            Ok(()) => tracing::warn!(image = %image.display(), "a file system was still frozen, and is thawed"),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => tracing::error!(image = %image.display(), %error, "a file system cannot be thawed"),
        }
    }
    Ok(())
}

/// Detaches devices that nobody uses, and forgets stagings that have no device any more, as after a reboot.
fn detach(pool: &Pool, volumes: &Volumes) -> Result<(), StartError> {
    let attached = attached(pool)?;
    for (device, image) in &attached {
        let staged = volumes.list().iter().any(|volume| volume.image() == *image && volume.staged().is_some());
        let mounts = filesystem::mounts_of(&device.path())
            .map_err(|error| StartError::system("listing mounts of", device.path())(io::Error::other(error)))?;
        if staged || !mounts.is_empty() {
            continue;
        }
        match device.detach() {
            Ok(()) => tracing::info!(image = %image.display(), "a device that nobody used is detached"),
            Err(error) => tracing::warn!(image = %image.display(), %error, "a device cannot be detached"),
        }
    }
    for volume in volumes.list() {
        let is_attached = |image: &Path| attached.iter().any(|(_, other)| other == image);
        if volume.staged().is_some() && !is_attached(&volume.image()) {
            tracing::info!(volume = %volume.id(), "the volume is no longer staged");
            volume.set_staged(None).map_err(StartError::system("writing the staging of", volume.folder()))?;
        }
    }
    Ok(())
}

/// Finds out what became of a cut's snapshot meanwhile. A repository that does not answer is asked again by the offload.
async fn settle(agent: &Agent, cut: Cut) {
    let state = cut.record().state;
    if state == State::NodeOnly {
        // No offload waits for the answer: see `account`.
        return;
    }
    let given_up = matches!(state, State::GivenUp { .. });
    if given_up {
        let forsaken = cut.clone();
        if let Err(error) = agent.block(move |agent| agent.forsake(&forsaken)).await {
            tracing::warn!(snapshot = %cut.id(), error = chain(&error), "what is left of a cut that was given up stays");
        }
    }
    let settled = match agent.repository().snapshot(cut.id()).await {
        // Also one that is there after all: an answer was lost.
        Ok(SnapshotState::Committed(_)) if given_up => agent.remove_cut(&cut).await.map_err(|error| chain(&error)),
        Ok(SnapshotState::Gone(_)) => agent.remove_cut(&cut).await.map_err(|error| chain(&error)),
        Ok(SnapshotState::Committed(_)) if state.is_wanted() => {
            let cut = cut.clone();
            let written = agent.block(move |_| Ok(cut.set_state(State::Base))).await;
            written.map_err(|error| chain(&error)).and_then(|written| written.map_err(|error| error.to_string()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(chain(&error)),
    };
    if let Err(message) = settled {
        tracing::warn!(snapshot = %cut.id(), reason = message, "what became of the snapshot is not known yet");
    }
    if let State::Failed { message } = cut.record().state {
        // A person may have seen to it: it is tried once more.
        cut.set_status(Status::Pending { message });
    }
}
