//! Loop devices: the requests of linux/loop.h, see loop(4).

use std::{
    io,
    mem::{offset_of, size_of},
    os::fd::{AsFd, AsRawFd},
};

use super::raw;

/// `LO_FLAGS_READ_ONLY`
pub const READ_ONLY: u32 = 1;
/// `LO_FLAGS_DIRECT_IO`
pub const DIRECT_IO: u32 = 16;

/// `LO_NAME_SIZE`
const NAME: usize = 64;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Debug)]
pub struct Info {
    /// Number of the device that the backing file lies on, encoded as `st_dev` is.
    pub device: u64,
    /// The backing file's inode number.
    pub inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    /// `LO_FLAGS_*`
    pub flags: u32,
    file_name: [u8; NAME],
    crypt_name: [u8; NAME],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<Info>() == 232);
const _: () = assert!(offset_of!(Info, flags) == 52);
const _: () = assert!(offset_of!(Info, file_name) == 56);
const _: () = assert!(offset_of!(Info, init) == 216);

impl Info {
    const ZERO: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; NAME],
        crypt_name: [0; NAME],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
#[derive(Debug)]
pub struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Config>() == 304);
const _: () = assert!(offset_of!(Config, info) == 8);
const _: () = assert!(offset_of!(Config, reserved) == 240);

/// Returns the number of a device that is free at this moment, making one where all are taken (`LOOP_CTL_GET_FREE`).
///
/// # Errors
/// The system's.
pub fn free_number(control: &impl AsFd) -> io::Result<u32> {
    // SAFETY: the request takes no argument.
    let number = unsafe { request::get_free(raw(control)) }?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Attaches `file` to a device in one step (`LOOP_CONFIGURE`, Linux 5.8). `name` is what tools show, cut off at 63 bytes.
///
/// # Errors
/// `ResourceBusy` where the device has a file, or something holds it open exclusively; `InvalidInput` for a block size that
/// the file cannot have with direct I/O.
pub fn configure(device: &impl AsFd, file: &impl AsFd, name: &[u8], block_size: u32, flags: u32) -> io::Result<()> {
    let mut info = Info { flags, ..Info::ZERO };
    for (to, from) in info.file_name[..NAME - 1].iter_mut().zip(name) {
        *to = *from;
    }
    let fd = u32::try_from(file.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let config = Config { fd, block_size, info, reserved: [0; 8] };
    // SAFETY: the kernel reads one `loop_config`, whose layout is asserted above and which outlives the call; the file's
    // descriptor is borrowed for its duration, and the kernel takes its own reference.
    unsafe { request::configure(raw(device), &raw const config) }?;
    Ok(())
}

/// Detaches the device's file (`LOOP_CLR_FD`); while others hold the device open, the kernel puts that off until they close.
///
/// # Errors
/// `ENXIO` where no file is attached.
pub fn clear(device: &impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { request::clear(raw(device)) }?;
    Ok(())
}

/// Returns what is attached (`LOOP_GET_STATUS64`).
///
/// # Errors
/// `ENXIO` where no file is attached.
pub fn status(device: &impl AsFd) -> io::Result<Info> {
    let mut info = Info::ZERO;
    // SAFETY: the kernel fills one `loop_info64`, whose layout is asserted above and for which every bit pattern is valid.
    unsafe { request::status(raw(device), &raw mut info) }?;
    Ok(info)
}

/// Takes over the backing file's present size (`LOOP_SET_CAPACITY`).
///
/// # Errors
/// `ENXIO` where no file is attached.
pub fn refresh_size(device: &impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { request::set_capacity(raw(device)) }?;
    Ok(())
}

mod request {
    use super::{Config, Info};

    nix::ioctl_none_bad!(clear, 0x4C01);
    nix::ioctl_read_bad!(status, 0x4C05, Info);
    nix::ioctl_none_bad!(set_capacity, 0x4C07);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, Config);
    nix::ioctl_none_bad!(get_free, 0x4C82);
}
