//! Reading and writing images past the page cache, which would otherwise fill with bytes that nobody reads twice.
//!
//! Small pieces are written through it all the same: a restore brings the blocks of a volume that was rewritten in small
//! pieces in any order, the cache puts them together, and the image has fewer extents for it. What is written through
//! it and what is written past it does not overlap, since blocks are as large as its pages or larger.
//!
//! # Concurrency
//! Every call names its position, so calls from several threads need no ordering; buffers of direct I/O are lent from a list.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{Advice, OFlags, fadvise};
use varve_repository::block::{BlockSource, BlockTarget, Blocks};

use super::aligned::{Buffers, LENGTH, is_aligned};
use crate::sys::Context;

/// An image read past the page cache, or through it where the file system does not allow that.
#[derive(Debug)]
pub struct ImageSource(Image);

impl ImageSource {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// The system's; `InvalidData` where its length is not a whole number of blocks.
    pub fn open(path: &Path) -> io::Result<Self> {
        Image::open(path, File::options().read(true)).map(Self)
    }
}

impl BlockSource for ImageSource {
    fn capacity(&self) -> Blocks {
        self.0.capacity
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        let Image { file, direct, buffers, .. } = &self.0;
        let offset = self.0.locate(first, buffer.len(), ErrorKind::UnexpectedEof)?;
        if !direct || is_aligned(buffer) {
            return file.read_exact_at(buffer, offset);
        }
        buffers.with(|aligned| {
            let mut offset = offset;
            for piece in buffer.chunks_mut(LENGTH) {
                let aligned = &mut aligned[..piece.len()];
                file.read_exact_at(aligned, offset)?;
                piece.copy_from_slice(aligned);
                offset += length(piece);
            }
            Ok(())
        })
    }
}

/// Less than so many bytes is written through the page cache.
const SMALL: usize = 64 << 10;

/// An image filled past the page cache, or through it where that is better or the file system does not allow the other.
#[derive(Debug)]
pub struct ImageTarget {
    image: Image,
    cached: File,
}

impl ImageTarget {
    /// Opens the existing image at `path`.
    ///
    /// # Errors
    /// The system's; `InvalidData` where its length is not a whole number of blocks.
    pub fn open(path: &Path) -> io::Result<Self> {
        let image = Image::open(path, File::options().read(true).write(true))?;
        let cached = File::options().write(true).open(path).during("open", path)?;
        Ok(Self { image, cached })
    }
}

impl BlockTarget for ImageTarget {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        let Image { file, direct, buffers, .. } = &self.image;
        let offset = self.image.locate(first, data.len(), ErrorKind::InvalidInput)?;
        if data.len() < SMALL {
            return self.cached.write_all_at(data, offset);
        }
        if !direct || is_aligned(data) {
            return file.write_all_at(data, offset);
        }
        buffers.with(|aligned| {
            let mut offset = offset;
            for piece in data.chunks(LENGTH) {
                let aligned = &mut aligned[..piece.len()];
                aligned.copy_from_slice(piece);
                file.write_all_at(aligned, offset)?;
                offset += length(piece);
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.cached.sync_all()?;
        // What was put together there is not read again from there: volumes are read past it.
        match fadvise(&self.cached, 0, None, Advice::DontNeed) {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "the page cache keeps what was restored");
                Ok(())
            }
        }
    }
}

/// An open image.
#[derive(Debug)]
struct Image {
    file: File,
    capacity: Blocks,
    /// Whether the file was opened for direct I/O.
    direct: bool,
    buffers: Buffers,
}

impl Image {
    fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        let flag = i32::try_from(OFlags::DIRECT.bits()).expect("the flags of open(2) are an int");
        let (file, direct) = match options.clone().custom_flags(flag).open(path) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == ErrorKind::InvalidInput => (options.open(path).during("open", path)?, false),
            Err(error) => return Err(error).during("open", path),
        };
        let capacity = blocks_of(&file, path)?;
        Ok(Self { file, capacity, direct, buffers: Buffers::default() })
    }

    /// Gives the offset of `first` in bytes, where `bytes` whole blocks lie from there within the image.
    fn locate(&self, first: Blocks, bytes: usize, past_the_end: ErrorKind) -> io::Result<u64> {
        let count = u64::try_from(bytes).ok().and_then(Blocks::from_bytes);
        let count = count.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "not a whole number of blocks"))?;
        match first.0.checked_add(count.0) {
            Some(end) if end <= self.capacity.0 => Ok(first.bytes()),
            _ => Err(io::Error::new(past_the_end, format!("{count} blocks at {first} of {}", self.capacity))),
        }
    }
}

fn length(piece: &[u8]) -> u64 {
    u64::try_from(piece.len()).expect("a length is a u64")
}

/// Opens a file for its map.
pub(super) fn open_buffered(path: &Path) -> io::Result<File> {
    File::open(path).during("open", path)
}

/// Returns a file's length.
pub(super) fn blocks_of(file: &File, path: &Path) -> io::Result<Blocks> {
    let bytes = file.metadata().during("inspect", path)?.len();
    let blocks = Blocks::from_bytes(bytes).ok_or_else(|| {
        io::Error::new(ErrorKind::InvalidData, format!("its length, {bytes}, is not a whole number of blocks"))
    });
    blocks.during("use as an image", path)
}
