//! Images: making, growing, deleting and listing them.
//!
//! # Concurrency
//!
//! Making an image is a task that calls join: the same request made again waits for the task that is under way, and
//! another one for the same volume is answered `ABORTED`. Deleting the image ends the task first.

mod fill;
mod hydrate;

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;
use varve_repository::{
    id::{SnapshotId, VolumeId},
    record::volume::{OffloadParameters, Presentation, Source},
};

use super::{Agent, Ailment, Error, Result};
use crate::{
    device::LoopDevice,
    filesystem,
    volume::{Record, Volume},
};

/// A volume's image, as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) id: VolumeId,
    pub(super) name: String,
    pub(super) incarnation: Uuid,
    pub(super) capacity_bytes: u64,
    pub(super) presentation: Presentation,
    pub(super) source: Option<Source>,
    pub(super) offload: OffloadParameters,
    /// Whom it is for, as the caller's caller says.
    pub(super) parameters: BTreeMap<String, String>,
}

/// An image, as it is found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) allocated_bytes: u64,
    pub(super) staged: bool,
    pub(super) published: Vec<PathBuf>,
    pub(super) ailments: Vec<Ailment>,
}

/// What a growth came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grown {
    pub(super) capacity_bytes: u64,
    pub(super) staged: bool,
}

type Done = Shared<BoxFuture<'static, Result<(), Arc<Error>>>>;

/// The images that are being made.
#[derive(Default)]
pub(super) struct Creations {
    running: Mutex<HashMap<VolumeId, Creation>>,
    /// Snapshots that images are being filled from: a second one waits, and then clones what the first one brought.
    sources: Mutex<HashMap<SnapshotId, Weak<tokio::sync::Mutex<()>>>>,
}

struct Creation {
    wanted: Wanted,
    cancel: CancellationToken,
    done: Done,
}

impl Creations {
    fn running(&self) -> MutexGuard<'_, HashMap<VolumeId, Creation>> {
        self.running.lock().expect("no holder panics")
    }

    /// The lock that those who fill an image from a snapshot take.
    fn source(&self, id: SnapshotId) -> Arc<tokio::sync::Mutex<()>> {
        let mut sources = self.sources.lock().expect("no holder panics");
        sources.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = sources.get(&id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        sources.insert(id, Arc::downgrade(&lock));
        lock
    }
}

impl fmt::Debug for Creations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.running().keys()).finish()
    }
}

/// Takes a creation off the list when its task ends, also by a panic.
struct Listed(Agent, VolumeId);

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.0.creations.running().remove(&self.1);
    }
}

impl Agent {
    /// Makes a volume's image, or joins its making.
    pub(super) async fn create_image(&self, wanted: Wanted) -> Result<(), Arc<Error>> {
        let _token = self.enter()?;
        let limits = self.block(Self::limits).await?;
        let ample = self.require_room().await;
        let done = {
            let mut running = self.0.creations.running();
            match running.get(&wanted.id) {
                Some(creation) if creation.wanted == wanted => creation.done.clone(),
                Some(creation) => return Err(Error::Busy(creation.wanted.id.to_string()).into()),
                None => {
                    let held = self.hold(wanted.id)?;
                    if let Some(volume) = self.volumes().get(&wanted.id) {
                        return Ok(is_as_wanted(&volume.record(), &wanted)?);
                    }
                    ample?;
                    let room = self
                        .volumes()
                        .reserve(wanted.id, wanted.capacity_bytes, limits)
                        .map_err(|source| Error::Room { id: wanted.id, growing: false, source })?;
                    let cancel = self.0.stop.child_token();
                    let task = {
                        let (agent, wanted, cancel) = (self.clone(), wanted.clone(), cancel.clone());
                        let listed = Listed(self.clone(), wanted.id);
                        let span = tracing::info_span!("image", volume = %wanted.id);
                        let fill = async move {
                            let _until_the_end = (held, room, listed);
                            agent.fill(wanted, cancel).await.map_err(Arc::new)
                        };
                        self.0.tasks.spawn(fill.instrument(span))
                    };
                    let done = task
                        .map(|joined| joined.unwrap_or_else(|error| Err(Error::Panicked(error.to_string()).into())))
                        .boxed()
                        .shared();
                    running.insert(wanted.id, Creation { wanted, cancel, done: done.clone() });
                    done
                }
            }
        };
        done.await
    }

    /// Removes a volume's image, ending its making where that is under way. One that is not here is fine.
    pub(super) async fn delete_image(&self, id: VolumeId) -> Result<()> {
        let agent = self.clone();
        self.run(async move {
            let making = agent.0.creations.running().get(&id).map(|one| (one.cancel.clone(), one.done.clone()));
            if let Some((cancel, done)) = making {
                cancel.cancel();
                // Whatever came of it is dealt with below.
                let _ = done.await;
            }
            let held = agent.hold(id)?;
            let Some(volume) = agent.volumes().get(&id) else { return Ok(()) };
            agent
                .block(move |agent| {
                    let _held = held;
                    detach(&volume)?;
                    agent
                        .pool()
                        .remove_folder(volume.folder())
                        .or_else(|error| if volume.folder().exists() { Err(error) } else { Ok(()) })
                        .map_err(Error::system("removing", volume.folder()))?;
                    agent.volumes().remove(&id);
                    tracing::info!(volume = %id, "image removed");
                    Ok(())
                })
                .await?;
            agent.shed().await;
            Ok(())
        })
        .await
    }

    /// Grows a volume's image, also while it is in use; one that is as large already stays as it is.
    pub(super) async fn expand_image(&self, id: VolumeId, bytes: u64) -> Result<Grown> {
        let agent = self.clone();
        self.run(async move {
            let held = agent.hold(id)?;
            let volume = agent.volumes().get(&id).ok_or(Error::NoVolume(id))?;
            agent
                .block(move |agent| {
                    let _held = held;
                    let staged = volume.staged().is_some();
                    let current = volume.record().capacity_bytes;
                    if bytes <= current {
                        return Ok(Grown { capacity_bytes: current, staged });
                    }
                    let _room = agent.volumes().reserve(id, bytes, agent.limits()?).map_err(|source| Error::Room {
                        id,
                        growing: true,
                        source,
                    })?;
                    let image = volume.image();
                    fill::grow(&image, bytes)?;
                    if let Some(device) =
                        LoopDevice::find(&image).map_err(Error::system("finding the device of", &image))?
                    {
                        device.refresh_size().map_err(Error::system("growing", device.path()))?;
                    }
                    // Last: the record never promises more than the image has.
                    let record = volume
                        .update(|record| record.capacity_bytes = bytes)
                        .map_err(Error::system("writing the record of", volume.folder()))?;
                    tracing::info!(volume = %id, from = current, to = record.capacity_bytes, staged, "image grown");
                    Ok(Grown { capacity_bytes: record.capacity_bytes, staged })
                })
                .await
        })
        .await
    }

    /// Changes how a volume's snapshots are offloaded, also of one that is under way.
    pub(super) async fn modify_image(&self, id: VolumeId, offload: OffloadParameters) -> Result<()> {
        let agent = self.clone();
        self.run(async move {
            let held = agent.hold(id)?;
            let volume = agent.volumes().get(&id).ok_or(Error::NoVolume(id))?;
            let changes = volume.record().offload != offload;
            agent
                .block(move |_| {
                    let _held = held;
                    volume
                        .update(|record| record.offload = offload)
                        .map_err(Error::system("writing the record of", volume.folder()))?;
                    Ok(())
                })
                .await?;
            if changes {
                agent.parameters_changed(id);
            }
            Ok(())
        })
        .await
    }

    /// Lists images, or the one of a volume.
    pub(super) async fn list_images(&self, id: Option<VolumeId>) -> Result<Vec<Found>> {
        let _token = self.enter()?;
        self.block(move |agent| {
            let mut volumes = agent.volumes().list();
            volumes.retain(|volume| id.is_none_or(|id| volume.id() == id));
            Ok(volumes.iter().map(|volume| agent.find(volume)).collect())
        })
        .await
    }

    fn find(&self, volume: &Volume) -> Found {
        let state = volume.state();
        Found {
            record: state.record,
            // An image that cannot be measured is among the ailments.
            allocated_bytes: fs::metadata(volume.image()).map_or(0, |found| found.blocks().saturating_mul(512)),
            staged: state.staged.is_some(),
            published: state.staged.into_iter().flat_map(|staged| staged.publications).map(|one| one.target).collect(),
            ailments: self.ailments(volume),
        }
    }
}

/// Tells whether the image that is here is what a repeated call wants.
fn is_as_wanted(found: &Record, wanted: &Wanted) -> Result<()> {
    let id = wanted.id;
    if found.incarnation != wanted.incarnation {
        return Err(Error::OtherIncarnation { id, found: found.incarnation, wanted: wanted.incarnation });
    }
    let different = if found.source != wanted.source {
        Some("source")
    } else if found.presentation != wanted.presentation {
        Some("presentation")
    } else if found.capacity_bytes < wanted.capacity_bytes {
        // It may well have grown since it was made.
        Some("capacity")
    } else {
        None
    };
    different.map_or(Ok(()), |what| Err(Error::Different { id, what }))
}

/// Detaches the image of a volume that is not staged.
fn detach(volume: &Volume) -> Result<()> {
    if volume.staged().is_some() {
        return Err(Error::Staged(volume.id()));
    }
    let image = volume.image();
    let device = match LoopDevice::find(&image) {
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(Some(device)) => device,
        Err(error) => return Err(Error::system("finding the device of", &image)(error)),
    };
    // Not staged, and yet in use: nobody is to lose what they have open, whatever is written down.
    let mounts = filesystem::mounts_of(&device.path())
        .map_err(|error| Error::system("listing mounts of", device.path())(std::io::Error::other(error)))?;
    if !mounts.is_empty() {
        return Err(Error::Staged(volume.id()));
    }
    device.detach().map_err(Error::system("detaching", device.path()))
}
