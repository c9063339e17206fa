//! Images on XFS: a `data` folder is a folder, and a cut a reflink of the image in it.
//!
//! Cuts carry the immutable flag, so that nothing moves their blocks (xfs_fsr(8) leaves such files alone) and equal addresses
//! in two cuts go on to mean equal bytes.

use std::{
    fs::{DirBuilder, File},
    io::{self, ErrorKind},
    ops::Range,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{IFlags, SeekFrom},
    io::Errno,
};
use varve_repository::block::BLOCK_SIZE;

use super::{IMAGE, Kind, PoolFilesystem, tree};
use crate::sys::{self, Context};

/// How much is cloned at a time while writers go on, in bytes, at the first: they wait for one such step at the most.
const FIRST_STEP: u64 = 4 << 20;
/// The least and the most of it, in bytes.
const STEPS: (u64, u64) = (1 << 20, 4 << 30);
/// How long a step is to take: its size follows from that, as it takes some 15 µs for every extent.
const STEP: Duration = Duration::from_millis(4);

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
        self.prepare_in_steps(data, into, &mut || Ok(()))
    }

    fn prepare_in_steps(
        &self,
        data: &Path,
        into: &Path,
        between: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let source = open_image(data)?;
        let bytes = source.metadata().during("inspect", data)?.len();
        let target = new_image(into)?;
        target.set_len(bytes).during("size", into)?;
        let (mut next, mut step) = (0, FIRST_STEP);
        while let Some(written) = next_written(&source, next).during("find data in", data)? {
            let first = written - written % BLOCK_SIZE;
            let length = step.min(bytes.saturating_sub(first));
            if length == 0 {
                break;
            }
            let started = Instant::now();
            sys::clone::clone_range(&source, &target, first, length).during("clone", data)?;
            next = first + length;
            step = next_step(step, started.elapsed());
            between()?;
        }
        Ok(())
    }

    fn renew(&self, data: &Path, into: &Path, written: &[Range<u64>]) -> io::Result<()> {
        let source = open_image(data)?;
        let path = into.join(IMAGE);
        let target = File::options().read(true).write(true).open(&path).during("open", &path)?;
        clone_ranges(&source, &target, written).during("clone", data)
    }

    fn cut(&self, data: &Path, into: &Path) -> io::Result<()> {
        let source = open_image(data)?;
        let all = |target: &File| -> io::Result<()> {
            rustix::fs::ioctl_ficlone(target, &source).during("clone", data)?;
            seal(target).during("seal", into)
        };
        let prepared = into.join(IMAGE);
        match File::options().read(true).write(true).open(&prepared) {
            Ok(target) => all(&target),
            Err(error) if error.kind() == ErrorKind::NotFound => undone(into, || all(&new_image(into)?)),
            Err(error) => Err(error).during("open", &prepared),
        }
    }

    fn cut_written(&self, data: &Path, into: &Path, written: &[Range<u64>]) -> io::Result<()> {
        let source = open_image(data)?;
        let path = into.join(IMAGE);
        let target = File::options().read(true).write(true).open(&path).during("open", &path)?;
        if target.metadata().during("inspect", &path)?.len() != source.metadata().during("inspect", data)?.len() {
            return self.cut(data, into);
        }
        clone_ranges(&source, &target, written).during("clone", data)?;
        seal(&target).during("seal", into)
    }

    fn walks_extents(&self) -> bool {
        true
    }

    fn clone_writable(&self, data: &Path, into: &Path) -> io::Result<()> {
        let source = open_image(data)?;
        undone(into, || rustix::fs::ioctl_ficlone(new_image(into)?, &source).during("clone", data))
    }

    fn remove(&self, data: &Path) -> io::Result<()> {
        tree::remove(data)
    }

    /// A write to a shared block takes 128 KiB for the copy, and what is not needed of it stays taken for minutes; blocks of
    /// removed files are freed in the background. One request sees to both.
    fn reclaim(&self, root: &Path) -> io::Result<()> {
        let folder = File::open(root).during("open", root)?;
        sys::xfs::free_preallocated(&folder).during("free what is allocated ahead in", root)
    }

    fn moving(&self) -> io::Result<bool> {
        Ok(false)
    }
}

/// Clones ranges of one image into another of the same length.
fn clone_ranges(source: &File, target: &File, ranges: &[Range<u64>]) -> io::Result<()> {
    let bytes = source.metadata()?.len();
    for range in ranges {
        let end = range.end.min(bytes);
        // A length of nothing would mean up to the end.
        if range.start < end {
            sys::clone::clone_range(source, target, range.start, end - range.start)?;
        }
    }
    Ok(())
}

/// Makes a cut's image immutable.
fn seal(image: &File) -> io::Result<()> {
    let flags = rustix::fs::ioctl_getflags(image)?;
    Ok(rustix::fs::ioctl_setflags(image, flags | IFlags::IMMUTABLE)?)
}

/// Chooses the next step by how long the last one took.
fn next_step(step: u64, took: Duration) -> u64 {
    let next = if took > STEP * 2 {
        step / 2
    } else if took < STEP / 2 {
        step * 2
    } else {
        step
    };
    next.clamp(STEPS.0, STEPS.1)
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
