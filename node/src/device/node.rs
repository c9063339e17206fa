//! Device nodes of loop devices, below `/dev`.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use rustix::fs::{CWD, FileType, Mode};

use crate::sys::Context;

/// The device that hands out loop devices, see loop(4).
pub(super) const CONTROL: &str = "/dev/loop-control";
/// The major number of loop devices.
const LOOP_MAJOR: u32 = 7;
/// Major (misc devices) and minor number of [`CONTROL`].
const CONTROL_NUMBER: (u32, u32) = (10, 237);

/// Returns the node of device `number`.
pub(super) fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// Tells whether an error of `open` says that there is no such device, or none behind the node.
pub(super) fn is_absent(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.raw_os_error().is_some_and(|code| matches!(Errno::from_raw(code), Errno::ENXIO | Errno::ENODEV))
}

/// Opens [`CONTROL`].
pub(super) fn open_control() -> io::Result<File> {
    let path = Path::new(CONTROL);
    open_or(path, true, || make(path, FileType::CharacterDevice, CONTROL_NUMBER))
}

/// Opens the node of device `number`, making it where `/dev` lacks it, as in a container whose `/dev` is a copy.
pub(super) fn open_or_make(number: u32, write: bool) -> io::Result<File> {
    let path = path(number);
    open_or(&path, write, || {
        // Where partitions are scanned, minor numbers are not the devices' numbers: sysfs knows.
        let numbers = fs::read_to_string(format!("/sys/block/loop{number}/dev"))
            .ok()
            .and_then(|text| {
                let (major, minor) = text.trim().split_once(':')?;
                Some((major.parse().ok()?, minor.parse().ok()?))
            })
            .unwrap_or((LOOP_MAJOR, number));
        make(&path, FileType::BlockDevice, numbers)
    })
}

fn open_or(path: &Path, write: bool, make: impl FnOnce() -> io::Result<()>) -> io::Result<File> {
    let open = || File::options().read(true).write(write).open(path);
    match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => make().and_then(|()| open()),
        other => other,
    }
    .during("open", path)
}

fn make(path: &Path, kind: FileType, (major, minor): (u32, u32)) -> io::Result<()> {
    match rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, rustix::fs::makedev(major, minor)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
