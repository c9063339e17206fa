//! NodePublishVolume and NodeUnpublishVolume: the staged volume is bound where a workload sees it.
//!
//! # Crash consistency
//!
//! A publication stands in `staged.json` before its target is made and until it is removed. A bind that was cut short
//! before it became read-only is undone and made again by the repeated call.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use varve_csi::capability::Capability;

use super::{
    access,
    error::{Error, Result},
    group,
    presence::{At, Presence, is_writable},
    stage::{occupied, publication},
};
use crate::{
    device::LoopDevice,
    filesystem,
    volume::{Access, Publication, Staged, Volume},
};

/// What is to be published.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) staging: PathBuf,
    pub(super) target: PathBuf,
    pub(super) capability: Capability,
    pub(super) read_only: bool,
}

/// Publishes the volume. Published there already in the same way, it is only brought to where it should be.
pub(super) fn publish(volume: &Volume, wanted: &Wanted) -> Result<()> {
    let access = access::wanted(volume, &wanted.capability)?;
    let (staged, presence, device) = staged(volume, &wanted.staging)?;
    if let Some(flag) = access::missing_flag(&staged.access, &access) {
        return Err(Error::Flag { id: volume.id(), flag: flag.to_owned() });
    }
    let one = Publication {
        target: wanted.target.clone(),
        read_only: access::is_read_only(&wanted.capability, wanted.read_only),
        mode: wanted.capability.access_mode,
    };
    admit(volume, &staged, &presence, &one)?;
    check_target(&presence, &one.target, &access)?;
    let known = publication(&staged, &one.target).is_some();
    let mut after = staged.clone();
    after.publications.retain(|other| other.target != one.target);
    after.publications.push(one.clone());
    if after != staged {
        record(volume, after.clone())?;
    }
    let group = match &access {
        Access::Mount { group, .. } => *group,
        Access::Block => None,
    };
    place(&after, &presence, device, &one, group).inspect_err(|_| {
        if !known && let Err(error) = undo(volume, &one.target) {
            tracing::warn!(volume = %volume.id(), %error, "a publication that failed could not be undone");
        }
    })
}

/// Finds the volume staged at `path`, for real.
fn staged(volume: &Volume, path: &Path) -> Result<(Staged, Presence, LoopDevice)> {
    let not_staged = || Error::NotStaged { id: volume.id(), path: path.to_owned() };
    let staged = volume.staged().filter(|staged| staged.path == path).ok_or_else(not_staged)?;
    let presence = Presence::of(volume)?;
    let device = presence.device.ok_or_else(not_staged)?;
    if staged.access != Access::Block && !presence.is_at(path)? {
        return Err(not_staged());
    }
    Ok((staged, presence, device))
}

/// Decides whether a publication may be, given those that there are. One that is recorded and not mounted, as after a
/// crash, stands in nobody's way.
fn admit(volume: &Volume, staged: &Staged, presence: &Presence, one: &Publication) -> Result<()> {
    let id = volume.id();
    for other in &staged.publications {
        if !presence.is_at(&other.target)? {
            continue;
        }
        let path = other.target.clone();
        if other.target != one.target {
            if let Some(reason) = access::rules_out(&staged.access, one, other) {
                return Err(Error::PublishedElsewhere { id, path, reason });
            }
        } else if other.read_only != one.read_only {
            let how = if other.read_only { "read-only" } else { "writable" };
            return Err(Error::PublishedOtherwise { id, path, how });
        } else if other.mode != one.mode {
            return Err(Error::PublishedOtherwise { id, path, how: "with another access mode" });
        }
    }
    Ok(())
}

/// Makes the target and binds the volume there.
fn place(
    staged: &Staged,
    presence: &Presence,
    device: LoopDevice,
    one: &Publication,
    group: Option<u32>,
) -> Result<()> {
    let target = &one.target;
    if staged.access == Access::Block {
        device.set_read_only(one.read_only).map_err(Error::system("set the access of", device.path()))?;
    }
    if let Some(group) = group
        && !one.read_only
        && filesystem::mount_at(&staged.path)?.is_some_and(|mount| is_writable(&mount))
    {
        group::give(&staged.path, group)?;
    }
    match presence.at(target)? {
        At::Other => return Err(occupied(target)),
        At::Volume(mount) if mount.is_read_only() || !one.read_only => return Ok(()),
        // Cut short between the bind and its becoming read-only.
        At::Volume(_) => filesystem::unmount(target)?,
        At::Nothing => {}
    }
    make_target(target, &staged.access)?;
    match &staged.access {
        Access::Block => filesystem::bind(&device.path(), target, one.read_only)?,
        Access::Mount { .. } => filesystem::bind(&staged.path, target, one.read_only)?,
    }
    Ok(())
}

/// Checks that the target is the driver's, or can be made. Before anything is written down, so that a refusal changes
/// nothing.
fn check_target(presence: &Presence, target: &Path, access: &Access) -> Result<()> {
    let refuse = |what| Err(Error::Path { path: target.to_owned(), what });
    match presence.at(target)? {
        At::Other => return Err(occupied(target)),
        At::Volume(_) => return Ok(()),
        At::Nothing => {}
    }
    match (fs::symlink_metadata(target), access) {
        (Ok(found), Access::Block) if found.is_file() => Ok(()),
        (Ok(found), Access::Mount { .. }) if found.is_dir() => Ok(()),
        (Ok(_), Access::Block) => refuse("is there already, and no file that a device can be bound to"),
        (Ok(_), Access::Mount { .. }) => refuse("is there already, and no folder that a volume can be bound to"),
        (Err(error), _) if is_absent(&error) => match target.parent().map(Path::is_dir) {
            Some(true) => Ok(()),
            _ => refuse("cannot be made: its parent is no folder, and is the caller's to make"),
        },
        (Err(error), _) => Err(Error::system("inspect", target)(error)),
    }
}

/// Makes the folder, or the file for a device, that the volume is bound to.
fn make_target(target: &Path, access: &Access) -> Result<()> {
    let made = match access {
        Access::Block => OpenOptions::new().write(true).create_new(true).mode(0o600).open(target).map(drop),
        Access::Mount { .. } => fs::create_dir(target),
    };
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::system("make", target)(error)),
        _ => Ok(()),
    }
}

/// Undoes the publication of the volume at `target`; not published there, what is left of its target is removed.
pub(super) fn unpublish(volume: &Volume, target: &Path) -> Result<()> {
    if volume.staged().is_some_and(|staged| staged.path == target) {
        return Err(Error::Path { path: target.to_owned(), what: "is where the volume is staged, not published" });
    }
    undo(volume, target)
}

fn undo(volume: &Volume, target: &Path) -> Result<()> {
    let presence = Presence::of(volume)?;
    take_away(&presence, target)?;
    let Some(mut staged) = volume.staged() else { return Ok(()) };
    if publication(&staged, target).is_some() {
        staged.publications.retain(|other| other.target != target);
        record(volume, staged.clone())?;
    }
    if let (Access::Block, Some(device)) = (&staged.access, presence.device)
        && staged.publications.is_empty()
    {
        device.set_read_only(false).map_err(Error::system("make writable", device.path()))?;
    }
    Ok(())
}

/// Unmounts the volume from `target` and removes that. Nothing but an empty folder or an empty file is removed.
pub(super) fn take_away(presence: &Presence, target: &Path) -> Result<()> {
    match presence.at(target)? {
        At::Volume(_) => filesystem::unmount(target)?,
        At::Nothing => {}
        At::Other => return Err(occupied(target)),
    }
    let refuse = |what| Err(Error::Path { path: target.to_owned(), what });
    let removed = match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => fs::remove_dir(target),
        Ok(found) if found.is_file() && found.len() == 0 => fs::remove_file(target),
        Ok(_) => return refuse("is neither an empty file nor a folder: it is not the driver's, and is left alone"),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(()),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            refuse("holds files though nothing is mounted there: they are left alone")
        }
        Err(error) => Err(Error::system("remove", target)(error)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn record(volume: &Volume, staged: Staged) -> Result<()> {
    volume.set_staged(Some(staged)).map_err(Error::system("record the publications of", volume.folder()))
}
