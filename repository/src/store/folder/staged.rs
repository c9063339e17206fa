//! Files being written, the locks that say that somebody is writing, and the sweep of those that nobody is.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use object_store::PutPayload;
use rand::RngExt;
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

use super::sync_parent;

const STAGING_LOCK: &str = ".staging#0";
const UPDATE_LOCK: &str = ".update#0";

/// Mode of every file: the owner's alone, as the folder is.
const FILE_MODE: u32 = 0o600;

/// Objects of at least so many bytes are written past the page cache.
pub(super) const LARGE: usize = 2 * PIECE;

/// How much is written at once then, in bytes.
const PIECE: usize = 1 << 20;

/// What direct I/O asks of addresses at the most, in bytes.
const ALIGNMENT: usize = 4096;

/// How deep objects lie below the folder: `snapshots/<snapshot>`.
const DEPTH: usize = 2;

/// A lock of the folder, held until dropped, or until the process dies.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing it is what unlocks")] fs::File);

impl Lock {
    /// Waits until no sweep is at work, and keeps it off.
    pub(super) fn staging(root: &Path) -> io::Result<Self> {
        let file = open(&root.join(STAGING_LOCK))?;
        file.lock_shared()?;
        Ok(Self(file))
    }

    /// Waits until no update or deletion is at work, and keeps others off.
    pub(super) fn update(root: &Path) -> io::Result<Self> {
        let file = open(&root.join(UPDATE_LOCK))?;
        file.lock()?;
        Ok(Self(file))
    }

    /// Keeps every put off, unless one is at work.
    fn sweep(root: &Path) -> io::Result<Option<Self>> {
        let file = open(&root.join(STAGING_LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    fs::File::options().create(true).truncate(false).write(true).mode(FILE_MODE).open(path)
}

/// A file that is written, synced and not yet named; removed when dropped without having been.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
}

impl Staged {
    /// Writes and syncs a file next to where it is to be.
    pub(super) fn write(target: &Path, payload: &PutPayload) -> io::Result<Self> {
        let (staged, mut file) = loop {
            let mut name = target.as_os_str().to_owned();
            name.push(format!("#{}", rand::rng().random::<u64>()));
            let path = PathBuf::from(name);
            match fs::File::options().write(true).create_new(true).mode(FILE_MODE).open(&path) {
                Ok(file) => break (Self { path }, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        let written = if payload.content_length() >= LARGE { write_direct(&file, payload)? } else { false };
        if !written {
            for part in payload {
                file.write_all(part)?;
            }
        }
        file.sync_all()?;
        Ok(staged)
    }

    /// Names the file, if nothing has that name, durably.
    pub(super) fn link(self, target: &Path) -> io::Result<()> {
        fs::hard_link(&self.path, target)?;
        drop(self);
        sync_parent(target)
    }

    /// Names the file, in the place of what had that name, durably.
    pub(super) fn replace(self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        std::mem::forget(self);
        sync_parent(target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What cannot be removed now is left to the sweep.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes a large object past the page cache, in large pieces: copying it there and writing it back takes more time on
/// processors than compressing it. Returns whether it is written; where the file system does not write like that, nothing
/// is.
fn write_direct(file: &fs::File, payload: &PutPayload) -> io::Result<bool> {
    let flags = fcntl_getfl(file)?;
    match fcntl_setfl(file, flags | OFlags::DIRECT) {
        Ok(()) => {}
        Err(Errno::INVAL) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let mut buffer = vec![0; PIECE + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let buffer = &mut buffer[start..start + PIECE];
    let (mut filled, mut offset) = (0, 0);
    for part in payload {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let (these, behind) = rest.split_at(rest.len().min(PIECE - filled));
            buffer[filled..filled + these.len()].copy_from_slice(these);
            filled += these.len();
            rest = behind;
            if filled == PIECE {
                match file.write_all_at(buffer, offset) {
                    // It takes the flag and refuses to act on it.
                    Err(error) if offset == 0 && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                        fcntl_setfl(file, flags)?;
                        return Ok(false);
                    }
                    written => written?,
                }
                offset += PIECE as u64;
                filled = 0;
            }
        }
    }
    // The rest is no whole number of what direct I/O takes.
    fcntl_setfl(file, flags)?;
    file.write_all_at(&buffer[..filled], offset)?;
    Ok(true)
}

/// Removes staged files, unless a put is at work.
pub(super) fn sweep(root: &Path) -> io::Result<()> {
    let Some(_lock) = Lock::sweep(root)? else { return Ok(()) };
    sweep_folder(root, DEPTH)
}

fn sweep_folder(folder: &Path, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 1 {
            sweep_folder(&entry.path(), depth - 1)?;
        } else if kind.is_file() && is_staged(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Tells staged files from objects, whose names hold no `#`, and from the locks.
fn is_staged(name: &str) -> bool {
    let Some((object, digits)) = name.split_once('#') else { return false };
    !object.starts_with('.') && !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
}
