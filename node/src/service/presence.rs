//! Where a volume is at this moment, as the kernel tells: its device, and where that is mounted or bound.
//!
//! Nothing here is remembered, so that a process that was killed finds everything again.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use varve_repository::id::VolumeId;

use super::error::{Error, Result};
use crate::{
    device::{self, LoopDevice},
    filesystem::{self, Mount},
    pool::Pool,
    volume::Volume,
};

/// What ext4 shows among its options once it has stopped writing after an error, without being called `ro` (fs/ext4/super.c).
const GAVE_UP: [&str; 2] = ["emergency_ro", "shutdown"];

/// Tells whether a mounted file system takes writes.
pub(super) fn is_writable(mount: &Mount) -> bool {
    !mount.is_read_only() && !mount.super_options.split(',').any(|option| GAVE_UP.contains(&option))
}

/// Where a volume is.
#[derive(Debug)]
pub(super) struct Presence {
    /// The device that its image is attached to.
    pub(super) device: Option<LoopDevice>,
    /// The mounts of what is on the device, and the binds of its node.
    pub(super) mounts: Vec<Mount>,
}

/// What is mounted at a path.
#[derive(Debug)]
pub(super) enum At {
    /// Nothing.
    Nothing,
    /// The volume, or the node of its device.
    Volume(Mount),
    /// Something else.
    Other,
}

impl Presence {
    /// Asks the kernel about a volume of this node.
    pub(super) fn of(volume: &Volume) -> Result<Self> {
        let image = volume.image();
        let device = match LoopDevice::find(&image) {
            Ok(device) => device,
            // The image is lost, and yet a device may hold what was it: by its name then.
            Err(error) if error.kind() == ErrorKind::NotFound => device::all_below(volume.folder())
                .map_err(Error::system("list the devices of", volume.folder()))?
                .into_iter()
                .map(|(device, _)| device)
                .next(),
            Err(error) => return Err(Error::system("find the device of", image)(error)),
        };
        Self::of_device(device)
    }

    /// Asks the kernel about what is left of a volume that this node does not know any more, its pool being lost or made
    /// anew below its devices.
    pub(super) fn of_remains(pool: &Pool, id: VolumeId) -> Result<Self> {
        let volumes = pool.volumes_dir();
        let attached = match device::all_below(&volumes) {
            Ok(attached) => attached,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::system("list the devices of", volumes)(error)),
        };
        let name = id.to_string();
        let is_its = |image: &Path| image.components().any(|component| component.as_os_str() == name.as_str());
        Self::of_device(attached.into_iter().find(|(_, image)| is_its(image)).map(|(device, _)| device))
    }

    fn of_device(device: Option<LoopDevice>) -> Result<Self> {
        let mounts = match device {
            Some(device) => filesystem::mounts_of(&device.path())?,
            None => Vec::new(),
        };
        Ok(Self { device, mounts })
    }

    /// Tells what is mounted at exactly `path`.
    pub(super) fn at(&self, path: &Path) -> Result<At> {
        Ok(match filesystem::mount_at(path)? {
            None => At::Nothing,
            Some(mount) if self.mounts.iter().any(|own| own.id == mount.id) => At::Volume(mount),
            Some(_) => At::Other,
        })
    }

    /// Tells whether the volume, or the node of its device, is mounted at exactly `path`.
    pub(super) fn is_at(&self, path: &Path) -> Result<bool> {
        Ok(matches!(self.at(path)?, At::Volume(_)))
    }

    /// Returns a place where the volume is mounted besides `path`.
    pub(super) fn besides(&self, path: &Path) -> Result<Option<PathBuf>> {
        let here = match self.at(path)? {
            At::Volume(mount) => Some(mount.target),
            At::Nothing | At::Other => None,
        };
        Ok(self.mounts.iter().map(|mount| &mount.target).find(|target| Some(*target) != here.as_ref()).cloned())
    }

    /// Tells whether a file system of the volume is mounted anywhere.
    pub(super) fn is_mounted(&self) -> bool {
        !self.mounts.is_empty()
    }
}
