//! The file system of a volume, made at its first staging and checked at every later one.
//!
//! # Crash consistency
//!
//! The volume's record says whether its file system was ever completed. Until it does, nothing was ever mounted, and
//! whatever an unfinished mkfs left is emptied and made anew. It says so durably, and after the file system itself is
//! durable, before the first mount; from then on nothing is ever made again, whatever the device is found to hold.

use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
};

use rustix::fs::FallocateFlags;

use super::{
    error::{Error, Result},
    stage::attach,
};
use crate::{
    device::LoopDevice,
    filesystem::{self, Checked, Content, Filesystem},
    volume::Volume,
};

/// Whether the file system is as old as the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// It was made just now, as large as the device.
    New,
    /// It was there.
    Old,
}

/// Attaches a volume that is not mounted anywhere, and makes its file system where none was ever completed, or checks the
/// one that is there. `device` is the one that it is attached to already, if any.
pub(super) fn prepare(
    volume: &Volume,
    device: Option<LoopDevice>,
    filesystem: Filesystem,
) -> Result<(LoopDevice, Age)> {
    if !volume.record().formatted {
        empty(volume, device)?;
        let device = attach(volume)?;
        make(volume, device, filesystem)?;
        return Ok((device, Age::New));
    }
    let device = attach(volume)?;
    let path = device.path();
    match filesystem::probe(&path)? {
        Content::Filesystem(found) if found == filesystem => {
            if filesystem::check(&path, filesystem)? == Checked::Repaired {
                tracing::warn!(volume = %volume.id(), %filesystem, "repaired");
            }
            Ok((device, Age::Old))
        }
        content => {
            let presentation = volume.record().presentation;
            Err(Error::Content { id: volume.id(), presentation, content })
        }
    }
}

/// Empties the image of a volume that no file system was ever completed on.
fn empty(volume: &Volume, device: Option<LoopDevice>) -> Result<()> {
    // Detached first: what the device caches would shine through, and a mkfs that outlived its caller holds it open.
    if let Some(device) = device {
        let busy = |source| Error::DeviceBusy { id: volume.id(), device: device.path(), source };
        device.detach().map_err(busy)?;
    }
    let image = volume.image();
    if !matches!(filesystem::probe(&image), Ok(Content::Blank)) {
        tracing::warn!(volume = %volume.id(), "formatting was cut short: the image is emptied and formatted anew");
    }
    let empty = |file: File| {
        let bytes = file.metadata()?.len();
        rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, bytes)?;
        file.sync_all()
    };
    match OpenOptions::new().write(true).open(&image) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::ImageLost(image)),
        opened => opened.and_then(empty).map_err(Error::system("empty", &image)),
    }
}

/// Makes the file system, and then has the record say so.
fn make(volume: &Volume, device: LoopDevice, filesystem: Filesystem) -> Result<()> {
    let path = device.path();
    filesystem::make(&path, filesystem)?;
    File::open(&path).and_then(|file| file.sync_all()).map_err(Error::system("sync", &path))?;
    volume
        .update(|record| record.formatted = true)
        .map_err(Error::system("record the formatting of", volume.folder()))?;
    tracing::info!(volume = %volume.id(), %filesystem, "formatted");
    Ok(())
}
