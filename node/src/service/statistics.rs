//! NodeGetVolumeStats: how full a volume is.

use std::path::Path;

use varve_csi::capacity::wire;
use varve_proto::csi::{VolumeUsage, volume_usage::Unit};

use super::{
    error::{Error, Result},
    presence::{At, Presence},
};
use crate::{
    device::LoopDevice,
    filesystem,
    volume::{Access, Volume},
};

/// What a path shows of a volume.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown {
    /// Its file system.
    Filesystem,
    /// Its device.
    Device(LoopDevice),
}

/// Tells what `path` shows of the volume, which is staged or published there.
pub(super) fn shown(volume: &Volume, path: &Path) -> Result<Shown> {
    let not_there = || Error::NotThere { id: volume.id(), path: path.to_owned() };
    let staged = volume.staged().ok_or_else(not_there)?;
    let presence = Presence::of(volume)?;
    let device = presence.device.ok_or_else(not_there)?;
    // A path that is not absolute would be looked up from wherever the process happens to run.
    let at = if path.is_absolute() { presence.at(path)? } else { At::Nothing };
    match (staged.access, at) {
        (Access::Mount { .. }, At::Volume(_)) => Ok(Shown::Filesystem),
        (Access::Block, At::Volume(_)) => Ok(Shown::Device(device)),
        (Access::Block, _) if staged.path == path => Ok(Shown::Device(device)),
        _ => Err(not_there()),
    }
}

/// Measures the volume at `path`: bytes and files of a file system, the size of a device.
pub(super) fn measure(volume: &Volume, path: &Path) -> Result<Vec<VolumeUsage>> {
    match shown(volume, path)? {
        Shown::Device(device) => {
            let total = device.size().map_err(Error::system("measure", device.path()))?;
            Ok(vec![VolumeUsage { total: wire(total), unit: Unit::Bytes.into(), ..VolumeUsage::default() }])
        }
        Shown::Filesystem => {
            let usage = filesystem::usage(path)?;
            Ok(vec![
                VolumeUsage {
                    available: wire(usage.available_bytes),
                    total: wire(usage.total_bytes),
                    used: wire(usage.used_bytes),
                    unit: Unit::Bytes.into(),
                },
                VolumeUsage {
                    available: wire(usage.available_inodes),
                    total: wire(usage.total_inodes),
                    used: wire(usage.used_inodes),
                    unit: Unit::Inodes.into(),
                },
            ])
        }
    }
}
