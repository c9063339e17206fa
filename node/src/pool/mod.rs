//! The pool: the copy-on-write file system that holds images and cuts.
//!
//! ```text
//! pool.json                         uuid of the pool; its presence marks the folder as a pool
//! lock                              held (flock) by the one process that uses the pool
//! volumes/<volume>/record.json      what the node knows of the volume, see `volume`
//! volumes/<volume>/data/image       the volume's bytes, a sparse file
//! cuts/<snapshot>/record.json       what the node knows of the cut, see `cut`
//! cuts/<snapshot>/data/image        the cut's bytes, immutable
//! cuts/<snapshot>/journal           how far its offload has come
//! making/<anything>                 unfinished work of this process; emptied at the start
//! ```
//!
//! On btrfs every `data` is a subvolume and a cut's is a read-only snapshot; on XFS it is a folder and the image in it a
//! reflink. A folder is made below `making/` and renamed into place once it is whole and synced.

use std::{io, path::Path, path::PathBuf};

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

/// The kinds of copy-on-write file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// XFS with reflink.
    Xfs,
    /// btrfs.
    Btrfs,
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

    /// Clones the image of `data` into the new folder `into`, immutable. Called while writers are held: it does no more
    /// than must be done then.
    ///
    /// # Errors
    /// The system's; `into` is then as it was.
    fn cut(&self, data: &Path, into: &Path) -> io::Result<()>;

    /// Clones the image of `data` (a volume's or a cut's) into the new folder `into`, writable.
    ///
    /// # Errors
    /// The system's; `into` is then as it was.
    fn clone_writable(&self, data: &Path, into: &Path) -> io::Result<()>;

    /// Removes `data` and its image; whether it is there does not matter.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, data: &Path) -> io::Result<()>;

    /// Tells whether blocks may be moving at present (a btrfs balance), so that extent maps cannot be compared.
    ///
    /// # Errors
    /// The system's.
    fn moving(&self) -> io::Result<bool>;
}
