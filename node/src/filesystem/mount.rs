//! Mounting, binding and unmounting.

use std::{
    ffi::CStr,
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};

use super::{Error, Filesystem, Result, Usage, options, table};

/// How long a busy mount is waited for. Whoever starts a program holds a copy of all its open files for an instant, files on
/// the mount among them; no event tells of their end.
const PATIENCE: Duration = Duration::from_millis(500);

/// Most layers that are unmounted from one target; more would mean that another process keeps mounting there.
const LAYERS: u32 = 100;

/// Mounts `device` at the existing folder `target`; `nouuid` is added for XFS, since clones share their uuid, and ext4 turns
/// read-only at the first error unless `flags` say otherwise. `flags` are mount options as in mount(8).
///
/// # Errors
/// `InvalidOption`; `Damaged` where the file system's own checks fail; the system's.
pub fn mount(device: &Path, target: &Path, filesystem: Filesystem, flags: &[String], read_only: bool) -> Result<()> {
    let (kind, own) = match filesystem {
        Filesystem::Ext4 => (c"ext4", "errors=remount-ro"),
        Filesystem::Xfs => (c"xfs", "nouuid"),
    };
    let wanted = flags.iter().map(String::as_str);
    let access = if read_only { "ro" } else { "" };
    let parsed = options::parse([own].into_iter().chain(wanted).chain([access]))?;
    match mount_as(device, target, kind, parsed.flags, &parsed.data) {
        Ok(()) => Ok(()),
        // EFSCORRUPTED and EFSBADCRC, as file systems call them.
        Err(Errno::UCLEAN | Errno::BADMSG) => Err(Error::Damaged {
            device: device.to_owned(),
            filesystem,
            report: "the kernel refuses to mount it: its own checks fail".to_owned(),
        }),
        Err(errno) => Err(Error::System { action: "mount", path: device.to_owned(), source: errno.into() }),
    }
}

/// Mounts `device` at `target` as it is asked to.
pub(crate) fn mount_as(
    device: &Path,
    target: &Path,
    kind: &CStr,
    flags: MountFlags,
    data: &CStr,
) -> std::result::Result<(), Errno> {
    rustix::mount::mount(device, target, kind, flags, data)
}

/// Binds `source` (a folder, or a device node) to the existing `target` of the same sort.
///
/// # Errors
/// The system's; nothing is left mounted then.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let system =
        |action, path: &Path, errno: Errno| Error::System { action, path: path.to_owned(), source: errno.into() };
    rustix::mount::mount_bind(source, target).map_err(|errno| system("bind", source, errno))?;
    if !read_only {
        return Ok(());
    }
    // The first call takes no flags; the second replaces all of them, so that those inherited must be repeated.
    let narrow = || {
        let inherited = table::mount_at(target)?.map_or(MountFlags::empty(), |mount| options::flags_of(&mount.options));
        rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY | inherited, c"")
            .map_err(|errno| system("make read-only", target, errno))
    };
    narrow().inspect_err(|_| {
        if let Err(error) = unmount(target) {
            tracing::warn!(target = %target.display(), %error, "a bind that failed half-way could not be undone");
        }
    })
}

/// Unmounts whatever is mounted at `target`, all layers of it; neither a mount nor `target` itself has to be there.
///
/// # Errors
/// `Busy` where something uses it; the system's.
pub fn unmount(target: &Path) -> Result<()> {
    for _ in 0..LAYERS {
        match unmount_layer(target) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(Errno::BUSY) => return Err(Error::Busy { target: target.to_owned() }),
            Err(errno) => {
                return Err(Error::System { action: "unmount", path: target.to_owned(), source: errno.into() });
            }
        }
    }
    Err(Error::System {
        action: "unmount",
        path: target.to_owned(),
        source: io::Error::other("another process keeps mounting there"),
    })
}

/// Unmounts the topmost layer, waiting a little where it is busy.
pub(super) fn unmount_layer(target: &Path) -> std::result::Result<(), Errno> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) if Instant::now() < deadline => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

/// Measures the file system that holds `path`.
///
/// # Errors
/// The system's.
pub fn usage(path: &Path) -> Result<Usage> {
    let found = rustix::fs::statvfs(path).map_err(|errno| Error::System {
        action: "measure",
        path: path.to_owned(),
        source: errno.into(),
    })?;
    Ok(Usage {
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        used_bytes: found.f_blocks.saturating_sub(found.f_bfree).saturating_mul(found.f_frsize),
        total_inodes: found.f_files,
        available_inodes: found.f_ffree,
        used_inodes: found.f_files.saturating_sub(found.f_ffree),
    })
}
