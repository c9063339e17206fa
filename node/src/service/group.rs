//! Giving a volume to a group (`VOLUME_MOUNT_GROUP`, Kubernetes' `fsGroup`): every file belongs to it and can be read and
//! written by it, and what is made later belongs to it too.
//!
//! # Crash consistency
//!
//! The root is changed last. A root that is as it should be says that everything below it once was, and is left alone:
//! what workloads changed since is their own affair, and a large volume is not walked each time.
//!
//! # Concurrency
//!
//! Workloads may use the volume meanwhile. Each file is opened by its folder's descriptor without following links, and
//! changed by its own descriptor, so that nothing outside of the volume is ever touched.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat},
    io::Errno,
};

use super::error::{Error, Result};

/// Read and write for the group.
const READ_WRITE: u32 = 0o060;
/// Execute (search, for folders) for the group.
const EXECUTE: u32 = 0o010;
/// Execute for anybody.
const EXECUTABLE: u32 = 0o111;
/// New files in the folder take its group.
const INHERIT: u32 = 0o2000;
/// Everything of a mode but the type.
const PERMISSIONS: u32 = 0o7777;

/// Gives the file system mounted at `root` to a group, unless it has it already.
pub(super) fn give(root: &Path, group: u32) -> Result<()> {
    let system = |errno: Errno| Error::system("give to the group", root)(errno.into());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty()).map_err(system)?;
    let stat = rustix::fs::fstat(&top).map_err(system)?;
    if is_given(&stat, group) {
        return Ok(());
    }
    let files = give_below(&top, stat.st_dev, group).and_then(|files| change(&top, &stat, group).map(|()| files));
    let files = files.map_err(system)?;
    tracing::info!(path = %root.display(), group, files, "the volume is given to the group");
    Ok(())
}

/// Gives everything below a folder, and on the same device, to the group; tells how many files that were.
fn give_below(top: &OwnedFd, device: u64, group: u32) -> rustix::io::Result<u64> {
    let mut files = 0;
    let mut folders = vec![Folder::open(top)?];
    while let Some(folder) = folders.last_mut() {
        let Some(entry) = folder.entries.next() else {
            // Everything in it is changed: now the folder itself. The first is the caller's.
            let folder = folders.pop().expect("it was there a moment ago");
            if !folders.is_empty() {
                change_if_needed(&folder.path, group)?;
            }
            continue;
        };
        let entry = entry?;
        if is_self_or_parent(entry.file_name()) {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&folder.path, entry.file_name(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let stat = rustix::fs::fstat(&file)?;
        if stat.st_dev != device {
            continue;
        }
        files += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            folders.push(Folder::open(&file)?);
        } else if !is_given(&stat, group) {
            change(&file, &stat, group)?;
        }
    }
    Ok(files)
}

/// A folder that is being walked.
struct Folder {
    path: OwnedFd,
    entries: Dir,
}

impl Folder {
    fn open(path: &OwnedFd) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(path, c".", flags, Mode::empty())?;
        Ok(Self { path: path.try_clone().map_err(errno)?, entries: Dir::new(readable)? })
    }
}

fn is_self_or_parent(name: &CStr) -> bool {
    name == c"." || name == c".."
}

fn change_if_needed(file: &OwnedFd, group: u32) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    if is_given(&stat, group) { Ok(()) } else { change(file, &stat, group) }
}

/// Changes group and mode. The mode comes second: a change of owner takes set-id bits away.
fn change(file: &OwnedFd, stat: &Stat, group: u32) -> rustix::io::Result<()> {
    if stat.st_gid != group {
        rustix::fs::chownat(file, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    }
    if let Some(mode) = mode_for(stat.st_mode) {
        // A descriptor that was opened for its path alone is changed by its name below /proc.
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::chmodat(CWD, name.as_str(), Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    Ok(())
}

fn is_given(stat: &Stat, group: u32) -> bool {
    stat.st_gid == group && mode_for(stat.st_mode).is_none_or(|mode| mode == stat.st_mode & PERMISSIONS)
}

/// Returns the permissions that a file of this mode is to have; `None` for links, which have none of their own.
fn mode_for(mode: u32) -> Option<u32> {
    let more = match FileType::from_raw_mode(mode) {
        FileType::Symlink => return None,
        FileType::Directory => READ_WRITE | EXECUTE | INHERIT,
        _ if mode & EXECUTABLE != 0 => READ_WRITE | EXECUTE,
        _ => READ_WRITE,
    };
    Some((mode | more) & PERMISSIONS)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use super::*;

    const GROUP: u32 = 4321;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("there").mode() & PERMISSIONS
    }

    fn group(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("there").gid()
    }

    #[test]
    fn everything_in_the_tree_is_given_and_nothing_outside() {
        let (outside, root) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let secret = outside.path().join("secret");
        fs::write(&secret, "untouched").expect("written");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("changed");
        let root = root.path();
        fs::create_dir_all(root.join("a/b")).expect("made");
        for (name, mode) in [("a/b/data", 0o600), ("a/program", 0o755), ("plain", 0o644), ("suid", 0o4755)] {
            fs::write(root.join(name), name).expect("written");
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("changed");
        }
        symlink(&secret, root.join("a/link")).expect("made");
        symlink(outside.path(), root.join("folder-link")).expect("made");
        give(root, GROUP).expect("given");
        for (name, expected) in [
            ("a", 0o2775),
            ("a/b", 0o2775),
            ("a/b/data", 0o660),
            ("a/program", 0o775),
            ("plain", 0o664),
            ("suid", 0o4775),
        ] {
            assert_eq!(format!("{:o}", mode(&root.join(name))), format!("{expected:o}"), "{name}");
            assert_eq!(group(&root.join(name)), GROUP, "{name}");
        }
        assert_eq!(mode(root) & (INHERIT | READ_WRITE | EXECUTE), INHERIT | READ_WRITE | EXECUTE);
        assert_eq!(group(&root.join("a/link")), GROUP, "a link is given, not what it points to");
        assert_eq!((mode(&secret), group(&secret)), (0o600, fs::metadata(outside.path()).expect("there").gid()));
    }

    #[test]
    fn a_root_that_is_given_is_not_walked_again() {
        let root = tempfile::tempdir().expect("a folder");
        give(root.path(), GROUP).expect("given");
        let later = root.path().join("later");
        fs::write(&later, "").expect("written");
        fs::set_permissions(&later, fs::Permissions::from_mode(0o600)).expect("changed");
        give(root.path(), GROUP).expect("given");
        assert_eq!(mode(&later), 0o600);
        assert_eq!(group(&later), GROUP, "the folder hands its group down");
        give(root.path(), GROUP + 1).expect("given");
        assert_eq!((mode(&later), group(&later)), (0o660, GROUP + 1));
    }
}
