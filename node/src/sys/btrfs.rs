//! Subvolumes of btrfs: the requests of linux/btrfs.h, see btrfs-ioctl(2).

use std::{
    ffi::OsStr,
    io,
    mem::{offset_of, size_of},
    os::{fd::AsFd, unix::ffi::OsStrExt},
};

use super::raw;

/// Room for a name: `BTRFS_PATH_NAME_MAX` and the closing zero.
const NAME: usize = 4088;
/// Room for a name in version 2: `BTRFS_SUBVOL_NAME_MAX` and the closing zero.
const NAME_V2: usize = 4040;
/// Longest name of a file, which a subvolume's is (`BTRFS_NAME_LEN`).
const LONGEST_NAME: usize = 255;
/// `BTRFS_SUBVOL_RDONLY`
const READ_ONLY: u64 = 1 << 1;
/// `BTRFS_BALANCE_STATE_RUNNING`
const RUNNING: u64 = 1;
/// Inode number of the root of every subvolume: `BTRFS_FIRST_FREE_OBJECTID`.
pub const SUBVOLUME_ROOT: u64 = 256;

/// `struct btrfs_ioctl_vol_args` of linux/btrfs.h.
#[repr(C)]
#[derive(Debug)]
pub struct VolumeArgs {
    fd: i64,
    name: [u8; NAME],
}

const _: () = assert!(size_of::<VolumeArgs>() == 4096);
const _: () = assert!(offset_of!(VolumeArgs, name) == 8);

/// `struct btrfs_ioctl_vol_args_v2` of linux/btrfs.h.
#[repr(C)]
#[derive(Debug)]
pub struct VolumeArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_V2],
}

const _: () = assert!(size_of::<VolumeArgsV2>() == 4096);
const _: () = assert!(offset_of!(VolumeArgsV2, flags) == 16);
const _: () = assert!(offset_of!(VolumeArgsV2, name) == 56);

/// `struct btrfs_ioctl_balance_args` of linux/btrfs.h, of which only the state matters here.
#[repr(C)]
#[derive(Debug)]
pub struct BalanceArgs {
    flags: u64,
    state: u64,
    rest: [u64; 126],
}

const _: () = assert!(size_of::<BalanceArgs>() == 1024);
const _: () = assert!(offset_of!(BalanceArgs, state) == 8);

/// Makes an empty subvolume called `name` in `parent`.
///
/// # Errors
/// The system's; `InvalidInput` for an unusable name.
pub fn create_subvolume(parent: &impl AsFd, name: &OsStr) -> io::Result<()> {
    let args = VolumeArgs { fd: 0, name: terminated(name)? };
    // SAFETY: the kernel reads one `btrfs_ioctl_vol_args`, whose layout is asserted above, with a terminated name.
    unsafe { request::create_subvolume(raw(parent), &raw const args) }?;
    Ok(())
}

/// Makes a snapshot of the subvolume `source` called `name` in `parent`.
///
/// # Errors
/// The system's; `InvalidInput` for an unusable name.
pub fn create_snapshot(source: &impl AsFd, parent: &impl AsFd, name: &OsStr, read_only: bool) -> io::Result<()> {
    let args = VolumeArgsV2 {
        fd: i64::from(raw(source)),
        transid: 0,
        flags: if read_only { READ_ONLY } else { 0 },
        unused: [0; 4],
        name: terminated(name)?,
    };
    // SAFETY: the kernel reads one `btrfs_ioctl_vol_args_v2`, whose layout is asserted above, with a terminated name; both
    // descriptors are borrowed for the call. No flag that would make it read a pointer is set.
    unsafe { request::create_snapshot(raw(parent), &raw const args) }?;
    Ok(())
}

/// Deletes the subvolume or snapshot called `name` in `parent`. Its blocks are freed in the background.
///
/// # Errors
/// The system's; `InvalidInput` where it is not a subvolume.
pub fn delete_subvolume(parent: &impl AsFd, name: &OsStr) -> io::Result<()> {
    let args = VolumeArgs { fd: 0, name: terminated(name)? };
    // SAFETY: the kernel reads one `btrfs_ioctl_vol_args`, whose layout is asserted above, with a terminated name.
    unsafe { request::delete_subvolume(raw(parent), &raw const args) }?;
    Ok(())
}

/// Tells whether a balance is running on the file system that `folder` is open on.
///
/// # Errors
/// The system's.
pub fn balancing(folder: &impl AsFd) -> io::Result<bool> {
    let mut args = BalanceArgs { flags: 0, state: 0, rest: [0; 126] };
    // SAFETY: the kernel fills one `btrfs_ioctl_balance_args`, whose layout is asserted above and for which every bit
    // pattern is valid.
    match unsafe { request::balance_progress(raw(folder), &raw mut args) } {
        Ok(_) => Ok(args.state & RUNNING != 0),
        Err(nix::errno::Errno::ENOTCONN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Commits what the file system that `folder` is open on holds in memory, and wakes the thread that frees the blocks of
/// deleted subvolumes: by itself it wakes twice a minute.
///
/// # Errors
/// The system's.
pub fn sync(folder: &impl AsFd) -> io::Result<()> {
    // SAFETY: the request has no argument.
    unsafe { request::sync(raw(folder)) }?;
    Ok(())
}

fn terminated<const N: usize>(name: &OsStr) -> io::Result<[u8; N]> {
    let name = name.as_bytes();
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(&0) || name.contains(&b'/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a subvolume's name"));
    }
    let mut bytes = [0; N];
    bytes[..name.len()].copy_from_slice(name);
    Ok(bytes)
}

mod request {
    use super::{BalanceArgs, VolumeArgs, VolumeArgsV2};

    nix::ioctl_none!(sync, 0x94, 8);
    nix::ioctl_write_ptr!(create_subvolume, 0x94, 14, VolumeArgs);
    nix::ioctl_write_ptr!(delete_subvolume, 0x94, 15, VolumeArgs);
    nix::ioctl_write_ptr!(create_snapshot, 0x94, 23, VolumeArgsV2);
    nix::ioctl_read!(balance_progress, 0x94, 34, BalanceArgs);
}
