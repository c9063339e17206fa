//! A temporary folder that takes with it whatever was mounted or attached below it.
//!
//! A driver that is killed leaves mounts and loop devices behind, as a crashed node would; so do tests that fail. Going
//! from the folder, everything that stands on it is found in the kernel's own tables: loop devices whose backing file
//! lies in it, file systems mounted from them or in it, loop devices on those, and so on. What belongs to others is
//! never touched.
//!
//! The demo, tests and benchmarks work in such folders.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::mount::{UnmountFlags, unmount};

/// A temporary folder, removed with all that stands on it when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

/// One line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// `major:minor` of the mounted file system.
    device: String,
    /// Where it is mounted.
    point: PathBuf,
    /// What it is mounted from; btrfs has device numbers of its own, so this is what tells.
    source: PathBuf,
}

/// An attached loop device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loop {
    /// Its name, as in `loop7`.
    name: String,
    /// `major:minor`.
    device: String,
    /// The file it presents.
    backing: PathBuf,
}

impl Scratch {
    /// Makes a folder in the system's folder for temporary files.
    ///
    /// # Errors
    /// The system's.
    pub fn new(prefix: &str) -> io::Result<Self> {
        Self::within(&std::env::temp_dir(), prefix)
    }

    /// Makes a folder in another one, whose name starts with `prefix`.
    ///
    /// # Errors
    /// The system's.
    pub fn within(folder: &Path, prefix: &str) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(folder)?;
        // Mount tables show real paths.
        Ok(Self { path: fs::canonicalize(folder.keep())? })
    }

    /// The folder's path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts and detaches everything that stands on the folder or on a folder or file below it.
    ///
    /// # Errors
    /// The first failure; the rest is undone all the same.
    pub fn clear(&self, below: &Path) -> io::Result<()> {
        assert!(below.starts_with(&self.path), "only what is ours is cleared");
        let (mounts, loops) = standing_on(below, &mounts()?, &loops()?);
        let mut first = Ok(());
        for mount in mounts.iter().rev() {
            // Whoever was killed between freeze and thaw left writers hanging; on one not frozen this does nothing.
            quiet("fsfreeze", &["--unfreeze".into(), mount.point.clone().into()]);
            if unmount(&mount.point, UnmountFlags::empty()).is_err() {
                let result = unmount(&mount.point, UnmountFlags::DETACH).map_err(io::Error::from);
                first = first.and(result);
            }
        }
        for device in loops.iter().rev() {
            let path = Path::new("/dev").join(&device.name);
            // Unmounting may have detached it, and somebody else may have it by now. Held open, it stays what it is.
            let Ok(_held) = fs::File::open(&path) else { continue };
            let Ok(backing) = backing(&device.name) else { continue };
            // Of a file whose mount is gone the kernel shows the path from that mount's root.
            if device.backing.ends_with(backing.strip_prefix("/").unwrap_or(&backing)) {
                quiet("losetup", &["--detach".into(), path.into()]);
            }
        }
        first
    }

    /// Names what stands on the folder: mount points and loop devices.
    ///
    /// # Errors
    /// The system's.
    pub fn standing(&self) -> io::Result<Vec<String>> {
        let (mounts, loops) = standing_on(&self.path, &mounts()?, &loops()?);
        let mounts = mounts.iter().map(|mount| mount.point.display().to_string());
        Ok(mounts.chain(loops.iter().map(|device| device.name.clone())).collect())
    }

    /// Removes the folder and everything that stands on it.
    ///
    /// # Errors
    /// The system's; dropping tries once more.
    pub fn remove(&self) -> io::Result<()> {
        let cleared = self.clear(&self.path);
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => cleared,
            Err(_) => {
                // Cuts in a pool that is a folder here are immutable.
                quiet("chattr", &["-R".into(), "-f".into(), "-i".into(), self.path.clone().into()]);
                cleared.and(fs::remove_dir_all(&self.path))
            }
            Ok(()) => cleared,
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = self.remove()
        {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// Runs a tool for its effect; whether it had any is seen by what comes next.
fn quiet(tool: &str, arguments: &[OsString]) {
    let _ =
        Command::new(tool).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Finds what stands on a path: mounts in the order they were made, loop devices each after those it stands on.
fn standing_on(path: &Path, mounts: &[Mount], loops: &[Loop]) -> (Vec<Mount>, Vec<Loop>) {
    let mut grounds = vec![path.to_owned()];
    let mut ours: Vec<Loop> = Vec::new();
    loop {
        let before = (grounds.len(), ours.len());
        for device in loops {
            if !ours.contains(device) && grounds.iter().any(|ground| device.backing.starts_with(ground)) {
                ours.push(device.clone());
            }
        }
        for mount in mounts {
            let stands = grounds.iter().any(|ground| mount.point.starts_with(ground))
                || ours.iter().any(|device| {
                    mount.device == device.device || mount.source == Path::new("/dev").join(&device.name)
                });
            if stands && !grounds.contains(&mount.point) {
                grounds.push(mount.point.clone());
            }
        }
        if (grounds.len(), ours.len()) == before {
            break;
        }
    }
    let mounts = mounts.iter().filter(|mount| grounds.contains(&mount.point) && mount.point != path).cloned();
    (mounts.collect(), ours)
}

fn mounts() -> io::Result<Vec<Mount>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(parse_mount).collect())
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Optional fields end with a dash; the type and the source follow.
    let dash = fields.iter().position(|field| *field == b"-")?;
    Some(Mount {
        device: String::from_utf8_lossy(fields.get(2)?).into_owned(),
        point: unescape(fields.get(4)?),
        source: unescape(fields.get(dash + 2)?),
    })
}

/// Undoes the escapes of the mount table: a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

fn loops() -> io::Result<Vec<Loop>> {
    let mut loops = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // A device that is not attached, or that is detached at this moment, has no backing file.
        let Ok(backing) = backing(&name) else { continue };
        let Ok(device) = fs::read_to_string(Path::new("/sys/block").join(&name).join("dev")) else { continue };
        loops.push(Loop { device: device.trim().to_owned(), name, backing });
    }
    Ok(loops)
}

/// The path of the file that a loop device is attached to.
fn backing(name: &str) -> io::Result<PathBuf> {
    let backing = fs::read(Path::new("/sys/block").join(name).join("loop/backing_file"))?;
    let backing = backing.strip_suffix(b"\n").unwrap_or(&backing);
    let backing = backing.strip_suffix(b" (deleted)").unwrap_or(backing);
    Ok(std::ffi::OsStr::from_bytes(backing).into())
}

#[cfg(test)]
mod tests;
