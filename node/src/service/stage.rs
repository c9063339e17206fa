//! NodeStageVolume and NodeUnstageVolume: the image becomes a device, and its file system is mounted.
//!
//! # Crash consistency
//!
//! `staged.json` is written before the image is attached and removed after it was detached, so that a device without a
//! record is never in use. What was done of a staging that was cut short is found by asking the kernel; the repeated call
//! does the rest, and NodeUnstageVolume undoes it. A staging that fails is undone at once, since nobody may ever
//! unstage it.

use std::{fs, io::ErrorKind, path::Path};

use varve_csi::capability::Capability;

use super::{
    access,
    error::{Error, Result},
    format::{self, Age},
    group,
    presence::{At, Presence, is_writable},
};
use crate::{
    device::{LoopDevice, Options},
    filesystem::{self, Filesystem},
    volume::{Access, Publication, Staged, Volume},
};

/// `EINVAL`: what mount(2) answers to an option that the file system does not know.
const INVALID: i32 = nix::errno::Errno::EINVAL as i32;

/// Stages the volume at the folder `path`. Staged there already, it is only brought to where it should be.
///
/// The file system is mounted writable also where the capability is a reader's: journals are replayed and file systems
/// grown only then. Its publications are read-only.
pub(super) fn stage(volume: &Volume, path: &Path, capability: &Capability) -> Result<()> {
    let access = access::wanted(volume, capability)?;
    if !fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        return Err(Error::Path { path: path.to_owned(), what: "is not a folder: the caller is to make it" });
    }
    let before = volume.staged();
    // Without its device a record tells of nothing that still is.
    if let Some(staged) = &before
        && Presence::of(volume)?.device.is_some()
    {
        compare(volume, staged, path, &access)?;
    }
    let publications = before.as_ref().filter(|staged| staged.path == path).map(|staged| staged.publications.clone());
    let staged = Staged { path: path.to_owned(), access, publications: publications.unwrap_or_default() };
    if before.as_ref() != Some(&staged) {
        volume.set_staged(Some(staged.clone())).map_err(Error::system("record the staging of", volume.folder()))?;
    }
    bring(volume, &staged).inspect_err(|_| {
        if staged.publications.is_empty()
            && let Err(error) = undo(volume, path)
        {
            tracing::warn!(volume = %volume.id(), %error, "a staging that failed could not be undone");
        }
    })
}

/// Holds what is asked for against how the volume is staged.
fn compare(volume: &Volume, staged: &Staged, path: &Path, wanted: &Access) -> Result<()> {
    if staged.path != path {
        return Err(Error::StagedElsewhere { id: volume.id(), path: staged.path.clone() });
    }
    match (&staged.access, wanted) {
        // Another group is no contradiction: the volume is given to it.
        (Access::Mount { flags: is, .. }, Access::Mount { flags: asked, .. }) if is != asked => {
            Err(Error::StagedOtherwise { id: volume.id(), path: path.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Does whatever is not done yet.
fn bring(volume: &Volume, staged: &Staged) -> Result<()> {
    match (access::filesystem(volume.record().presentation), &staged.access) {
        (Some(filesystem), Access::Mount { flags, group }) => mount(volume, filesystem, &staged.path, flags, *group),
        _ => attach(volume).map(drop),
    }
}

fn mount(volume: &Volume, filesystem: Filesystem, path: &Path, flags: &[String], group: Option<u32>) -> Result<()> {
    let presence = Presence::of(volume)?;
    let (device, age) = match presence.at(path)? {
        At::Other => return Err(occupied(path)),
        At::Volume(_) => (attach(volume)?, Age::Old),
        // Only the staging mount is gone: what is mounted elsewhere is not to be checked or formatted.
        At::Nothing if presence.is_mounted() => {
            let device = attach(volume)?;
            mount_at(device, path, filesystem, flags)?;
            (device, Age::Old)
        }
        At::Nothing => {
            let (device, age) = format::prepare(volume, presence.device, filesystem)?;
            mount_at(device, path, filesystem, flags)?;
            (device, age)
        }
    };
    if filesystem::mount_at(path)?.is_some_and(|mount| !is_writable(&mount)) {
        return Ok(());
    }
    if age == Age::Old {
        filesystem::grow(&device.path(), path, filesystem)?;
    }
    group.map_or(Ok(()), |group| group::give(path, group))
}

fn mount_at(device: LoopDevice, path: &Path, filesystem: Filesystem, flags: &[String]) -> Result<()> {
    filesystem::mount(&device.path(), path, filesystem, flags, false).map_err(|source| match &source {
        filesystem::Error::System { source: reason, .. }
            if !flags.is_empty() && reason.raw_os_error() == Some(INVALID) =>
        {
            Error::Flags { filesystem, source }
        }
        _ => source.into(),
    })
}

/// Attaches the image where it is not, and makes the device as large as the image.
pub(super) fn attach(volume: &Volume) -> Result<LoopDevice> {
    let image = volume.image();
    let bytes = match fs::metadata(&image) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::ImageLost(image)),
        Err(error) => return Err(Error::system("inspect", image)(error)),
    };
    let device = LoopDevice::attach_or_find(&image, Options::default()).map_err(Error::system("attach", &image))?;
    let grow = || if device.size()? == bytes { Ok(()) } else { device.refresh_size() };
    grow().map_err(Error::system("grow", device.path()))?;
    Ok(device)
}

pub(super) fn occupied(path: &Path) -> Error {
    Error::Path { path: path.to_owned(), what: "has something else mounted on it: it is left alone" }
}

/// Undoes the staging of the volume at `path`. Not staged there, it stays as it is.
pub(super) fn unstage(volume: &Volume, path: &Path) -> Result<()> {
    match volume.staged() {
        Some(staged) if staged.path != path => Ok(()),
        _ => undo(volume, path),
    }
}

fn undo(volume: &Volume, path: &Path) -> Result<()> {
    put_away(volume.id(), &Presence::of(volume)?, path)?;
    if volume.staged().is_some() {
        volume.set_staged(None).map_err(Error::system("record the unstaging of", volume.folder()))?;
    }
    Ok(())
}

/// Unmounts the volume from `path` and detaches its device, which nothing else may use.
pub(super) fn put_away(id: varve_repository::id::VolumeId, presence: &Presence, path: &Path) -> Result<()> {
    let Some(device) = presence.device else { return Ok(()) };
    if let Some(path) = presence.besides(path)? {
        return Err(Error::StillPublished { id, path });
    }
    if presence.is_at(path)? {
        filesystem::unmount(path)?;
    }
    // Read-only for one workload, a device would be so for whoever is given its number next.
    device.set_read_only(false).map_err(Error::system("make writable", device.path()))?;
    device.detach().map_err(|source| match source.kind() {
        ErrorKind::ResourceBusy => Error::DeviceBusy { id, device: device.path(), source },
        _ => Error::system("detach", device.path())(source),
    })
}

/// Finds a publication by its target.
pub(super) fn publication<'a>(staged: &'a Staged, target: &Path) -> Option<&'a Publication> {
    staged.publications.iter().find(|publication| publication.target == target)
}
