//! Holding a file system's writers: `FIFREEZE` and `FITHAW` of linux/fs.h.

use std::{
    io,
    os::fd::{AsFd, RawFd},
};

use super::raw;

/// Freezes the file system that `folder` is open on: flushes it and holds writers until [`thaw`].
///
/// # Errors
/// `ResourceBusy` where it is frozen already, `Unsupported` where it cannot be.
pub fn freeze(folder: &impl AsFd) -> io::Result<()> {
    call(raw(folder), request::freeze)
}

/// Thaws the file system that `folder` is open on.
///
/// # Errors
/// `InvalidInput` where it is not frozen.
pub fn thaw(folder: &impl AsFd) -> io::Result<()> {
    call(raw(folder), request::thaw)
}

type Request = unsafe fn(RawFd, *mut i32) -> nix::Result<i32>;

fn call(folder: RawFd, request: Request) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: the kernel ignores the argument of both requests; a pointer to a live integer satisfies their declared type.
    unsafe { request(folder, &raw mut unused) }?;
    Ok(())
}

mod request {
    nix::ioctl_readwrite!(freeze, b'X', 119, i32);
    nix::ioctl_readwrite!(thaw, b'X', 120, i32);
}
