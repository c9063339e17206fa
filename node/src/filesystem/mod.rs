//! File systems on volumes: what a block device holds, making, checking, growing and mounting it.
//!
//! Everything here is synchronous and bounded in time. Commands that run (`mkfs`, `e2fsck`, `resize2fs`, `xfs_growfs`) are
//! those of the distribution; their standard error is part of the error that they cause.

use std::path::{Path, PathBuf};

pub use varve_csi::capability::Filesystem;

mod error;
pub use error::{Error, Result};

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

/// One line of `/proc/self/mountinfo`, see proc_pid_mountinfo(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id.
    pub id: u32,
    /// Device number of what is mounted: major and minor.
    pub device: (u32, u32),
    /// Which folder or file of the file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// Options of this mount, separated by commas.
    pub options: String,
    /// Type of the file system.
    pub filesystem: String,
    /// Its source, usually a device node.
    pub source: PathBuf,
    /// Options of the file system, separated by commas.
    pub super_options: String,
}

impl Mount {
    /// Whether this mount, or the file system as a whole, is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        [&self.options, &self.super_options].iter().any(|options| options.split(',').any(|option| option == "ro"))
    }
}

/// Tells what the device (or file) holds.
///
/// # Errors
/// The system's; `Unrecognised` where the first MiB is not zero and not known either.
pub fn probe(device: &Path) -> Result<Content> {
    let _ = device;
    unimplemented!()
}

/// Returns the smallest device, in bytes, that such a file system can be made on.
#[must_use]
pub fn minimum_bytes(filesystem: Filesystem) -> u64 {
    let _ = filesystem;
    unimplemented!()
}

/// Makes a file system on a blank device.
///
/// # Errors
/// `NotBlank` where [`probe`] says anything but [`Content::Blank`]; `ToolMissing`; what the tool said.
pub fn make(device: &Path, filesystem: Filesystem) -> Result<()> {
    let _ = (device, filesystem);
    unimplemented!()
}

/// Checks and repairs what needs it before a mount; the device must not be mounted.
///
/// # Errors
/// `Damaged` where it cannot be repaired without a person; `ToolMissing`.
pub fn check(device: &Path, filesystem: Filesystem) -> Result<Checked> {
    let _ = (device, filesystem);
    unimplemented!()
}

/// Grows the file system, mounted at `target`, to the size of its device. One that fills it already is left alone.
///
/// # Errors
/// `ToolMissing`; what the tool said.
pub fn grow(device: &Path, target: &Path, filesystem: Filesystem) -> Result<()> {
    let _ = (device, target, filesystem);
    unimplemented!()
}

/// Mounts `device` at the existing folder `target`, privately; `nouuid` is added for XFS, since clones share their uuid.
/// `flags` are mount options as in mount(8).
///
/// # Errors
/// The system's.
pub fn mount(device: &Path, target: &Path, filesystem: Filesystem, flags: &[String], read_only: bool) -> Result<()> {
    let _ = (device, target, filesystem, flags, read_only);
    unimplemented!()
}

/// Binds `source` (a folder, or a device node) to the existing `target` of the same sort.
///
/// # Errors
/// The system's; nothing is left mounted then.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let _ = (source, target, read_only);
    unimplemented!()
}

/// Unmounts whatever is mounted at `target`, all layers of it; neither a mount nor `target` itself has to be there.
///
/// # Errors
/// `Busy` where something uses it; the system's.
pub fn unmount(target: &Path) -> Result<()> {
    let _ = target;
    unimplemented!()
}

/// Lists all mounts of this mount namespace, in the order in which they were made.
///
/// # Errors
/// The system's.
pub fn mounts() -> Result<Vec<Mount>> {
    unimplemented!()
}

/// Lists the mounts of a block device, and the binds of its node (raw block volumes).
///
/// # Errors
/// The system's.
pub fn mounts_of(device: &Path) -> Result<Vec<Mount>> {
    let _ = device;
    unimplemented!()
}

/// Returns the topmost mount at exactly `path`.
///
/// # Errors
/// The system's.
pub fn mount_at(path: &Path) -> Result<Option<Mount>> {
    let _ = path;
    unimplemented!()
}

/// Tells whether something is mounted at exactly `path`.
///
/// # Errors
/// The system's.
pub fn is_mount(path: &Path) -> Result<bool> {
    Ok(mount_at(path)?.is_some())
}

/// Measures the file system that holds `path`.
///
/// # Errors
/// The system's.
pub fn usage(path: &Path) -> Result<Usage> {
    let _ = path;
    unimplemented!()
}
