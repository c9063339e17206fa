//! File systems on volumes: what a block device holds, making, checking, growing and mounting it.
//!
//! Everything here is synchronous and bounded in time. Commands that run (`mkfs`, `e2fsck`, `xfs_growfs`, `resize2fs`) are
//! those of the distribution; the end of what they wrote is part of the error that they cause.
//!
//! # Crash consistency
//! Nothing is remembered: what is mounted where is read from the kernel each time. A `mkfs` that was cut short leaves a blank
//! device, an XFS that says of itself that it is being made (both are made anew), or, in the moments in which mke2fs writes
//! its tables, an unrecognised one, which takes a person.

pub(crate) mod command;
mod error;
mod grow;
mod make;
mod mount;
mod options;
mod probe;
mod repair;
mod table;

pub use error::{Error, Result};
pub use grow::grow;
pub use make::{make, minimum_bytes};
pub(crate) use mount::mount_as;
pub use mount::{bind, mount, unmount, usage};
pub use probe::probe;
pub use repair::check;
pub use table::{Mount, is_mount, mount_at, mounts, mounts_of};
pub use varve_csi::capability::Filesystem;

/// What a block device was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: the places where anything known would begin are zero.
    Blank,
    /// A file system that volumes can have.
    Filesystem(Filesystem),
    /// Something else, named.
    Other(&'static str),
}

/// What a check did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Nothing was needed, or the mount will replay the journal.
    Clean,
    /// It was repaired.
    Repaired,
}

/// Sizes of a mounted file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All bytes.
    pub total_bytes: u64,
    /// Bytes that an unprivileged writer may still use.
    pub available_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// All inodes; 0 where the file system does not count them.
    pub total_inodes: u64,
    /// Free inodes.
    pub available_inodes: u64,
    /// Inodes in use.
    pub used_inodes: u64,
}
