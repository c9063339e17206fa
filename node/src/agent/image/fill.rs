//! What a new image is filled with: nothing, or the blocks of a volume or cut that is here.
//!
//! # Crash consistency
//!
//! A volume's folder is made below `making/` and renamed into place when it is whole and durable. What is not finished is
//! removed, at the latest by the next start.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use rustix::{fs::SeekFrom, io::Errno};
use tokio_util::sync::CancellationToken;
use varve_repository::{
    id::{SnapshotId, VolumeId},
    record::{snapshot::SnapshotDescription, volume::Source},
};

use super::{Agent, Error, Result, Wanted};
use crate::{
    cut::{
        self, Cut, keep,
        making::{self, Member},
    },
    pool::IMAGE,
    volume::{self, DATA, Record, Volume},
};

/// A volume's folder below `making/`, removed on drop unless it was put into place. Every method blocks.
pub(super) struct Making {
    agent: Agent,
    folder: PathBuf,
    placed: bool,
}

impl Making {
    pub(super) fn new(agent: &Agent, id: VolumeId) -> Result<Self> {
        let pool = agent.pool();
        let folder =
            pool.make_folder(&id.to_string()).map_err(Error::system("making a folder in", pool.making_dir()))?;
        Ok(Self { agent: agent.clone(), folder, placed: false })
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    pub(super) fn image(&self) -> PathBuf {
        self.data().join(IMAGE)
    }

    /// Makes the image as long as is wanted, and the volume durable and known.
    pub(super) fn place(mut self, wanted: &Wanted, origin: Option<SnapshotId>) -> Result<Volume> {
        let image = self.image();
        grow(&image, wanted.capacity_bytes)?;
        let record = Record {
            id: wanted.id,
            name: wanted.name.clone(),
            incarnation: wanted.incarnation,
            capacity_bytes: wanted.capacity_bytes,
            presentation: wanted.presentation,
            offload: wanted.offload,
            repository: self.agent.repository().uuid(),
            source: wanted.source,
            origin,
            // A source that nobody ever formatted left nothing to keep, and its copy is formatted like a new volume.
            formatted: wanted.source.is_some() && holds_data(&image).map_err(Error::system("reading", &image))?,
            created_at: self.agent.repository().seams().clock.now(),
        };
        volume::write_record(&self.folder, &record).map_err(Error::system("writing the record of", &self.folder))?;
        let place = self.agent.pool().volume_dir(wanted.id);
        let pool = self.agent.pool();
        let volume = pool
            .commit_folder(&self.folder, &place)
            .and_then(|()| Volume::load(place.clone()))
            .inspect_err(|error| {
                // Where only the last step failed, it is there and nobody answers for it: a repeated call would find
                // its place taken.
                if error.kind() != io::ErrorKind::AlreadyExists
                    && let Err(error) = pool.remove_folder(&place)
                {
                    tracing::error!(folder = %place.display(), %error, "an image that failed stays until the next start");
                }
            })
            .map_err(Error::system("putting in place", &place))?;
        self.placed = true;
        self.agent.volumes().insert(volume.clone());
        tracing::info!(volume = %wanted.id, bytes = wanted.capacity_bytes, source = ?wanted.source, "image made");
        Ok(volume)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = self.agent.pool().remove_folder(&self.folder)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "unfinished work stays until the next start");
        }
    }
}

impl Agent {
    /// Makes a volume's image and fills it.
    pub(super) async fn fill(&self, wanted: Wanted, cancel: CancellationToken) -> Result<()> {
        match wanted.source {
            None => self.block(move |agent| agent.fill_with_nothing(&wanted)).await,
            Some(Source::Volume(source)) => {
                let held = self.hold(source)?;
                let source = self.volumes().get(&source).ok_or(Error::NoVolume(source))?;
                self.block(move |agent| {
                    let _held = held;
                    agent.fill_from_volume(&wanted, &source)
                })
                .await
            }
            Some(Source::Snapshot(source)) => {
                let lock = self.0.creations.source(source);
                let _one_at_a_time = tokio::select! {
                    guard = lock.lock() => guard,
                    () = cancel.cancelled() => return Err(self.cancelled(wanted.id)),
                };
                let lease = match self.cuts().get(&source) {
                    Some(cut) => cut.lease().await.map(|lease| (cut, lease)),
                    None => None,
                };
                match lease {
                    Some((cut, lease)) => {
                        self.block(move |agent| {
                            let _lease = lease;
                            agent.fill_from_cut(&wanted, &cut)
                        })
                        .await
                    }
                    None => self.hydrate(wanted, source, cancel).await,
                }
            }
        }
    }

    /// Why the making of an image was interrupted.
    pub(super) fn cancelled(&self, id: VolumeId) -> Error {
        if self.0.stop.is_cancelled() { Error::Stopping } else { Error::Cancelled(id) }
    }

    fn fill_with_nothing(&self, wanted: &Wanted) -> Result<()> {
        let making = Making::new(self, wanted.id)?;
        let data = making.data();
        self.pool().filesystem().create(&data, wanted.capacity_bytes).map_err(Error::system("making", &data))?;
        making.place(wanted, None)?;
        Ok(())
    }

    fn fill_from_cut(&self, wanted: &Wanted, cut: &Cut) -> Result<()> {
        let record = cut.record();
        fits(wanted, record.description.capacity_bytes)?;
        let making = Making::new(self, wanted.id)?;
        self.pool()
            .filesystem()
            .clone_writable(&cut.data(), &making.data())
            .map_err(Error::system("cloning", cut.data()))?;
        // A cut that never goes to the repository is no base, but it shares its blocks with what its volume has there.
        let origin = match record.state {
            cut::State::Pending | cut::State::Base | cut::State::Failed { .. } | cut::State::GivenUp { .. } => {
                Some(cut.id())
            }
            cut::State::NodeOnly => {
                let lineage = (record.description.volume, record.description.incarnation);
                keep::base(&self.cuts().list(), lineage, record.origin)
            }
        };
        making.place(wanted, origin)?;
        Ok(())
    }

    /// Cuts the source as for a snapshot, so that the clone is of one instant also while the source is written to.
    fn fill_from_volume(&self, wanted: &Wanted, source: &Volume) -> Result<()> {
        let from = source.record();
        fits(wanted, from.capacity_bytes)?;
        let pool = self.pool();
        let seams = self.repository().seams();
        let id = SnapshotId::from_bytes(seams.random());
        let description = SnapshotDescription {
            id,
            name: String::new(),
            volume: from.id,
            volume_name: from.name.clone(),
            incarnation: from.incarnation,
            capacity_bytes: from.capacity_bytes,
            presentation: from.presentation,
            created_at: seams.clock.now(),
            node: self.node_id().to_owned(),
            group: None,
            frozen: false,
            pause_nanos: 0,
            parameters: Default::default(),
        };
        let record =
            cut::Record { description, state: cut::State::NodeOnly, origin: from.origin, offload: from.offload };
        let making = Making::new(self, wanted.id)?;
        let folder =
            pool.make_folder(&id.to_string()).map_err(Error::system("making a folder in", pool.making_dir()))?;
        let member = Member { data: source.data(), record };
        let hold = self.config().hold();
        let cloned = making::make(&**pool.filesystem(), folder.clone(), vec![member], &hold, &*seams.clock)
            .map_err(Error::from)
            .and_then(|made| {
                let cut = made.data(id);
                pool.filesystem().clone_writable(&cut, &making.data()).map_err(Error::system("cloning", cut))
            });
        if let Err(error) = pool.remove_folder(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "unfinished work stays until the next start");
        }
        cloned?;
        let origin = keep::base(&self.cuts().list(), (from.id, from.incarnation), from.origin);
        making.place(wanted, origin)?;
        Ok(())
    }
}

/// Checks that a source fits into what is wanted.
pub(super) fn fits(wanted: &Wanted, source_bytes: u64) -> Result<()> {
    if source_bytes > wanted.capacity_bytes {
        return Err(Error::Smaller { bytes: wanted.capacity_bytes, source_bytes });
    }
    Ok(())
}

/// Makes an image longer, durably; never shorter.
pub(super) fn grow(image: &Path, bytes: u64) -> Result<()> {
    let grown = || {
        if fs::metadata(image)?.len() < bytes {
            let file = OpenOptions::new().write(true).open(image)?;
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        Ok(())
    };
    grown().map_err(Error::system("growing", image))
}

/// Tells whether anything was ever written to an image.
fn holds_data(image: &Path) -> io::Result<bool> {
    match rustix::fs::seek(File::open(image)?, SeekFrom::Data(0)) {
        Ok(_) => Ok(true),
        // lseek(2): no data from there to the end.
        Err(Errno::NXIO) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
