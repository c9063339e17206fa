//! Making file systems on blank devices.
//!
//! An idle volume has to stay idle: whatever the kernel would still initialise after the first mount would be sent to the
//! repository by the next snapshots. So nothing is left to be done lazily, and since the device is known to read as zeroes
//! (it is discarded first, which punches its image empty), nothing has to be zeroed either: a 100 GiB ext4 allocates 5 MiB.

use std::{ffi::OsStr, fs::File, path::Path, time::Duration};

use super::{
    Content, Error, Filesystem, Result,
    command::{Tool, path},
    probe,
};
use crate::sys;

const MKFS_EXT4: Tool = Tool { name: "mkfs.ext4", package: "e2fsprogs", limit: Duration::from_secs(600) };
const MKFS_XFS: Tool = Tool { name: "mkfs.xfs", package: "xfsprogs", limit: Duration::from_secs(600) };

/// Extended options for a device that reads as zeroes (mke2fs(8), e2fsprogs 1.47).
const EXT4_ZEROED: &str = "nodiscard,assume_storage_prezeroed=1";
/// Extended options for any other, or for an older program: everything is zeroed at once.
const EXT4_ANY: &str = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
/// What an older `mke2fs` answers to an extended option that it does not know.
const BAD_OPTION: &str = "Bad option(s) specified";

/// Returns the smallest device, in bytes, that such a file system can be made on.
#[must_use]
pub fn minimum_bytes(filesystem: Filesystem) -> u64 {
    match filesystem {
        // With less there is no room for a journal.
        Filesystem::Ext4 => 8 << 20,
        // mkfs.xfs(8): smaller ones are no longer supported.
        Filesystem::Xfs => 300 << 20,
    }
}

/// Makes a file system on a blank device.
///
/// # Errors
/// `NotBlank` where [`probe`] says anything but [`Content::Blank`]; `ToolMissing`; what the tool said.
pub fn make(device: &Path, filesystem: Filesystem) -> Result<()> {
    match probe(device)? {
        Content::Blank => {}
        content => return Err(Error::NotBlank { device: device.to_owned(), content }),
    }
    let zeroed = discard(device)?;
    match filesystem {
        Filesystem::Ext4 => make_ext4(device, zeroed),
        Filesystem::Xfs => {
            MKFS_XFS.succeed(["-q", "-K", "-s", "size=4096"].map(OsStr::new).into_iter().chain([path(device)]))
        }
    }
}

fn make_ext4(device: &Path, zeroed: bool) -> Result<()> {
    let run = |extended: &str| {
        let options = ["-q", "-b", "4096", "-m", "0", "-E", extended].map(OsStr::new);
        MKFS_EXT4.run(options.into_iter().chain([path(device)]))
    };
    let mut outcome = run(if zeroed { EXT4_ZEROED } else { EXT4_ANY })?;
    if zeroed && outcome.output.contains(BAD_OPTION) {
        tracing::warn!("mkfs.ext4 is older than e2fsprogs 1.47: it writes every inode table of a new volume");
        outcome = run(EXT4_ANY)?;
    }
    if outcome.status.success() { Ok(()) } else { Err(MKFS_EXT4.failed(outcome)) }
}

/// Makes the whole device read as zeroes without writing; `false` where it cannot.
fn discard(device: &Path) -> Result<bool> {
    let system = |action| move |source| Error::System { action, path: device.to_owned(), source };
    let file = File::options().read(true).write(true).open(device).map_err(system("open"))?;
    let bytes = sys::block::size(&file).map_err(system("measure"))?;
    match sys::block::discard(&file, 0, bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(system("discard")(error)),
    }
}
