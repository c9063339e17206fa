//! A cut's folder: its record, its image, and how far its offload has come; and how cuts are made.
//!
//! ```text
//! cuts/<snapshot>/record.json    see `record`
//! cuts/<snapshot>/data/image     the cut's bytes, immutable
//! cuts/<snapshot>/journal        packs of its offload that are stored already, written by the repository
//! cuts/<group>.group/<snapshot>  members of a group on their way to their own places, see `making`
//! ```
//!
//! # Invariants
//!
//! A folder `cuts/<snapshot>` holds a whole, durable cut, made while its writers were held, or it is not there. The
//! members of a group are there together or not at all.
//!
//! # Concurrency
//!
//! Whoever reads a cut's image holds a lease of it; whoever removes the cut first asks readers to end
//! and then waits for the last lease.

pub mod freeze;
mod haste;
pub(crate) mod keep;
pub mod making;
pub(crate) mod mounted;
mod record;
mod registry;
pub mod sentinel;
mod stranded;
mod tracker;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

pub use record::{Record, State};
pub use registry::Cuts;
pub use stranded::Stranded;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};
use tokio_util::sync::CancellationToken;
use varve_repository::{id::SnapshotId, progress::Progress, stages::Stages};

use crate::{durable, pool, volume::DATA};

const RECORD: &str = "record.json";
const JOURNAL: &str = "journal";

/// A cut that this node holds. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Cut(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: SnapshotId,
    folder: PathBuf,
    /// Held while the record is written, so that two changes do not overwrite one another.
    writing: Mutex<()>,
    record: Mutex<Record>,
    status: watch::Sender<Status>,
    progress: Mutex<Progress>,
    removal: CancellationToken,
    lease: Arc<RwLock<()>>,
}

/// How a cut is doing, as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its offload waits for its turn or for the store; the message says for what, where that is worth saying.
    Pending {
        /// Empty, or the last failure.
        message: String,
    },
    /// Its offload is under way.
    Offloading,
    /// Its root is committed, or it is kept on the node alone.
    Ready,
    /// Its offload cannot succeed without a person.
    Failed {
        /// What went wrong and what to do.
        message: String,
    },
    /// It is gone.
    Removed,
}

impl Status {
    /// Tells whether nothing more will happen by itself.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Ready | Self::Failed { .. } | Self::Removed)
    }

    fn of(state: &State) -> Self {
        match state {
            State::Pending => Self::Pending { message: String::new() },
            State::Base | State::NodeOnly => Self::Ready,
            State::Failed { message } | State::GivenUp { message } => Self::Failed { message: message.clone() },
        }
    }
}

impl Cut {
    /// Reads a cut's folder.
    ///
    /// # Errors
    /// The system's; `InvalidData` where the record is missing or cannot be read.
    pub(crate) fn load(folder: PathBuf) -> io::Result<Self> {
        let record: Record = durable::read(&folder.join(RECORD))?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} has no {RECORD}", folder.display()))
        })?;
        let removal = CancellationToken::new();
        if matches!(record.state, State::GivenUp { .. }) {
            // There is nothing to read.
            removal.cancel();
        }
        Ok(Self(Arc::new(Inner {
            id: record.description.id,
            folder,
            writing: Mutex::new(()),
            status: watch::Sender::new(Status::of(&record.state)),
            record: Mutex::new(record),
            progress: Mutex::default(),
            removal,
            lease: Arc::default(),
        })))
    }

    /// The snapshot's id.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.0.id
    }

    /// Its record, as of now.
    #[must_use]
    pub fn record(&self) -> Record {
        self.0.record.lock().expect("no holder panics").clone()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The folder that holds its image, as [`PoolFilesystem`](pool::PoolFilesystem) takes it.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.0.folder.join(DATA)
    }

    /// Its image.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.data().join(pool::IMAGE)
    }

    /// Where its offload writes down how far it has come.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.folder.join(JOURNAL)
    }

    /// How it is doing, and a way to wait for that to change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// How far its offload has come; all zero while none is under way.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.progress.lock().expect("no holder panics").clone()
    }

    /// Starts counting afresh, for a new attempt; where its time goes counts in `total` as well.
    pub(crate) fn restart_progress(&self, total: &Stages) -> Progress {
        let progress = Progress::within(total);
        *self.0.progress.lock().expect("no holder panics") = progress.clone();
        progress
    }

    /// Says how it is doing, to those who watch. Nothing is written down.
    pub(crate) fn set_status(&self, status: Status) {
        self.0.status.send_if_modified(|current| {
            // Gone is gone: an attempt that ends late does not bring it back.
            let changes = *current != Status::Removed && *current != status;
            if changes {
                *current = status;
            }
            changes
        });
    }

    /// Changes what becomes of it, durably, and tells those who watch; blocks.
    ///
    /// # Errors
    /// The system's; the record is then as it was, as far as this process is concerned.
    pub(crate) fn set_state(&self, state: State) -> io::Result<()> {
        let _writing = self.0.writing.lock().expect("no holder panics");
        let mut record = self.record();
        record.state = state;
        durable::write(&self.0.folder.join(RECORD), &record)?;
        let status = Status::of(&record.state);
        *self.0.record.lock().expect("no holder panics") = record;
        self.set_status(status);
        Ok(())
    }

    /// Cancelled once the cut is to go: whoever works on it ends soon.
    pub(crate) fn removal(&self) -> &CancellationToken {
        &self.0.removal
    }

    /// Keeps the cut's image in place for as long as the guard lives; `None` once the cut is to go.
    pub(crate) async fn lease(&self) -> Option<OwnedRwLockReadGuard<()>> {
        let guard = Arc::clone(&self.0.lease).read_owned().await;
        (!self.0.removal.is_cancelled()).then_some(guard)
    }

    /// Tells whether somebody reads the image at present.
    pub(crate) fn is_read(&self) -> bool {
        self.0.lease.try_write().is_err()
    }

    /// Asks readers to end and waits until the last one has.
    pub(crate) async fn evict(&self) -> OwnedRwLockWriteGuard<()> {
        self.0.removal.cancel();
        Arc::clone(&self.0.lease).write_owned().await
    }
}

/// Writes the record of a cut that is being made into its folder below `making/`.
///
/// # Errors
/// The system's.
pub(crate) fn write_record(folder: &Path, record: &Record) -> io::Result<()> {
    durable::write(&folder.join(RECORD), record)
}
