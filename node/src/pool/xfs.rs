//! Images on XFS: a `data` folder is a folder, and a cut a reflink of the image in it.
//!
//! Cuts carry the immutable flag, so that nothing moves their blocks (xfs_fsr(8) leaves such files alone) and equal addresses
//! in two cuts go on to mean equal bytes.

use std::{
    fs::{DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{IFlags, SeekFrom},
    io::Errno,
};

use super::{IMAGE, Kind, PoolFilesystem, tree};
use crate::sys::{self, Context};

/// How much is cloned at a time while writers go on, in bytes: they wait for one such step at the most, and it has at most
/// 4096 extents.
const STEP: u64 = 16 << 20;

/// An XFS with reflink.
#[derive(Clone, Copy, Debug, Default)]
pub struct Xfs;

impl PoolFilesystem for Xfs {
    fn kind(&self) -> Kind {
        Kind::Xfs
    }

    fn create(&self, data: &Path, bytes: u64) -> io::Result<()> {
        undone(data, || new_image(data)?.set_len(bytes).during("size", data))
    }

    fn prepare(&self, data: &Path, into: &Path) -> io::Result<()> {
        let source = open_image(data)?;
        let bytes = source.metadata().during("inspect", data)?.len();
        let target = new_image(into)?;
        target.set_len(bytes).during("size", into)?;
        let mut next = 0;
        while let Some(written) = next_written(&source, next).during("find data in", data)? {
            let first = written - written % STEP;
            let length = STEP.min(bytes.saturating_sub(first));
            if length == 0 {
                break;
            }
            sys::clone::clone_range(&source, &target, first, length).during("clone", data)?;
            next = first + length;
        }
        Ok(())
    }

    fn cut(&self, data: &Path, into: &Path) -> io::Result<()> {
        let source = open_image(data)?;
        let seal = |target: &File| -> io::Result<()> {
            rustix::fs::ioctl_ficlone(target, &source).during("clone", data)?;
            let flags = rustix::fs::ioctl_getflags(target).during("seal", into)?;
            rustix::fs::ioctl_setflags(target, flags | IFlags::IMMUTABLE).during("seal", into)
        };
        let prepared = into.join(IMAGE);
        match File::options().read(true).write(true).open(&prepared) {
            Ok(target) => seal(&target),
            Err(error) if error.kind() == ErrorKind::NotFound => undone(into, || seal(&new_image(into)?)),
            Err(error) => Err(error).during("open", &prepared),
        }
    }

    fn clone_writable(&self, data: &Path, into: &Path) -> io::Result<()> {
        let source = open_image(data)?;
        undone(into, || rustix::fs::ioctl_ficlone(new_image(into)?, &source).during("clone", data))
    }

    fn remove(&self, data: &Path) -> io::Result<()> {
        tree::remove(data)
    }

    fn moving(&self) -> io::Result<bool> {
        Ok(false)
    }
}

/// Opens the image in `data` for reading: a clone needs no more of its source.
fn open_image(data: &Path) -> io::Result<File> {
    let path = data.join(IMAGE);
    File::open(&path).during("open", &path)
}

/// Makes the folder `data` and an empty image in it.
fn new_image(data: &Path) -> io::Result<File> {
    DirBuilder::new().mode(0o700).create(data).during("make", data)?;
    let path = data.join(IMAGE);
    File::options().read(true).write(true).create_new(true).mode(0o600).open(&path).during("make", &path)
}

/// Does what makes `data`, and removes what it left where it fails, unless `data` was there before.
fn undone<T>(data: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    make().inspect_err(|error| {
        if error.kind() != ErrorKind::AlreadyExists
            && let Err(error) = tree::remove(data)
        {
            tracing::warn!(folder = %data.display(), %error, "an unfinished image could not be removed");
        }
    })
}

/// Returns the offset of the first byte at `from` or after it that is not in a hole.
fn next_written(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
