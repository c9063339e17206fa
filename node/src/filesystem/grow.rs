//! Growing mounted file systems.
//!
//! The kernel grows a mounted ext4 only for a process with `CAP_SYS_RESOURCE`, which some container runtimes withhold even from
//! privileged containers. There the file system is unmounted, grown and mounted again as it was, as long as nobody uses it.
//!
//! # Crash consistency
//! A process killed in between leaves the volume unmounted, and an ext4 that the next mount or check repairs; staging and
//! publishing it again mounts it.

use std::{fs::File, io, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use rustix::{fs::OFlags, io::Errno, mount::MountFlags};

use super::{
    Error, Filesystem, Mount, Result,
    command::{Tool, path},
    mount::{mount_as, unmount_layer},
    options, repair, table,
};
use crate::sys;

const RESIZE2FS: Tool = Tool { name: "resize2fs", package: "e2fsprogs", limit: Duration::from_secs(3600) };
const XFS_GROWFS: Tool = Tool { name: "xfs_growfs", package: "xfsprogs", limit: Duration::from_secs(600) };

/// `s_blocks_count_lo`, `s_log_block_size`, `s_feature_incompat` and `s_blocks_count_hi` of ext4's superblock
/// (fs/ext4/ext4.h), from its beginning.
const EXT_BLOCKS_LOW: usize = 0x4;
const EXT_BLOCK_SIZE: usize = 0x18;
const EXT_INCOMPATIBLE: usize = 0x60;
const EXT_BLOCKS_HIGH: usize = 0x150;
/// `EXT4_FEATURE_INCOMPAT_64BIT`: the high half of the count means something.
const WIDE: u32 = 0x80;

/// Super options that the kernel shows and does not take.
const SHOWN_ONLY: &[&str] = &["seclabel"];

/// Grows the file system, mounted at `target`, to the size of its device. One that fills it already is left alone.
///
/// # Errors
/// `CannotGrow`; `ToolMissing`; what the tool said; the system's.
pub fn grow(device: &Path, target: &Path, filesystem: Filesystem) -> Result<()> {
    match filesystem {
        Filesystem::Ext4 => match grow_ext4(device, target) {
            Err(Error::System { source, .. }) if source.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                grow_unmounted(device)
            }
            other => other,
        },
        Filesystem::Xfs => XFS_GROWFS.succeed(["-d".as_ref(), path(target)]),
    }
}

/// Grows a mounted ext4 as resize2fs(8) does: `EXT4_IOC_RESIZE_FS`.
fn grow_ext4(device: &Path, target: &Path) -> Result<()> {
    let system = |action, path: &Path, source| Error::System { action, path: path.to_owned(), source };
    let bytes = File::open(device)
        .and_then(|file| sys::block::size(&file))
        .map_err(|error| system("measure", device, error))?;
    let folder = File::open(target).map_err(|error| system("open", target, error))?;
    let block = rustix::fs::fstatvfs(&folder).map_err(|errno| system("measure", target, errno.into()))?.f_bsize;
    let blocks = bytes.checked_div(block).unwrap_or_default();
    // Asked even for nothing, the kernel wants the capability, and without it the volume would be unmounted for nothing.
    if ext4_bytes(&repair::ext_superblock(device)?) >= blocks.saturating_mul(block) {
        return Ok(());
    }
    rustix::fs::ext4_ioc_resize_fs(&folder, blocks).map_err(|errno| system("grow", target, errno.into()))
}

/// Returns the size of an ext4 in bytes, as its superblock tells.
fn ext4_bytes(superblock: &[u8; 1024]) -> u64 {
    let field = |at: usize| {
        let bytes = superblock[at..at + 4].try_into().expect("four bytes are four bytes");
        u64::from(u32::from_le_bytes(bytes))
    };
    let high = if field(EXT_INCOMPATIBLE) & u64::from(WIDE) == 0 { 0 } else { field(EXT_BLOCKS_HIGH) };
    let block = 1024_u64.checked_shl(u32::try_from(field(EXT_BLOCK_SIZE)).unwrap_or(u32::MAX)).unwrap_or(0);
    (high << 32 | field(EXT_BLOCKS_LOW)).saturating_mul(block)
}

/// Unmounts an ext4 that nobody uses from everywhere, grows it, and mounts it as it was.
fn grow_unmounted(device: &Path) -> Result<()> {
    let mounts = table::mounts_of(device)?;
    let Some(first) = mounts.iter().position(|mount| mount.root == Path::new("/")) else {
        return Err(Error::CannotGrow { device: device.to_owned() });
    };
    tracing::info!(device = %device.display(), "growing an ext4 unmounted, for lack of CAP_SYS_RESOURCE");
    let (primary, binds) = (&mounts[first], [&mounts[..first], &mounts[first + 1..]].concat());
    let mut gone = Vec::new();
    let result = unmount_all(device, primary, &binds, &mut gone).and_then(|()| {
        repair::repair_ext4(device, &["-f"])?;
        RESIZE2FS.succeed([path(device)])
    });
    // Whatever happened, everything is put back before it is told.
    let restored = gone.iter().rev().try_for_each(|mount| restore(device, primary, mount));
    result.and(restored)
}

fn unmount_all<'a>(device: &Path, primary: &'a Mount, binds: &'a [Mount], gone: &mut Vec<&'a Mount>) -> Result<()> {
    for mount in binds.iter().rev().chain([primary]) {
        match unmount_layer(&mount.target) {
            Ok(()) => gone.push(mount),
            Err(Errno::BUSY) => return Err(Error::CannotGrow { device: device.to_owned() }),
            Err(errno) => {
                return Err(Error::System { action: "unmount", path: mount.target.clone(), source: errno.into() });
            }
        }
    }
    // Containers have mounts of their own, in sight of nobody else: the kernel knows of them.
    let exclusive = i32::try_from(OFlags::EXCL.bits()).expect("the flags of open(2) are an int");
    match File::options().read(true).custom_flags(exclusive).open(device) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(Error::CannotGrow { device: device.to_owned() })
        }
        Err(source) => Err(Error::System { action: "open", path: device.to_owned(), source }),
    }
}

/// Mounts again what was mounted.
fn restore(device: &Path, primary: &Mount, mount: &Mount) -> Result<()> {
    let system =
        |errno: Errno| Error::System { action: "mount again", path: mount.target.clone(), source: errno.into() };
    let flags = options::flags_of(&mount.options);
    if mount == primary {
        let shown = mount.super_options.split(',').filter(|option| !SHOWN_ONLY.contains(option));
        let parsed = options::parse(shown)?;
        return mount_as(device, &mount.target, c"ext4", parsed.flags | flags, &parsed.data).map_err(system);
    }
    let inner = mount.root.strip_prefix("/").unwrap_or(&mount.root);
    rustix::mount::mount_bind(primary.target.join(inner), &mount.target).map_err(system)?;
    rustix::mount::mount_remount(&mount.target, MountFlags::BIND | flags, c"").map_err(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_ext4_has_two_halves() {
        let mut superblock = [0; 1024];
        superblock[EXT_BLOCKS_LOW..][..4].copy_from_slice(&3_u32.to_le_bytes());
        superblock[EXT_BLOCK_SIZE..][..4].copy_from_slice(&2_u32.to_le_bytes());
        superblock[EXT_BLOCKS_HIGH..][..4].copy_from_slice(&1_u32.to_le_bytes());
        assert_eq!(ext4_bytes(&superblock), 3 * 4096);
        superblock[EXT_INCOMPATIBLE..][..4].copy_from_slice(&WIDE.to_le_bytes());
        assert_eq!(ext4_bytes(&superblock), (1_u64 << 32 | 3) * 4096);
        superblock[EXT_BLOCK_SIZE..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(ext4_bytes(&superblock), 0);
    }
}
