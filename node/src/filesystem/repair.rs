//! Checking file systems before a mount.

use std::{fs::File, os::unix::fs::FileExt, path::Path, time::Duration};

use super::{
    Checked, Error, Filesystem, Result,
    command::{Tool, path},
    probe::EXT_SUPERBLOCK,
};

const E2FSCK: Tool = Tool { name: "e2fsck", package: "e2fsprogs", limit: Duration::from_secs(3600) };

/// `s_state` of ext4's superblock (fs/ext4/ext4.h), from its beginning.
const EXT_STATE: usize = 0x3A;
/// `EXT4_VALID_FS`: unmounted cleanly, or it has a journal.
const VALID: u16 = 1;
/// `EXT4_ERROR_FS`: the kernel met an error.
const ERROR: u16 = 2;

/// Exit status of `e2fsck` from which on errors are left (fsck(8)): 4, 8 and above are bits.
const ERRORS_LEFT: i32 = 4;
/// Operational errors and above: the check did not take place.
const NOT_CHECKED: i32 = 8;

/// Checks and repairs what needs it before a mount; the device must not be mounted.
///
/// An ext4 whose superblock says that all is well is left to its journal, as is every XFS: the mount replays it.
///
/// # Errors
/// `Damaged` where it cannot be repaired without a person; `ToolMissing`.
pub fn check(device: &Path, filesystem: Filesystem) -> Result<Checked> {
    match filesystem {
        Filesystem::Ext4 if is_sound(ext_state(device)?) => Ok(Checked::Clean),
        Filesystem::Ext4 => repair_ext4(device, &[]),
        Filesystem::Xfs => Ok(Checked::Clean),
    }
}

fn is_sound(state: u16) -> bool {
    state & VALID != 0 && state & ERROR == 0
}

fn ext_state(device: &Path) -> Result<u16> {
    let superblock = ext_superblock(device)?;
    Ok(u16::from_le_bytes([superblock[EXT_STATE], superblock[EXT_STATE + 1]]))
}

/// Reads the superblock of an ext4, mounted or not.
pub(super) fn ext_superblock(device: &Path) -> Result<[u8; 1024]> {
    let system = |action| move |source| Error::System { action, path: device.to_owned(), source };
    let mut superblock = [0; 1024];
    let offset = u64::try_from(EXT_SUPERBLOCK).expect("1024 is a u64");
    let file = File::open(device).map_err(system("open"))?;
    file.read_exact_at(&mut superblock, offset).map_err(system("read"))?;
    Ok(superblock)
}

/// Runs `e2fsck -p`, with more options.
pub(super) fn repair_ext4(device: &Path, options: &[&str]) -> Result<Checked> {
    let options = ["-p"].iter().chain(options).map(|option| option.as_ref());
    let outcome = E2FSCK.run(options.chain([path(device)]))?;
    match outcome.status.code() {
        Some(0) => Ok(Checked::Clean),
        Some(1..ERRORS_LEFT) => Ok(Checked::Repaired),
        Some(ERRORS_LEFT..NOT_CHECKED) => {
            Err(Error::Damaged { device: device.to_owned(), filesystem: Filesystem::Ext4, report: outcome.output })
        }
        _ => Err(E2FSCK.failed(outcome)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_state_without_error_is_sound() {
        assert!(is_sound(VALID));
        assert!(!is_sound(0));
        assert!(!is_sound(VALID | ERROR));
    }
}
