//! Extent maps: `FS_IOC_FIEMAP` of linux/fs.h and linux/fiemap.h, see Documentation/filesystems/fiemap.rst.

use std::{
    fmt, io,
    mem::{offset_of, size_of},
    os::fd::AsFd,
};

use super::raw;

/// Most extents that one call answers with; about 112 KiB of buffer.
pub const BATCH: usize = 2048;

/// `FIEMAP_FLAG_SYNC`: dirty pages are written first, so that they have addresses.
const SYNC: u32 = 1;

/// `struct fiemap_extent` of linux/fiemap.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file, in bytes.
    pub logical: u64,
    /// Where its bytes lie, in bytes; on btrfs an address in its own address space.
    pub physical: u64,
    /// How long it is, in bytes.
    pub length: u64,
    reserved: [u64; 2],
    /// What is particular about it.
    pub flags: u32,
    reserved_flags: [u32; 3],
}

const _: () = assert!(size_of::<Extent>() == 56);
const _: () = assert!(offset_of!(Extent, flags) == 40);

impl Extent {
    /// `FIEMAP_EXTENT_LAST`: nothing follows in the file.
    pub const LAST: u32 = 0x1;
    /// `FIEMAP_EXTENT_UNWRITTEN`: allocated, reads as zeroes.
    pub const UNWRITTEN: u32 = 0x800;
    /// `FIEMAP_EXTENT_SHARED`: other files have it too.
    pub const SHARED: u32 = 0x2000;
    /// Flags with which the address does not tell where the bytes are: `UNKNOWN`, `DELALLOC`, `ENCODED`, `DATA_ENCRYPTED`,
    /// `NOT_ALIGNED`, `DATA_INLINE`, `DATA_TAIL`.
    pub const ADDRESS_UNKNOWN: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400;
}

/// `struct fiemap` of linux/fiemap.h, with room for its extents.
#[repr(C)]
#[derive(Debug)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; BATCH],
}

/// The part of `struct fiemap` that the request's number encodes.
type Header = [u8; 32];

const _: () = assert!(offset_of!(Request, extents) == size_of::<Header>());

/// A buffer for answers, reused between calls.
pub struct Buffer(Box<Request>);

impl Buffer {
    /// Makes an empty buffer.
    #[must_use]
    pub fn new() -> Self {
        let request = Box::<Request>::new_zeroed();
        // SAFETY: every field is an integer or an array of structures of integers, for which zero bytes are valid.
        Self(unsafe { request.assume_init() })
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").finish_non_exhaustive()
    }
}

/// Returns the first extents, at most [`BATCH`], that touch the `length` bytes of `file` from `start` on; it writes the
/// file's dirty pages first.
///
/// # Errors
/// `Unsupported` where the file system has no extent maps.
pub fn map<'a>(file: &impl AsFd, start: u64, length: u64, buffer: &'a mut Buffer) -> io::Result<&'a [Extent]> {
    let request = &mut *buffer.0;
    request.start = start;
    request.length = length;
    request.flags = SYNC;
    request.mapped_extents = 0;
    request.extent_count = u32::try_from(BATCH).map_err(io::Error::other)?;
    // SAFETY: the kernel reads the header and writes at most `extent_count` extents behind it; the buffer, whose layout is
    // asserted above, has room for them, is exclusively borrowed, and any bit pattern is valid in it. The pointer is derived
    // from the whole request, not from its header.
    unsafe { request::fiemap(raw(file), std::ptr::from_mut(request).cast()) }?;
    let count = usize::try_from(request.mapped_extents).map_err(io::Error::other)?;
    request
        .extents
        .get(..count)
        .ok_or_else(|| io::Error::other("the kernel answered more extents than there is room for"))
}

mod request {
    nix::ioctl_readwrite!(fiemap, b'f', 11, super::Header);
}
