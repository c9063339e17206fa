//! NodeExpandVolume: what is on the device takes up the room that ControllerExpandVolume made.

use std::path::Path;

use varve_csi::{capability::Capability, capacity::CapacityRange};

use super::{
    access,
    error::{Error, Result},
    presence::is_writable,
    stage,
    statistics::{Shown, shown},
};
use crate::{filesystem, volume::Volume};

/// Grows what is on the device, which is staged or published at `path`, to the volume's size; returns that in bytes. As
/// large already, it stays as it is.
pub(super) fn expand(
    volume: &Volume,
    path: &Path,
    range: CapacityRange,
    capability: Option<&Capability>,
) -> Result<u64> {
    if let Some(capability) = capability {
        access::wanted(volume, capability).map_err(|error| Error::Invalid(Box::new(error)))?;
    }
    let shown = shown(volume, path)?;
    let record = volume.record();
    let (id, bytes) = (record.id, record.capacity_bytes);
    if bytes < range.required {
        return Err(Error::Size { id, bytes, wanted: format!("at least {} are required", range.required) });
    }
    let device = stage::attach(volume)?;
    let Shown::Filesystem = shown else { return Ok(bytes) };
    let Some(filesystem) = access::filesystem(record.presentation) else { return Ok(bytes) };
    // A publication may be read-only and the file system not: what counts is where it is staged.
    let staged = volume.staged().ok_or_else(|| Error::NotThere { id, path: path.to_owned() })?;
    if filesystem::mount_at(&staged.path)?.is_some_and(|mount| !is_writable(&mount)) {
        return Err(Error::ReadOnly(id));
    }
    filesystem::grow(&device.path(), &staged.path, filesystem)?;
    Ok(bytes)
}
