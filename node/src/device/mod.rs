//! Loop devices: how an image becomes a block device.
//!
//! # Concurrency
//! Attaching is free of races: the kernel hands out a free number (`LOOP_CTL_GET_FREE`), and `LOOP_CONFIGURE` sets the
//! device up in one step or answers `EBUSY`, upon which another number is asked for. Two callers that want *one* device
//! for one image must be kept apart by their caller ([`LoopDevice::attach_or_find`] alone does not do it).
//!
//! # Crash consistency
//! Nothing is recorded: which image is attached where is the kernel's knowledge and is read from it, so a process that
//! was killed finds its devices again with [`LoopDevice::find`] and [`all_below`].

use std::{
    io,
    path::{Path, PathBuf},
};

/// How an image is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether writes to the device fail.
    pub read_only: bool,
    /// Whether the device goes past the page cache, where the file system below allows it.
    pub direct_io: bool,
    /// Logical block size in bytes: a power of two from 512 to 4096.
    pub block_size: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { read_only: false, direct_io: true, block_size: 4096 }
    }
}

/// An attached loop device, named by its number. Dropping it does not detach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoopDevice {
    number: u32,
}

impl LoopDevice {
    /// Attaches `image` to a free device.
    ///
    /// # Errors
    /// The system's.
    pub fn attach(image: &Path, options: Options) -> io::Result<Self> {
        let _ = (image, options);
        unimplemented!()
    }

    /// Finds a device whose backing file is `image` (by device and inode number, not by name).
    ///
    /// # Errors
    /// The system's; `NotFound` where `image` is not there.
    pub fn find(image: &Path) -> io::Result<Option<Self>> {
        let _ = image;
        unimplemented!()
    }

    /// Returns the device that `image` is attached to, attaching it where it is not.
    ///
    /// # Errors
    /// The system's.
    pub fn attach_or_find(image: &Path, options: Options) -> io::Result<Self> {
        let _ = (image, options);
        unimplemented!()
    }

    /// Detaches the device and waits until the kernel has let go of the file. A device that is not attached is fine.
    ///
    /// # Errors
    /// `ResourceBusy` where something still holds the device open after a bounded wait; the kernel then detaches it by
    /// itself when that lets go.
    pub fn detach(self) -> io::Result<()> {
        unimplemented!()
    }

    /// Makes the device as large as its image has become.
    ///
    /// # Errors
    /// The system's.
    pub fn refresh_size(self) -> io::Result<()> {
        unimplemented!()
    }

    /// Returns the device's size in bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn size(self) -> io::Result<u64> {
        unimplemented!()
    }

    /// Returns the device node: `/dev/loopN`.
    #[must_use]
    pub fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }
}

/// Lists the attached devices whose backing file lies below `folder`, with that file.
///
/// # Errors
/// The system's.
pub fn all_below(folder: &Path) -> io::Result<Vec<(LoopDevice, PathBuf)>> {
    let _ = folder;
    unimplemented!()
}

/// An attached device that is detached on drop: for short use.
#[derive(Debug)]
pub struct Attached(LoopDevice);

impl Attached {
    /// Attaches `image`.
    ///
    /// # Errors
    /// As [`LoopDevice::attach`].
    pub fn new(image: &Path, options: Options) -> io::Result<Self> {
        LoopDevice::attach(image, options).map(Self)
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> LoopDevice {
        self.0
    }

    /// Returns the device node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Err(error) = self.0.detach() {
            tracing::warn!(device = %self.0.path().display(), %error, "a loop device could not be detached");
        }
    }
}
