//! Tracepoints: `perf_event_open` of linux/perf_event.h, see perf_event_open(2).
//!
//! A [`Hits`] is one tracepoint on one processor. The kernel writes a record of every hit into a ring that it shares with this
//! process, and counts hits beside it: whoever has as many records as there were hits has all of them.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read as _},
    mem::{offset_of, size_of},
    os::fd::{AsRawFd as _, FromRawFd as _},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::libc;

/// `PERF_TYPE_TRACEPOINT`
const TRACEPOINT: u32 = 2;
/// `PERF_SAMPLE_RAW`
const RAW: u64 = 1 << 10;
/// `disabled`, the first of the attribute's flags.
const DISABLED: u64 = 1;
/// `PERF_FLAG_FD_CLOEXEC`
const CLOSE_ON_EXEC: u32 = 8;
/// `PERF_RECORD_SAMPLE`
const SAMPLE: u32 = 9;

/// `struct perf_event_attr` of linux/perf_event.h, as its first version had it.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

const _: () = assert!(size_of::<Attributes>() == 64);
const _: () = assert!(offset_of!(Attributes, flags) == 40);

/// The part of `struct perf_event_mmap_page` of linux/perf_event.h that tells where the ring's records are.
#[repr(C)]
struct Control {
    other: [u64; 128],
    data_head: AtomicU64,
    data_tail: AtomicU64,
    data_offset: u64,
    data_size: u64,
}

const _: () = assert!(offset_of!(Control, data_head) == 1024);
const _: () = assert!(offset_of!(Control, data_size) == 1048);

/// `struct perf_event_header`: type (u32), misc (u16), size (u16).
const HEADER: usize = 8;

/// A tracepoint's hits on one processor.
#[derive(Debug)]
pub struct Hits {
    file: File,
    control: NonNull<Control>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, and is not tied to the thread that made it.
unsafe impl Send for Hits {}

impl Hits {
    /// Prepares to record hits of a tracepoint, by its number, on a processor, with room for `pages` (a power of two) of
    /// records. `filter` is as in Documentation/trace/events.rst. Nothing is recorded before [`start`](Self::start).
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_PERFMON`; `NotFound` and others where the kernel cannot.
    pub fn new(tracepoint: u64, processor: i32, filter: &CStr, pages: usize) -> io::Result<Self> {
        let attributes = Attributes {
            kind: TRACEPOINT,
            size: u32::try_from(size_of::<Attributes>()).map_err(io::Error::other)?,
            config: tracepoint,
            sample_period: 1,
            sample_type: RAW,
            read_format: 0,
            flags: DISABLED,
            wakeup_events: 0,
            bp_type: 0,
            bp_addr: 0,
        };
        // SAFETY: the kernel reads one `perf_event_attr` of the size that it names; no process, no group.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, processor, -1, CLOSE_ON_EXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        // SAFETY: the kernel reads a string that ends with a zero byte.
        unsafe { request::set_filter(fd, filter.as_ptr().cast()) }?;
        // SAFETY: the call takes no pointer.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let length = (1 + pages) * page;
        // SAFETY: a new mapping, placed by the kernel, of a descriptor that is open.
        let mapped =
            unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let control = NonNull::new(mapped.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { file, control, length })
    }

    /// Starts recording.
    ///
    /// # Errors
    /// The system's.
    pub fn start(&self) -> io::Result<()> {
        // SAFETY: the request takes no pointer.
        unsafe { request::enable(self.file.as_raw_fd(), 0) }?;
        Ok(())
    }

    /// Counts the hits so far, with those that there was no room to record.
    ///
    /// # Errors
    /// The system's.
    pub fn count(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        (&self.file).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    /// Takes the hits recorded so far, and hands on what the tracepoint wrote of each; returns how many they were.
    ///
    /// # Errors
    /// `InvalidData` where the ring makes no sense.
    pub fn take(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
        // SAFETY: the mapping begins with this structure, lives as long as `self`, and what the kernel changes in it is atomic.
        let control = unsafe { self.control.as_ref() };
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a ring of tracepoint hits makes no sense");
        let offset = usize::try_from(control.data_offset).map_err(io::Error::other)?;
        let size = usize::try_from(control.data_size).map_err(io::Error::other)?;
        if size == 0 || offset.checked_add(size).is_none_or(|end| end > self.length) {
            return Err(malformed());
        }
        // Pairs with the kernel's barrier before it moves the head: what lies before it is written.
        let head = control.data_head.load(Ordering::Acquire);
        let mut tail = control.data_tail.load(Ordering::Relaxed);
        let mut taken = 0;
        let mut record = Vec::new();
        let position = |tail: u64| usize::try_from(tail % size as u64).map_err(io::Error::other);
        while tail < head {
            let mut header = [0; HEADER];
            self.copy(offset, size, position(tail)?, &mut header);
            let kind = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            let length = u16::from_ne_bytes([header[6], header[7]]);
            let whole = usize::from(length);
            if whole < HEADER || u64::from(length) > head - tail {
                return Err(malformed());
            }
            if kind == SAMPLE {
                record.resize(whole, 0);
                self.copy(offset, size, position(tail)?, &mut record);
                // `u32 size; char data[size]` behind the header.
                let body = record.get(HEADER + 4..).ok_or_else(malformed)?;
                each(body);
                taken += 1;
            }
            tail += u64::from(length);
        }
        control.data_tail.store(tail, Ordering::Release);
        Ok(taken)
    }

    /// Copies from the ring, which begins `offset` bytes into the mapping and has `size` bytes, from `position` on.
    fn copy(&self, offset: usize, size: usize, position: usize, into: &mut [u8]) {
        let first = into.len().min(size - position);
        // SAFETY: the caller checked that the ring lies within the mapping; `position` is below `size`, both parts are within
        // it, and the kernel does not write between tail and head until the tail is moved.
        unsafe {
            let ring = self.control.as_ptr().cast::<u8>().add(offset);
            ptr::copy_nonoverlapping(ring.add(position), into.as_mut_ptr(), first);
            ptr::copy_nonoverlapping(ring, into.as_mut_ptr().add(first), into.len() - first);
        }
    }
}

impl Drop for Hits {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.control.as_ptr().cast(), self.length) };
    }
}

mod request {
    use std::ffi::c_char;

    nix::ioctl_write_int_bad!(enable, nix::request_code_none!(b'$', 0));
    nix::ioctl_write_ptr!(set_filter, b'$', 6, *mut c_char);
}
