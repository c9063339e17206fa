//! Block devices: `BLKROSET`, `BLKFLSBUF`, `BLKDISCARD` and `BLKGETSIZE64` of linux/fs.h.

use std::{io, os::fd::AsFd};

use super::raw;

/// Returns the size of a block device in bytes.
///
/// # Errors
/// `ENOTTY` where it is not a block device.
pub fn size(device: &impl AsFd) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one u64 through the pointer, which is live and exclusive for the call. The request's number
    // encodes the size of `size_t`, but its implementation stores a u64 on every architecture.
    unsafe { request::size(raw(device), &raw mut bytes) }?;
    Ok(bytes)
}

/// Writes what the page cache holds of a block device and forgets it, so that other readers of the blocks below see the
/// same. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// The system's.
pub fn flush(device: &impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { request::flush(raw(device)) }?;
    Ok(())
}

/// Discards `length` bytes of a block device at `offset`. A loop device punches the range out of its file, so that it reads
/// as zeroes afterwards.
///
/// # Errors
/// `Unsupported` where the device cannot discard.
pub fn discard(device: &impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: the kernel reads two u64 through the pointer, which stays valid for the call.
    unsafe { request::discard(raw(device), range.as_ptr()) }?;
    Ok(())
}

/// Makes a block device refuse writers, or take them again. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// The system's.
pub fn set_read_only(device: &impl AsFd, read_only: bool) -> io::Result<()> {
    let value = i32::from(read_only);
    // SAFETY: the kernel reads one int through the pointer, which stays valid for the call.
    unsafe { request::set_read_only(raw(device), &raw const value) }?;
    Ok(())
}

mod request {
    nix::ioctl_write_ptr_bad!(set_read_only, nix::request_code_none!(0x12, 93), i32);
    nix::ioctl_none!(flush, 0x12, 97);
    nix::ioctl_read!(size, 0x12, 114, u64);
    nix::ioctl_write_ptr_bad!(discard, nix::request_code_none!(0x12, 119), u64);
}
