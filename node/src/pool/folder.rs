//! The pool's folder: whether it can be a pool, and what is laid out in it.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Kind, PoolError, open, tree};
use crate::{durable, sys::Context};

pub(super) const VOLUMES: &str = "volumes";
pub(super) const CUTS: &str = "cuts";
pub(super) const MAKING: &str = "making";
const RECORD: &str = "pool.json";
/// What [`RECORD`] is called until it is whole, see `durable`.
const UNFINISHED_RECORD: &str = "pool.json.new";
const LOCK: &str = "lock";

/// How to get a folder that will do.
const ADVICE: &str = "a pool lies on XFS with reflink (mkfs.xfs -m reflink=1) or on btrfs; \
                      --pool-image FILE --pool-size SIZE makes one in a file";

/// `XFS_SUPER_MAGIC` of linux/magic.h
const XFS_MAGIC: u64 = 0x5846_5342;
/// `BTRFS_SUPER_MAGIC` of linux/magic.h
const BTRFS_MAGIC: u64 = 0x9123_683E;
/// Other file systems that people try, from linux/magic.h, for the message.
const OTHERS: &[(u64, &str)] = &[
    (0xEF53, "ext4"),
    (0x0102_1994, "tmpfs"),
    (0x794C_7630, "overlayfs"),
    (0x6969, "NFS"),
    (0x2FC1_2FC1, "ZFS"),
    (0xF2F5_2010, "f2fs"),
    (0x6573_5546, "FUSE"),
];

/// The pool's record.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    uuid: Uuid,
    /// Program and version that made it, for people.
    made_by: String,
}

/// Finds the folder that people call `path`.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, PoolError> {
    let unusable = |reason: String| PoolError::unusable(path, reason);
    let root = path.canonicalize().map_err(|error| unusable(format!("{error}; {ADVICE}")))?;
    let metadata = fs::metadata(&root).map_err(PoolError::system("inspect", &root))?;
    if metadata.is_dir() { Ok(root) } else { Err(unusable(format!("it is not a folder; {ADVICE}"))) }
}

/// Tells the file system that the folder lies on, having seen it share blocks between files.
pub(super) fn kind_of(root: &Path, name: &Path) -> Result<Kind, PoolError> {
    let found = rustix::fs::statfs(root).map_err(|errno| PoolError::system("inspect", root)(errno.into()))?;
    // Its type differs between architectures, and so does its sign.
    let magic = u64::try_from(found.f_type).unwrap_or_default() & u64::from(u32::MAX);
    let kind = match magic {
        XFS_MAGIC => Kind::Xfs,
        BTRFS_MAGIC => Kind::Btrfs,
        _ => {
            let other = OTHERS
                .iter()
                .find(|(known, _)| *known == magic)
                .map_or_else(|| format!("a file system of unknown type {magic:#x}"), |(_, name)| format!("on {name}"));
            return Err(PoolError::unusable(name, format!("it lies {other}, which cannot share blocks; {ADVICE}")));
        }
    };
    match share_a_block(root) {
        Ok(()) => Ok(kind),
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::InvalidInput) => {
            Err(PoolError::unusable(
                name,
                format!(
                    "it lies on {} without reflink: two files cannot share a block there ({error}); {ADVICE}",
                    kind.name()
                ),
            ))
        }
        Err(error) => Err(PoolError::system("share blocks in", root)(error)),
    }
}

/// Clones one file to another, both without a name, so that nothing is left however this ends.
fn share_a_block(root: &Path) -> io::Result<()> {
    let mut source = tempfile::tempfile_in(root)?;
    source.write_all(&[1; 4096])?;
    let target = tempfile::tempfile_in(root)?;
    Ok(rustix::fs::ioctl_ficlone(&target, &source)?)
}

/// Refuses a folder that holds something and is no pool.
pub(super) fn check_contents(root: &Path, name: &Path) -> Result<(), PoolError> {
    if root.join(RECORD).try_exists().map_err(PoolError::system("inspect", root))? {
        return Ok(());
    }
    // What an unfinished layout leaves, and what mkfs makes.
    let known = [VOLUMES, CUTS, MAKING, LOCK, UNFINISHED_RECORD, "lost+found"];
    for entry in fs::read_dir(root).map_err(PoolError::system("list", root))? {
        let found = entry.map_err(PoolError::system("list", root))?.file_name();
        if !known.iter().any(|known| found == *known) {
            let reason = format!("it is not a pool and not empty: it holds {found:?}; give an empty folder");
            return Err(PoolError::unusable(name, reason));
        }
    }
    Ok(())
}

/// Takes the pool's lock.
pub(super) fn lock(root: &Path, name: &Path) -> Result<File, PoolError> {
    let path = root.join(LOCK);
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(PoolError::system("open", &path))?;
    open::lock(&file, &path, name)?;
    Ok(file)
}

/// Makes what is missing of the pool's layout, empties `making/` and returns the pool's identity. The lock is held.
pub(super) fn lay_out(root: &Path, name: &Path) -> Result<Uuid, PoolError> {
    for folder in [VOLUMES, CUTS, MAKING] {
        let path = root.join(folder);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(PoolError::system("make", &path)(error));
            }
            _ => {}
        }
    }
    let path = root.join(RECORD);
    let uuid = match durable::read::<Record>(&path) {
        Ok(Some(record)) => record.uuid,
        Ok(None) => {
            let uuid = Uuid::new_v4();
            let made_by = concat!("varve ", env!("CARGO_PKG_VERSION")).to_owned();
            // It is written last: from here on the folder is a pool. Its sync makes the folders' names durable too.
            durable::write(&path, &Record { uuid, made_by }).map_err(PoolError::system("write", &path))?;
            uuid
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Err(PoolError::unusable(name, error.to_string()));
        }
        Err(error) => return Err(PoolError::system("read", &path)(error)),
    };
    let making = root.join(MAKING);
    tree::empty(&making).during("empty", &making).map_err(PoolError::system("empty", &making))?;
    Ok(uuid)
}
