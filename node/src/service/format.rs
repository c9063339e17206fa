//! The file system of a volume, made at its first staging and checked at every later one.
//!
//! # Crash consistency
//!
//! `volumes/<volume>/formatting.json` stands while a file system is being made: a device on which that was cut short may
//! hold anything. Whoever finds it knows that nothing was ever mounted, empties the image and begins anew.

use std::{fs::OpenOptions, path::PathBuf};

use rustix::fs::FallocateFlags;

use super::error::{Error, Result};
use crate::{
    device::LoopDevice,
    durable,
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

fn mark(volume: &Volume) -> PathBuf {
    volume.folder().join("formatting.json")
}

/// Empties the image of a volume whose formatting was cut short. Called while its file system is not mounted.
pub(super) fn clear_unfinished(volume: &Volume, device: Option<LoopDevice>) -> Result<()> {
    let mark = mark(volume);
    if durable::read::<()>(&mark).map_err(Error::system("read", &mark))?.is_none() {
        return Ok(());
    }
    // Detached first: what the device caches would shine through, and a mkfs that outlived its caller holds it open.
    if let Some(device) = device {
        let busy = |source| Error::DeviceBusy { id: volume.id(), device: device.path(), source };
        device.detach().map_err(busy)?;
    }
    let image = volume.image();
    let empty = || {
        let file = OpenOptions::new().write(true).open(&image)?;
        let bytes = file.metadata()?.len();
        rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, bytes)?;
        file.sync_all()
    };
    empty().map_err(Error::system("empty", &image))?;
    tracing::warn!(volume = %volume.id(), "formatting was cut short: the image is emptied and formatted anew");
    Ok(())
}

/// Makes the file system on a device that is blank, or checks the one that is there. It is not mounted anywhere.
pub(super) fn prepare(volume: &Volume, device: LoopDevice, filesystem: Filesystem) -> Result<Age> {
    let path = device.path();
    match filesystem::probe(&path)? {
        Content::Blank => {
            let mark = mark(volume);
            durable::write(&mark, &()).map_err(Error::system("write", &mark))?;
            filesystem::make(&path, filesystem)?;
            durable::remove(&mark).map_err(Error::system("remove", &mark))?;
            tracing::info!(volume = %volume.id(), %filesystem, "formatted");
            Ok(Age::New)
        }
        Content::Filesystem(found) if found == filesystem => {
            if filesystem::check(&path, filesystem)? == Checked::Repaired {
                tracing::warn!(volume = %volume.id(), %filesystem, "repaired");
            }
            Ok(Age::Old)
        }
        content => {
            let presentation = volume.record().presentation;
            Err(Error::Content { id: volume.id(), presentation, content })
        }
    }
}
