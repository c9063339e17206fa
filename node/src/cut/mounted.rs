//! What is to be done to a volume's users before its image is cut: which file systems to freeze, which devices to flush.
//!
//! Nothing is recorded about it: the kernel is asked which device the image is attached to, and where that is mounted.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{freeze::Freezable, sentinel::Sentinel};
use crate::{
    device::LoopDevice,
    filesystem::{self, Mount},
    sys,
};

/// What uses an image.
#[derive(Debug)]
pub(crate) enum Use {
    /// Nothing: it is not attached.
    Nothing,
    /// Its device, as a raw block volume or not mounted at present.
    Device(File),
    /// Its file system, on this device.
    Mounted(MountPoint, LoopDevice),
}

/// A mounted file system, held open at one of its mount points.
#[derive(Debug)]
pub(crate) struct MountPoint {
    path: PathBuf,
    folder: File,
    sentinel: Option<Arc<Sentinel>>,
}

impl Use {
    /// Finds out what uses the image.
    ///
    /// # Errors
    /// The system's; also where a mount is there and none of its mount points can be reached.
    pub(crate) fn of(image: &Path) -> io::Result<Self> {
        let Some(device) = LoopDevice::find(image)? else { return Ok(Self::Nothing) };
        let mounts = mounts_of(device)?;
        if mounts.is_empty() {
            return File::open(device.path()).map(Self::Device);
        }
        mounts.iter().find_map(MountPoint::open).map(|mount| Self::Mounted(mount, device)).ok_or_else(|| {
            let first = &mounts[0].target;
            io::Error::other(format!("{} is hidden below another mount and cannot be frozen", first.display()))
        })
    }

    /// Brings what its users wrote into the image, as far as that is possible without holding them.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn flush(&self) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Device(device) => device.sync_all(),
            Self::Mounted(mount, _) => Ok(rustix::fs::syncfs(mount.folder.as_fd())?),
        }
    }
}

/// Lists where the file system on a device is mounted; binds of the device's node are no mounts of what is on it.
///
/// # Errors
/// The system's.
pub(crate) fn mounts_of(device: LoopDevice) -> io::Result<Vec<Mount>> {
    let node = device.path();
    let number = fs::metadata(&node)?.rdev();
    let number = (rustix::fs::major(number), rustix::fs::minor(number));
    let mut mounts = filesystem::mounts_of(&node).map_err(io::Error::other)?;
    mounts.retain(|mount| mount.device == number);
    Ok(mounts)
}

impl MountPoint {
    /// Opens a mount point; `None` where something else is at its path, being mounted over it.
    pub(crate) fn open(mount: &Mount) -> Option<Self> {
        let folder = File::open(&mount.target).ok()?;
        let device = folder.metadata().ok()?.dev();
        let found = (rustix::fs::major(device), rustix::fs::minor(device));
        (found == mount.device).then(|| Self { path: mount.target.clone(), folder, sentinel: None })
    }

    /// Has a sentinel watch over its freezes.
    pub(crate) fn watched_by(self, sentinel: Option<Arc<Sentinel>>) -> Self {
        Self { sentinel, ..self }
    }
}

impl Freezable for MountPoint {
    fn freeze(&self) -> io::Result<()> {
        let Some(sentinel) = &self.sentinel else { return sys::freeze::freeze(&self.folder) };
        sentinel.freezes(&self.path);
        sys::freeze::freeze(&self.folder).inspect_err(|_| sentinel.thawed(&self.path))
    }

    fn thaw(&self) -> io::Result<()> {
        sys::freeze::thaw(&self.folder)?;
        if let Some(sentinel) = &self.sentinel {
            sentinel.thawed(&self.path);
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}
