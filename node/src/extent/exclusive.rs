//! How much space a file alone holds: what removing it would free.

use std::{fs::File, io, path::Path};

use crate::sys::fiemap::{self, BATCH, Buffer, Extent};

/// How many extents are looked at before the rest of the file is taken to be like its beginning: a file of a million
/// fragments takes seconds, and whoever asks is short of space.
const LOOKED_AT: usize = 1 << 17;

/// Estimates the bytes that only the file at `path` holds. It is exact up to [`LOOKED_AT`] extents. On btrfs an extent that
/// is shared in part counts as shared.
///
/// # Errors
/// The system's.
pub fn exclusive(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut buffer = Buffer::new();
    let (mut next, mut alone, mut seen) = (0_u64, 0_u64, 0_usize);
    while next < length {
        let extents = fiemap::map(&file, next, length - next, &mut buffer)?;
        let Some(last) = extents.last() else { break };
        alone +=
            extents.iter().filter(|extent| extent.flags & Extent::SHARED == 0).map(|extent| extent.length).sum::<u64>();
        let end = last.logical.saturating_add(last.length);
        if extents.len() < BATCH || last.flags & Extent::LAST != 0 || end <= next {
            break;
        }
        next = end;
        seen += extents.len();
        if seen >= LOOKED_AT {
            let estimate = u128::from(alone) * u128::from(length) / u128::from(next);
            return Ok(u64::try_from(estimate).unwrap_or(u64::MAX));
        }
    }
    Ok(alone)
}
