//! A volume's folder: its record, how it is staged, and its image.
//!
//! ```text
//! volumes/<volume>/record.json    see `record`
//! volumes/<volume>/staged.json    see `staged`; absent while the volume is not staged
//! volumes/<volume>/data/image     the volume's bytes
//! ```
//!
//! # Invariants
//!
//! A folder below `volumes/` holds a whole image and a record: it is made below `making/` and renamed into place, and
//! leaves by being renamed back. The image is never shorter than the record's capacity.
//!
//! # Concurrency
//!
//! The process has the pool to itself, so the folders are read once and memory is what counts: a change is made durable
//! first and seen second. Writers of one volume are serialised here; what may be done at the same time at all is decided
//! above, by [`Exclusive`](varve_csi::exclusive::Exclusive) calls.

mod record;
mod registry;
mod room;
mod staged;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

pub use record::Record;
pub use registry::Volumes;
pub(crate) use room::Limits;
pub use room::{NoRoom, Reservation};
pub use staged::{Access, Publication, Staged};
use varve_repository::id::VolumeId;

use crate::{durable, pool};

const RECORD: &str = "record.json";
const STAGED: &str = "staged.json";
/// Name of the folder that holds a volume's or a cut's image.
pub(crate) const DATA: &str = "data";

/// A volume whose image this node holds. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Volume(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: VolumeId,
    folder: PathBuf,
    /// Held while a record is written, so that two changes do not overwrite one another.
    writing: Mutex<()>,
    state: Mutex<State>,
}

/// All that is known of a volume at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its record.
    pub record: Record,
    /// How it is staged; `None` while it is not.
    pub staged: Option<Staged>,
}

impl Volume {
    /// Reads a volume's folder.
    ///
    /// # Errors
    /// The system's; `InvalidData` where a record is missing or cannot be read.
    pub(crate) fn load(folder: PathBuf) -> io::Result<Self> {
        let record: Record = durable::read(&folder.join(RECORD))?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} has no {RECORD}", folder.display()))
        })?;
        let staged = durable::read(&folder.join(STAGED))?;
        let id = record.id;
        let state = Mutex::new(State { record, staged });
        Ok(Self(Arc::new(Inner { id, folder, writing: Mutex::new(()), state })))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.0.id
    }

    /// Its record and staging, as of now.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Its record, as of now.
    #[must_use]
    pub fn record(&self) -> Record {
        self.lock().record.clone()
    }

    /// How it is staged, as of now.
    #[must_use]
    pub fn staged(&self) -> Option<Staged> {
        self.lock().staged.clone()
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

    /// Changes its record, durably; blocks.
    ///
    /// # Errors
    /// The system's; the record is then as it was, as far as this process is concerned.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Record)) -> io::Result<Record> {
        let _writing = self.0.writing.lock().expect("no holder panics");
        let mut record = self.record();
        change(&mut record);
        durable::write(&self.0.folder.join(RECORD), &record)?;
        self.lock().record = record.clone();
        Ok(record)
    }

    /// Writes down how it is staged, durably; blocks. `None` when it no longer is.
    ///
    /// # Errors
    /// The system's; what is written down is then as it was, as far as this process is concerned.
    pub fn set_staged(&self, staged: Option<Staged>) -> io::Result<()> {
        let _writing = self.0.writing.lock().expect("no holder panics");
        let path = self.0.folder.join(STAGED);
        match &staged {
            Some(staged) => durable::write(&path, staged)?,
            None => durable::remove(&path)?,
        }
        self.lock().staged = staged;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder panics")
    }
}

/// Writes the record of a volume that is being made into its folder below `making/`.
///
/// # Errors
/// The system's.
pub(crate) fn write_record(folder: &Path, record: &Record) -> io::Result<()> {
    durable::write(&folder.join(RECORD), record)
}
