//! The pool: the copy-on-write file system that holds images and cuts.
//!
//! ```text
//! pool.json                         uuid of the pool; its presence marks the folder as a pool
//! repository.json                   the repository that the cuts go to, see `agent::reconcile`
//! lock                              held (flock) by the one process that uses the pool
//! volumes/<volume>/record.json      what the node knows of the volume, see `volume`
//! volumes/<volume>/data/image       the volume's bytes, a sparse file
//! volumes/<volume>/staged.json      how it is staged and published, while it is
//! cuts/<snapshot>/record.json       what the node knows of the cut, see `cut`
//! cuts/<snapshot>/data/image        the cut's bytes, immutable
//! cuts/<snapshot>/journal           how far its offload has come
//! cuts/<group>.group/<snapshot>     a committed group on its way to its members' own places, see `cut::making`
//! making/<anything>                 unfinished work of this process; emptied at the start
//! ```
//!
//! On btrfs every `data` is a subvolume and a cut's is a read-only snapshot; on XFS it is a folder and the image in it a
//! reflink. A folder is made below `making/` and renamed into place once it is whole and synced.
//!
//! # Crash consistency
//! A folder below `volumes/` or `cuts/` is whole from the moment that it has its name ([`Pool::commit_folder`]) to the moment
//! that it loses it ([`Pool::remove_folder`]); what is between lies in `making/` and is removed at the next start. A pool's
//! image is made under another name and renamed once it is formatted. A process that is killed leaves a pool image attached
//! and mounted, and the next one takes both over.
//!
//! # Concurrency
//! A pool is used by one process: `lock`, and the image file itself, are held with flock(2), which the kernel releases however
//! the process ends. Within it, calls on different folders need no ordering.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;
use varve_repository::id::{SnapshotId, VolumeId};

mod btrfs;
mod error;
mod folder;
mod image;
mod open;
mod tree;
mod xfs;

pub use btrfs::Btrfs;
pub use error::{PoolError, PoolErrorKind};
pub use xfs::Xfs;

/// Name of the image in a `data` folder.
pub const IMAGE: &str = "image";

/// Where a pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder on a file system with reflinks.
    Folder(PathBuf),
    /// A file with such a file system in it, made when absent, attached and mounted by the node.
    Image {
        /// The file.
        file: PathBuf,
        /// Its size when it is made, in bytes.
        bytes: u64,
        /// What it is formatted with when it is made.
        filesystem: Kind,
    },
}

impl Location {
    /// The folder or file by which people know the pool.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::Image { file, .. } => file,
        }
    }
}

/// The kinds of copy-on-write file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// XFS with reflink.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl Kind {
    /// Its name, as mount(8) and the configuration know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The smallest that can be made, in bytes (mkfs.xfs(8), "at least 300 MiB"; mkfs.btrfs(8) needs some 109 MiB).
    #[must_use]
    pub const fn smallest(self) -> u64 {
        match self {
            Self::Xfs => 300 << 20,
            Self::Btrfs => 128 << 20,
        }
    }
}

/// The file system's side of images and cuts. One conformance suite runs against every implementation.
///
/// `data` folders lie below the pool and are named by the caller. Nothing here syncs the folder that holds them.
pub trait PoolFilesystem: Send + Sync + std::fmt::Debug {
    /// Which kind it is.
    fn kind(&self) -> Kind;

    /// Makes `data` with a sparse image of `bytes` in it.
    ///
    /// # Errors
    /// The system's; `AlreadyExists` where `data` is there.
    fn create(&self, data: &Path, bytes: u64) -> io::Result<()>;

    /// Does what can be done of a cut before writers are held, so that [`cut`](Self::cut) is short. It need not be called.
    ///
    /// # Errors
    /// The system's; `into` may then be there in part, and is to be removed or prepared again.
    fn prepare(&self, data: &Path, into: &Path) -> io::Result<()>;

    /// As [`prepare`](Self::prepare), calling `between` after every step: some milliseconds apart, as far as the file system
    /// works in steps.
    ///
    /// # Errors
    /// As `prepare`, and those of `between`.
    fn prepare_in_steps(
        &self,
        data: &Path,
        into: &Path,
        between: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        self.prepare(data, into)?;
        between()
    }

    /// Clones these ranges, in bytes and of whole blocks, into a prepared folder once more: what was written to them since.
    ///
    /// # Errors
    /// The system's; `into` is then to be removed.
    fn renew(&self, _data: &Path, _into: &Path, _written: &[Range<u64>]) -> io::Result<()> {
        Ok(())
    }

    /// As [`cut`](Self::cut), of a prepared folder in which nothing but these ranges is out of date.
    ///
    /// # Errors
    /// As `cut`.
    fn cut_written(&self, data: &Path, into: &Path, _written: &[Range<u64>]) -> io::Result<()> {
        self.cut(data, into)
    }

    /// Tells whether a cut takes longer the more extents the image has, unless it is told what was written.
    fn walks_extents(&self) -> bool {
        false
    }

    /// Clones the image of `data` into the new or prepared folder `into`, immutable. Called while writers are held: it
    /// does no more than must be done then.
    ///
    /// # Errors
    /// The system's; a new `into` is then not there, a prepared one is to be removed.
    fn cut(&self, data: &Path, into: &Path) -> io::Result<()>;

    /// Clones the image of `data` (a volume's or a cut's) into the new folder `into`, writable.
    ///
    /// # Errors
    /// The system's; `into` is then not there.
    fn clone_writable(&self, data: &Path, into: &Path) -> io::Result<()>;

    /// Removes `data` and its image, immutable or not; whether it is there does not matter. Blocks may be freed later.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, data: &Path) -> io::Result<()>;

    /// Has what was removed counted as free soon, and gives back what the file system on which `root` lies took ahead of
    /// writes. It may end before everything is counted.
    ///
    /// # Errors
    /// The system's.
    fn reclaim(&self, root: &Path) -> io::Result<()>;

    /// Tells whether blocks may be moving at present (a btrfs balance), so that extent maps cannot be compared.
    ///
    /// # Errors
    /// The system's.
    fn moving(&self) -> io::Result<bool>;
}

/// A pool's sizes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of it.
    pub capacity: u64,
    /// What can still be written.
    pub free: u64,
}

/// An open pool. It is this process's alone until it is closed or dropped.
///
/// Dropping it gives up the lock and leaves an image attached and mounted, as a killed process would; the next
/// [`Pool::open`] finds it so. [`Pool::close`] puts it away.
#[derive(Debug)]
pub struct Pool {
    root: PathBuf,
    uuid: Uuid,
    filesystem: Arc<dyn PoolFilesystem>,
    held: Mutex<Option<open::Held>>,
}

// === impl Pool ===

impl Pool {
    /// Opens the pool, making it where nothing is there yet, and empties `making/`.
    ///
    /// # Errors
    /// `InUse`, `Unusable`, or the system's.
    pub fn open(location: &Location) -> Result<Self, PoolError> {
        open::open(location)
    }

    /// The pool's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file system's side of images and cuts.
    #[must_use]
    pub fn filesystem(&self) -> &Arc<dyn PoolFilesystem> {
        &self.filesystem
    }

    /// The pool's identity, made once.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// `volumes/`
    #[must_use]
    pub fn volumes_dir(&self) -> PathBuf {
        self.root.join(folder::VOLUMES)
    }

    /// `cuts/`
    #[must_use]
    pub fn cuts_dir(&self) -> PathBuf {
        self.root.join(folder::CUTS)
    }

    /// `making/`
    #[must_use]
    pub fn making_dir(&self) -> PathBuf {
        self.root.join(folder::MAKING)
    }

    /// `volumes/<volume>`
    #[must_use]
    pub fn volume_dir(&self, volume: VolumeId) -> PathBuf {
        self.volumes_dir().join(volume.to_string())
    }

    /// `cuts/<snapshot>`
    #[must_use]
    pub fn cut_dir(&self, snapshot: SnapshotId) -> PathBuf {
        self.cuts_dir().join(snapshot.to_string())
    }

    /// Makes a new, empty folder in `making/`, whose name begins with `name`.
    ///
    /// # Errors
    /// The system's.
    pub fn make_folder(&self, name: &str) -> io::Result<PathBuf> {
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(self.making_dir())?;
        Ok(folder.keep())
    }

    /// Syncs everything in `from` (a folder in `making/`), renames it to `to` and makes that durable.
    ///
    /// # Errors
    /// The system's; `AlreadyExists` where `to` is there. Only an error of the last sync leaves `to` in place.
    pub fn commit_folder(&self, from: &Path, to: &Path) -> io::Result<()> {
        tree::sync(from)?;
        tree::rename(from, to)
    }

    /// Removes a folder of the pool with everything in it (subvolumes and immutable files included): durably renamed
    /// into `making/` first, so that nothing ever sees it half removed. One that is not there is fine.
    ///
    /// # Errors
    /// The system's.
    pub fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.parent() == Some(&self.making_dir()) {
            return tree::remove(folder);
        }
        let doomed = self.make_folder("removed")?;
        let result = match tree::rename(folder, &doomed.join("folder")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        result.and(tree::remove(&doomed))
    }

    /// Measures the pool.
    ///
    /// # Errors
    /// The system's.
    pub fn usage(&self) -> io::Result<Usage> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(Usage {
            capacity: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    /// Gives the pool up: releases the lock and, for an image, unmounts and detaches it. While volumes are still staged
    /// (their devices hold it) the image stays mounted, which is no error: the next [`Pool::open`] takes it over.
    ///
    /// # Errors
    /// The system's.
    pub fn close(&self) -> Result<(), PoolError> {
        // A poisoned lock means that another close panicked: what it left is what there is to put away.
        match self.held.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(held) => held.close(),
            None => Ok(()),
        }
    }
}
