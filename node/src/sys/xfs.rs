//! What only XFS offers: the requests of its own xfs_fs.h, see ioctl_xfs_fsgetxattr(2) and its neighbours.

use std::{
    io,
    mem::{offset_of, size_of},
    os::fd::AsFd,
};

use super::raw;

/// `XFS_EOFBLOCKS_VERSION`
const VERSION: u32 = 1;
/// `XFS_EOF_FLAGS_SYNC`
const SYNC: u32 = 1;

/// `struct xfs_fs_eofblocks` of xfs_fs.h.
#[repr(C)]
#[derive(Debug)]
pub struct Preallocated {
    version: u32,
    flags: u32,
    uid: u32,
    gid: u32,
    project: u32,
    padding: u32,
    least_file_size: u64,
    reserved: [u64; 12],
}

const _: () = assert!(size_of::<Preallocated>() == 128);
const _: () = assert!(offset_of!(Preallocated, flags) == 4);
const _: () = assert!(offset_of!(Preallocated, least_file_size) == 24);

/// Frees what the file system that `folder` is open on has allocated ahead of writes, past the ends of files and for the
/// copies of shared blocks, and waits until removed files' blocks are counted as free.
///
/// # Errors
/// The system's; `Unsupported` or ENOTTY where it is not XFS.
pub fn free_preallocated(folder: &impl AsFd) -> io::Result<()> {
    let request = Preallocated {
        version: VERSION,
        flags: SYNC,
        uid: 0,
        gid: 0,
        project: 0,
        padding: 0,
        least_file_size: 0,
        reserved: [0; 12],
    };
    // SAFETY: the kernel reads one `xfs_fs_eofblocks`, whose layout is asserted above and which outlives the call; the
    // number's direction says that it writes, which it does not.
    unsafe { request::free_preallocated(raw(folder), (&raw const request).cast_mut()) }?;
    Ok(())
}

mod request {
    nix::ioctl_read!(free_preallocated, b'X', 58, super::Preallocated);
}
