//! A pool in a file: made when absent, attached and mounted; put away at the end.
//!
//! # Crash consistency
//! The file is made and formatted as `FILE.making`, synced and renamed to `FILE`: under its own name it is whole or absent. It
//! carries a label ([`LABEL`]) by which it is known as a pool without being mounted, so that no foreign file is touched.
//!
//! # Concurrency
//! The process that makes or uses the file holds flock(2) on it; the lock goes with the file through the rename.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{CWD, RenameFlags},
    mount::{MountFlags, MountPropagationFlags},
};

use super::{Kind, PoolError, open};
use crate::{
    device::{self, LoopDevice, Options},
    durable,
    filesystem::{
        self, Content, Filesystem,
        command::{self, Tool},
    },
};

/// The file system's label; XFS has room for 12 bytes.
const LABEL: &str = "varve-pool";

const MKFS_XFS: Tool = Tool { name: "mkfs.xfs", package: "xfsprogs", limit: Duration::from_secs(600) };
const MKFS_BTRFS: Tool = Tool { name: "mkfs.btrfs", package: "btrfs-progs", limit: Duration::from_secs(600) };

/// Where XFS keeps its label: `sb_fname` of fs/xfs/libxfs/xfs_format.h.
const XFS_LABEL: (u64, usize) = (108, 12);
/// Where btrfs keeps its label: in its superblock (at 64 KiB), see linux/btrfs_tree.h.
const BTRFS_LABEL: (u64, usize) = (0x1_0000 + 0x12B, 256);

/// A pool image that is attached and mounted.
#[derive(Debug)]
pub(super) struct Mounted {
    /// The image, locked.
    file: File,
    device: LoopDevice,
    mount_point: PathBuf,
}

// === impl Mounted ===

impl Mounted {
    pub(super) fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Unmounts and detaches, unless the pool is still in use.
    pub(super) fn close(self) -> Result<(), PoolError> {
        let attached =
            device::all_below(&self.mount_point).map_err(PoolError::system("find devices of", &self.mount_point))?;
        if !attached.is_empty() {
            tracing::info!(volumes = attached.len(), "volumes are still attached: the pool's image stays mounted");
            return Ok(());
        }
        match filesystem::unmount(&self.mount_point) {
            Ok(()) => {}
            Err(filesystem::Error::Busy { .. }) => {
                tracing::warn!(
                    mount_point = %self.mount_point.display(),
                    "another process uses a file in the pool: its image stays mounted"
                );
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        self.device.detach().map_err(PoolError::system("detach", &self.device.path()))?;
        if let Err(error) = fs::remove_dir(&self.mount_point) {
            tracing::debug!(mount_point = %self.mount_point.display(), %error, "the mount point stays");
        }
        drop(self.file);
        Ok(())
    }
}

/// Makes the image where it is absent, and attaches and mounts it where it is not.
pub(super) fn bring_up(file: &Path, bytes: u64, kind: Kind) -> Result<Mounted, PoolError> {
    let path = resolve(file)?;
    let image = open_or_make(&path, bytes, kind)?;
    check(&image, &path, bytes, kind)?;
    let (device, attached) = match LoopDevice::find(&path).map_err(PoolError::system("find the device of", &path))? {
        Some(device) => (device, false),
        None => {
            let device = LoopDevice::attach(&path, Options::default()).map_err(PoolError::system("attach", &path))?;
            (device, true)
        }
    };
    match mount(&path, device, kind) {
        Ok(mount_point) => Ok(Mounted { file: image, device, mount_point }),
        Err(error) => {
            if attached && let Err(error) = device.detach() {
                tracing::warn!(device = %device.path().display(), %error, "a loop device could not be detached");
            }
            Err(error)
        }
    }
}

/// Gives the file's path without links, so that its mount point is the same however it is called.
fn resolve(file: &Path) -> Result<PathBuf, PoolError> {
    let name = file.file_name().ok_or_else(|| PoolError::unusable(file, "it does not name a file"))?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().map_err(|error| {
        PoolError::unusable(file, format!("the folder {} that is to hold it: {error}", parent.display()))
    })?;
    Ok(parent.join(name))
}

/// Opens the image, making it first where it is absent, and locks it.
fn open_or_make(path: &Path, bytes: u64, kind: Kind) -> Result<File, PoolError> {
    loop {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => {
                open::lock(&file, path, path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(file) = make(path, bytes, kind)? {
                    return Ok(file);
                }
            }
            Err(error) => return Err(PoolError::unusable(path, error.to_string())),
        }
    }
}

/// Makes the image; `None` where another process came first, or left something unfinished that is now gone.
fn make(path: &Path, bytes: u64, kind: Kind) -> Result<Option<File>, PoolError> {
    if bytes < kind.smallest() {
        let reason = format!(
            "it is to be made with {bytes} bytes: expected at least {} bytes, as {} needs",
            kind.smallest(),
            kind.name()
        );
        return Err(PoolError::unusable(path, reason));
    }
    let making = suffixed(path, ".making");
    let system = |action| PoolError::system(action, &making);
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&making);
    let file = file.map_err(system("make"))?;
    open::lock(&file, &making, path)?;
    let found = file.metadata().map_err(system("inspect"))?;
    if !fs::metadata(&making).is_ok_and(|named| (named.dev(), named.ino()) == (found.dev(), found.ino())) {
        return Ok(None);
    }
    if found.len() > 0 {
        // Left by a process that was killed; the mkfs that it ran may still be writing to that file, so a new one is made.
        fs::remove_file(&making).map_err(system("remove"))?;
        return Ok(None);
    }
    let finish = || {
        file.set_len(bytes).map_err(system("size"))?;
        format(&making, kind)?;
        file.sync_all().map_err(system("sync"))?;
        rustix::fs::renameat_with(CWD, &making, CWD, path, RenameFlags::NOREPLACE)
            .map_err(io::Error::from)
            .map_err(system("rename"))
    };
    if let Err(error) = finish() {
        if let Err(error) = fs::remove_file(&making) {
            tracing::warn!(file = %making.display(), %error, "an unfinished pool image could not be removed");
        }
        return match error {
            PoolError::System { source, .. } if source.kind() == ErrorKind::AlreadyExists => Ok(None),
            error => Err(error),
        };
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    durable::sync_folder(parent).map_err(PoolError::system("sync", parent))?;
    tracing::info!(image = %path.display(), bytes, filesystem = kind.name(), "the pool's image has been made");
    Ok(Some(file))
}

/// Formats the file. Blocks and sectors have 4096 bytes, like those of the loop device that it will be attached to.
fn format(path: &Path, kind: Kind) -> Result<(), PoolError> {
    let (tool, options): (Tool, &[&str]) = match kind {
        Kind::Xfs => (MKFS_XFS, &["-q", "-L", LABEL, "-s", "size=4096", "-m", "reflink=1,rmapbt=0,crc=1"]),
        Kind::Btrfs => (MKFS_BTRFS, &["-q", "-L", LABEL, "-s", "4096"]),
    };
    Ok(tool.succeed(options.iter().map(|option| option.as_ref()).chain([command::path(path)]))?)
}

/// Refuses a file that is no pool of the wanted kind. It is only read.
fn check(image: &File, path: &Path, bytes: u64, kind: Kind) -> Result<(), PoolError> {
    let metadata = image.metadata().map_err(PoolError::system("inspect", path))?;
    if !metadata.is_file() {
        return Err(PoolError::unusable(path, "it is not a regular file"));
    }
    let wanted = format!("a pool's image holds {} labelled {LABEL}", kind.name());
    let found = match filesystem::probe(path) {
        Ok(Content::Filesystem(Filesystem::Xfs)) => Some(Kind::Xfs),
        Ok(Content::Other("btrfs")) => Some(Kind::Btrfs),
        Ok(Content::Filesystem(Filesystem::Ext4)) => {
            return Err(PoolError::unusable(path, format!("it holds ext4; {wanted}; it is left as it is")));
        }
        Ok(Content::Other(other)) => {
            return Err(PoolError::unusable(path, format!("it holds {other}; {wanted}; it is left as it is")));
        }
        Ok(Content::Blank) => {
            let reason = "it is there and blank; remove it to have it made";
            return Err(PoolError::unusable(path, reason));
        }
        Err(filesystem::Error::Unrecognised { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(found) = found else {
        return Err(PoolError::unusable(path, format!("it holds something unknown; {wanted}; it is left as it is")));
    };
    if found != kind {
        let reason = format!("it holds {}, and {} is asked for; it is left as it is", found.name(), kind.name());
        return Err(PoolError::unusable(path, reason));
    }
    let label = read_label(image, found).map_err(PoolError::system("read the label of", path))?;
    if label != LABEL.as_bytes() {
        let label = String::from_utf8_lossy(&label).into_owned();
        let reason = format!("it holds {} labelled {label:?}; {wanted}; it is left as it is", found.name());
        return Err(PoolError::unusable(path, reason));
    }
    if metadata.len() != bytes {
        tracing::info!(image = %path.display(), found = metadata.len(), asked = bytes, "the pool's image keeps its size");
    }
    Ok(())
}

fn read_label(image: &File, kind: Kind) -> io::Result<Vec<u8>> {
    let (offset, length) = match kind {
        Kind::Xfs => XFS_LABEL,
        Kind::Btrfs => BTRFS_LABEL,
    };
    let mut label = vec![0; length];
    image.read_exact_at(&mut label, offset)?;
    let end = label.iter().position(|byte| *byte == 0).unwrap_or(length);
    label.truncate(end);
    Ok(label)
}

/// Mounts the device on `FILE.mount`, unless it is mounted there by an earlier life of this process.
fn mount(path: &Path, device: LoopDevice, kind: Kind) -> Result<PathBuf, PoolError> {
    let mount_point = suffixed(path, ".mount");
    match DirBuilder::new().mode(0o700).create(&mount_point) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(PoolError::system("make", &mount_point)(error));
        }
        _ => {}
    }
    if let Some(found) = filesystem::mount_at(&mount_point)? {
        if found.source == device.path() {
            return Ok(mount_point);
        }
        let reason = format!("{} is already mounted on {}", found.source.display(), mount_point.display());
        return Err(PoolError::unusable(path, reason));
    }
    let (name, system) = match kind {
        Kind::Xfs => (c"xfs", PoolError::system("mount", path)),
        Kind::Btrfs => (c"btrfs", PoolError::system("mount", path)),
    };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    filesystem::mount_as(&device.path(), &mount_point, name, flags, c"").map_err(|errno| system(errno.into()))?;
    // Nothing that is mounted below is to show elsewhere.
    if let Err(errno) = rustix::mount::mount_change(&mount_point, MountPropagationFlags::PRIVATE) {
        tracing::debug!(mount_point = %mount_point.display(), %errno, "the mount could not be made private");
    }
    Ok(mount_point)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
