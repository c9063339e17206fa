//! Folders of the pool with everything in them: synced, renamed, removed.
//!
//! The same on every kind of pool: a subvolume of btrfs is told by its inode number, an immutable file by the refusal.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::fs::{CWD, IFlags, RenameFlags};

use crate::{
    durable,
    sys::{Context, btrfs},
};

/// Syncs every file and folder in `folder`, and itself.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder).during("list", folder)? {
        let entry = entry.during("list", folder)?;
        let path = entry.path();
        let kind = entry.file_type().during("inspect", &path)?;
        if kind.is_dir() {
            sync(&path)?;
        } else if kind.is_file() {
            File::open(&path).and_then(|file| file.sync_all()).during("sync", &path)?;
        }
    }
    durable::sync_folder(folder).during("sync", folder)
}

/// Renames `from` to `to`, which must not be there, and makes both folders' names durable.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).during("rename", from)?;
    let parents = [to.parent(), from.parent()];
    for parent in parents.into_iter().flatten() {
        durable::sync_folder(parent).during("sync", parent)?;
    }
    Ok(())
}

/// Removes everything in `folder`, which stays.
pub(super) fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder).during("list", folder)? {
        remove(&entry.during("list", folder)?.path())?;
    }
    Ok(())
}

/// Removes `path`, a file or a folder with everything in it; it need not be there. Links are removed and not followed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).during("inspect", path),
    };
    if !metadata.is_dir() {
        return absent(remove_file(path, metadata.is_file())).during("remove", path);
    }
    if metadata.ino() == btrfs::SUBVOLUME_ROOT && remove_subvolume(path)? {
        return Ok(());
    }
    empty(path)?;
    absent(fs::remove_dir(path)).during("remove", path)
}

/// Removes a folder whose inode number is that of a subvolume's root; `false` where it is an ordinary folder after all.
fn remove_subvolume(path: &Path) -> io::Result<bool> {
    let (parent, name) = split(path)?;
    let folder = File::open(parent).during("open", parent)?;
    match btrfs::delete_subvolume(&folder, name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        // ENOTTY: not btrfs, where such a number means nothing. EINVAL: btrfs, and not a subvolume.
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOTTY as i32) => Ok(false),
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error).during("delete the subvolume", path),
    }
}

fn remove_file(path: &Path, regular: bool) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && regular => {
            let file = File::open(path)?;
            let flags = rustix::fs::ioctl_getflags(&file)?;
            if !flags.contains(IFlags::IMMUTABLE) {
                return Err(error);
            }
            rustix::fs::ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?;
            fs::remove_file(path)
        }
        other => other,
    }
}

fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Splits a path into the folder and the name in it.
pub(super) fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    path.parent().zip(path.file_name()).ok_or(ErrorKind::InvalidInput).during("find the folder of", path)
}
