//! Holding a file system's writers: `FIFREEZE` and `FITHAW` of linux/fs.h.

use std::{fs::File, io};

/// Freezes the file system that `folder` is open on: flushes it and holds writers until [`thaw`].
///
/// # Errors
/// `ResourceBusy` where it is frozen already, `Unsupported` where it cannot be.
pub fn freeze(folder: &File) -> io::Result<()> {
    let _ = folder;
    unimplemented!()
}

/// Thaws the file system that `folder` is open on.
///
/// # Errors
/// `InvalidInput` where it is not frozen.
pub fn thaw(folder: &File) -> io::Result<()> {
    let _ = folder;
    unimplemented!()
}
