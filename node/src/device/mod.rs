//! Loop devices: how an image becomes a block device.
//!
//! # Concurrency
//! Attaching is free of races: the kernel hands out a free number (`LOOP_CTL_GET_FREE`), and `LOOP_CONFIGURE` sets the
//! device up in one step or answers `EBUSY`, upon which another number is asked for. Two callers that want *one* device
//! for one image must be kept apart by their caller ([`LoopDevice::attach_or_find`] alone does not do it).
//!
//! A [`LoopDevice`] remembers whose device it is, by the backing file's device and inode number: one that was detached and
//! whose number has since gone to another file is never mistaken for it.
//!
//! # Crash consistency
//! Nothing is recorded: which image is attached where is the kernel's knowledge and is read from it, so a process that
//! was killed finds its devices again with [`LoopDevice::find`] and [`all_below`].

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::sys::{self, Context, loops};

mod list;
mod node;
mod written;

pub use list::all_below;
pub(crate) use written::Written;

/// How often a free number is asked for while others snatch it away.
const ATTEMPTS: u32 = 100;
/// Longest wait for the kernel to let go of a detached file.
const DETACH_LIMIT: Duration = Duration::from_secs(5);
/// `ENXIO`: no file is attached.
const NOT_ATTACHED: i32 = nix::errno::Errno::ENXIO as i32;

/// How an image is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether writes to the device fail.
    pub read_only: bool,
    /// Whether the device goes past the page cache, where the file system below allows it.
    pub direct_io: bool,
    /// Logical block size in bytes: a power of two from 512 to 4096.
    pub block_size: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { read_only: false, direct_io: true, block_size: 4096 }
    }
}

/// A file, whatever it is called: its device and inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    fn attached_to(device: &File) -> io::Result<Self> {
        loops::status(device).map(|info| Self { device: info.device, inode: info.inode })
    }
}

/// An attached loop device, named by its number. Dropping it does not detach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoopDevice {
    number: u32,
    backing: Identity,
}

// === impl LoopDevice ===

impl LoopDevice {
    /// Attaches `image` to a free device.
    ///
    /// # Errors
    /// The system's.
    pub fn attach(image: &Path, options: Options) -> io::Result<Self> {
        let file = open(image, options)?;
        let backing = Identity::of(&file.metadata().during("inspect", image)?);
        let control = node::open_control()?;
        let mut flags = 0;
        if options.read_only {
            flags |= loops::READ_ONLY;
        }
        if options.direct_io {
            flags |= loops::DIRECT_IO;
        }
        let mut attempt = 0;
        let (number, node) = loop {
            let number =
                loops::free_number(&control).during("find a free loop device with", Path::new(node::CONTROL))?;
            let path = node::path(number);
            let node = node::open_or_make(number, !options.read_only)?;
            match loops::configure(&node, &file, image.as_os_str().as_bytes(), options.block_size, flags) {
                Ok(()) => break (number, node),
                Err(error) if error.kind() == ErrorKind::ResourceBusy && attempt < ATTEMPTS => {
                    attempt += 1;
                    thread::yield_now();
                }
                Err(error) => return Err(error).during("attach", &path).during("attach", image),
            }
        };
        let device = Self { number, backing };
        if options.direct_io && loops::status(&node)?.flags & loops::DIRECT_IO == 0 {
            tracing::warn!(
                image = %image.display(),
                device = %device.path().display(),
                "the file system below does not allow direct I/O: the loop device goes through the page cache"
            );
        }
        Ok(device)
    }

    /// Finds a device whose backing file is `image` (by device and inode number, not by name).
    ///
    /// # Errors
    /// The system's; `NotFound` where `image` is not there.
    pub fn find(image: &Path) -> io::Result<Option<Self>> {
        let wanted = Identity::of(&fs::metadata(image).during("inspect", image)?);
        list::find(wanted)
    }

    /// Returns the device that `image` is attached to, attaching it where it is not.
    ///
    /// # Errors
    /// The system's.
    pub fn attach_or_find(image: &Path, options: Options) -> io::Result<Self> {
        match Self::find(image)? {
            Some(device) => Ok(device),
            None => Self::attach(image, options),
        }
    }

    /// Detaches the device and waits until the kernel has let go of the file. A device that is not attached is fine.
    ///
    /// # Errors
    /// `ResourceBusy` where something still holds the device open after a bounded wait; the kernel then detaches it by
    /// itself when that lets go.
    pub fn detach(self) -> io::Result<()> {
        let path = self.path();
        let Some(node) = self.open()? else { return Ok(()) };
        match loops::clear(&node) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(NOT_ATTACHED) => return Ok(()),
            Err(error) => return Err(error).during("detach", &path),
        }
        // The kernel puts the work off until the last holder closes the device, and that may be this descriptor, or
        // udev's that looks at every change. No event tells of the end: there is only sysfs to ask.
        drop(node);
        let deadline = Instant::now() + DETACH_LIMIT;
        let mut pause = Duration::from_millis(1);
        while self.is_attached()? {
            if Instant::now() >= deadline {
                let reason = format!("{} is still in use", path.display());
                return Err(io::Error::new(ErrorKind::ResourceBusy, reason));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Tells whether the device still has its file.
    ///
    /// # Errors
    /// The system's.
    pub fn is_attached(self) -> io::Result<bool> {
        // Sysfs first: opening the device would itself put its release off.
        match list::backing_file(self.number)? {
            None => Ok(false),
            Some(file) => match fs::metadata(&file) {
                Ok(metadata) => Ok(Identity::of(&metadata) == self.backing),
                Err(_) => Ok(self.open()?.is_some()),
            },
        }
    }

    /// Makes the device as large as its image has become.
    ///
    /// # Errors
    /// The system's; `NotFound` where the image is not attached to it any more.
    pub fn refresh_size(self) -> io::Result<()> {
        let path = self.path();
        let node = self.open()?.ok_or(ErrorKind::NotFound).during("resize", &path)?;
        loops::refresh_size(&node).during("resize", &path)
    }

    /// Makes the device refuse writers, or take them again. The kernel keeps that with the device's number, beyond a
    /// [`detach`](Self::detach).
    ///
    /// # Errors
    /// The system's; `NotFound` where the image is not attached to it any more.
    pub fn set_read_only(self, read_only: bool) -> io::Result<()> {
        let path = self.path();
        let node = self.open()?.ok_or(ErrorKind::NotFound).during("set the access of", &path)?;
        sys::block::set_read_only(&node, read_only).during("set the access of", &path)
    }

    /// Returns the device's size in bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn size(self) -> io::Result<u64> {
        list::size(self.number)
    }

    /// Tells whether the device goes past the page cache.
    ///
    /// # Errors
    /// The system's; `NotFound` where the image is not attached to it any more.
    pub fn is_direct(self) -> io::Result<bool> {
        let path = self.path();
        let node = self.open()?.ok_or(ErrorKind::NotFound).during("inspect", &path)?;
        Ok(loops::status(&node).during("inspect", &path)?.flags & loops::DIRECT_IO != 0)
    }

    /// Returns the device node: `/dev/loopN`.
    #[must_use]
    pub fn path(self) -> PathBuf {
        node::path(self.number)
    }

    /// Opens the device, or gives `None` where its file is not attached to it any more.
    fn open(self) -> io::Result<Option<File>> {
        let path = self.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if node::is_absent(&error) => return Ok(None),
            Err(error) => return Err(error).during("open", &path),
        };
        match Identity::attached_to(&file) {
            Ok(backing) => Ok((backing == self.backing).then_some(file)),
            Err(error) if error.raw_os_error() == Some(NOT_ATTACHED) => Ok(None),
            Err(error) => Err(error).during("inspect", &path),
        }
    }
}

/// Opens an image to attach it; on XFS, if it can be, so that writing to it leaves its times alone: nobody goes by them, and
/// each entry of a time costs a transaction, and what is in the log by then has to be written at the next sync.
fn open(image: &Path, options: Options) -> io::Result<File> {
    let file = File::options().read(true).write(!options.read_only).open(image).during("open", image)?;
    if options.read_only {
        return Ok(file);
    }
    let folder = image.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let reopened = File::open(folder).and_then(|folder| sys::xfs::open_without_times(&file, &folder));
    Ok(reopened.unwrap_or(file))
}

/// An attached device that is detached on drop: for short use.
#[derive(Debug)]
pub struct Attached(LoopDevice);

// === impl Attached ===

impl Attached {
    /// Attaches `image`.
    ///
    /// # Errors
    /// As [`LoopDevice::attach`].
    pub fn new(image: &Path, options: Options) -> io::Result<Self> {
        LoopDevice::attach(image, options).map(Self)
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> LoopDevice {
        self.0
    }

    /// Returns the device node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Err(error) = self.0.detach() {
            tracing::warn!(device = %self.0.path().display(), %error, "a loop device could not be detached");
        }
    }
}
