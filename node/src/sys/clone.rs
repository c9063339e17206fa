//! Sharing blocks between files: `FICLONERANGE` of linux/fs.h, see ioctl_ficlonerange(2). Whole files are cloned with
//! [`rustix::fs::ioctl_ficlone`].

use std::{
    io,
    mem::{offset_of, size_of},
    os::fd::AsFd,
};

use super::raw;

/// `struct file_clone_range` of linux/fs.h.
#[repr(C)]
#[derive(Debug)]
pub struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

const _: () = assert!(size_of::<FileCloneRange>() == 32);
const _: () = assert!(offset_of!(FileCloneRange, dest_offset) == 24);

/// Makes `length` bytes of `target` at `offset` share the blocks of `source` at the same offset. Both are multiples of the
/// file system's block size, unless the range ends at the end of `source`; a `length` of 0 means up to there.
///
/// # Errors
/// `Unsupported` and `CrossesDevices` where the file system does not share blocks, `StorageFull`.
pub fn clone_range(source: &impl AsFd, target: &impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let range =
        FileCloneRange { src_fd: i64::from(raw(source)), src_offset: offset, src_length: length, dest_offset: offset };
    // SAFETY: the kernel reads one `file_clone_range`, whose layout is asserted above and which outlives the call; both
    // descriptors are borrowed for its duration.
    unsafe { request::clone_range(raw(target), &raw const range) }?;
    Ok(())
}

mod request {
    nix::ioctl_write_ptr!(clone_range, 0x94, 13, super::FileCloneRange);
}
