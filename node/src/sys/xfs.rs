//! What only XFS offers: the requests of its own xfs_fs.h, see ioctl_xfs_fsgetxattr(2) and its neighbours.

use std::{
    ffi::{c_char, c_void},
    fs::File,
    io,
    mem::{offset_of, size_of},
    os::fd::{AsFd, FromRawFd},
    ptr,
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

/// Bytes of the `struct xfs_handle` of xfs_fs.h: a file system's id, 8, and a file's, 16.
const HANDLE_LEN: usize = 24;

/// `xfs_fsop_handlereq_t` of xfs_fs.h.
#[repr(C)]
#[derive(Debug)]
pub struct HandleRequest {
    fd: u32,
    path: *const c_char,
    open_flags: u32,
    handle: *const c_void,
    handle_len: u32,
    found: *mut c_void,
    found_len: *mut u32,
}

const _: () = assert!(size_of::<HandleRequest>() == 56);
const _: () = assert!(offset_of!(HandleRequest, handle) == 24);
const _: () = assert!(offset_of!(HandleRequest, found_len) == 48);

/// Opens a file of XFS for reading and writing once more, so that what is read and written through it leaves the file's
/// times as they are, as for xfsdump and xfs_fsr. `folder` is any folder of the same mount.
///
/// Each write is spared the transaction that would enter its time, and each sync the log that this fills.
///
/// # Errors
/// The system's; `Unsupported` or ENOTTY where it is not XFS, `PermissionDenied` without the capability SYS_ADMIN.
pub fn open_without_times(file: &impl AsFd, folder: &impl AsFd) -> io::Result<File> {
    let (mut handle, mut length) = ([0_u8; HANDLE_LEN], 0_u32);
    let mut request = HandleRequest {
        fd: raw(file).cast_unsigned(),
        path: ptr::null(),
        open_flags: 0,
        handle: ptr::null(),
        handle_len: 0,
        found: (&raw mut handle).cast(),
        found_len: &raw mut length,
    };
    // SAFETY: the kernel reads one `xfs_fsop_handlereq`, whose layout is asserted above, and fills a handle, of 24 bytes for a
    // file, and its length; all of them outlive the call.
    unsafe { request::handle_of(raw(folder), &raw mut request) }?;
    let mut request = HandleRequest {
        fd: 0,
        path: ptr::null(),
        open_flags: (nix::libc::O_RDWR | nix::libc::O_LARGEFILE).cast_unsigned(),
        handle: (&raw const handle).cast(),
        handle_len: length,
        found: ptr::null_mut(),
        found_len: ptr::null_mut(),
    };
    // SAFETY: as above; the kernel reads the handle, and neither fills nor follows the pointers that are null.
    let descriptor = unsafe { request::open_by_handle(raw(folder), &raw mut request) }?;
    // SAFETY: the kernel has just made the descriptor for this caller alone.
    let opened = unsafe { File::from_raw_fd(descriptor) };
    // The kernel does not look at O_CLOEXEC there.
    rustix::io::fcntl_setfd(&opened, rustix::io::FdFlags::CLOEXEC)?;
    Ok(opened)
}

mod request {
    nix::ioctl_read!(free_preallocated, b'X', 58, super::Preallocated);
    nix::ioctl_readwrite!(handle_of, b'X', 106, super::HandleRequest);
    nix::ioctl_readwrite!(open_by_handle, b'X', 107, super::HandleRequest);
}
