//! Extent maps: which blocks of an image are written and where, and what differs between two.

use std::{io, path::Path};

use varve_repository::block::{BlockSource, BlockTarget, Blocks, Change, ChangeSource};

/// The written extents of an image: what a first snapshot has to read.
#[derive(Debug)]
pub struct Allocated(());

impl Allocated {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// The system's.
    pub fn new(path: &Path) -> io::Result<Self> {
        let _ = path;
        unimplemented!()
    }
}

impl ChangeSource for Allocated {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        let _ = from;
        unimplemented!()
    }
}

/// What differs between a base and a later cut of the same image, by where their blocks lie.
#[derive(Debug)]
pub struct Difference(());

impl Difference {
    /// Opens the images at `base` and `cut`.
    ///
    /// # Errors
    /// The system's.
    pub fn new(base: &Path, cut: &Path) -> io::Result<Self> {
        let _ = (base, cut);
        unimplemented!()
    }
}

impl ChangeSource for Difference {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        let _ = from;
        unimplemented!()
    }
}

/// An image read past the page cache.
#[derive(Debug)]
pub struct ImageSource(());

impl ImageSource {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// The system's; `InvalidData` where its length is not a whole number of blocks.
    pub fn open(path: &Path) -> io::Result<Self> {
        let _ = path;
        unimplemented!()
    }
}

impl BlockSource for ImageSource {
    fn capacity(&self) -> Blocks {
        unimplemented!()
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        let _ = (first, buffer);
        unimplemented!()
    }
}

/// An image filled past the page cache.
#[derive(Debug)]
pub struct ImageTarget(());

impl ImageTarget {
    /// Opens the existing image at `path`.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let _ = path;
        unimplemented!()
    }
}

impl BlockTarget for ImageTarget {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        let _ = (first, data);
        unimplemented!()
    }

    fn sync(&self) -> io::Result<()> {
        unimplemented!()
    }
}
