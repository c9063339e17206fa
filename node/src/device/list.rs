//! What is attached at present, as sysfs tells.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::{Identity, LoopDevice, NOT_ATTACHED, node};
use crate::sys::Context;

/// Where the kernel lists block devices.
const DEVICES: &str = "/sys/block";
/// Unit of sizes in sysfs, in bytes, whatever the device's block size is.
const SECTOR: u64 = 512;
/// What the kernel appends to the path of a removed file.
const DELETED: &[u8] = b" (deleted)";

/// Lists the attached devices whose backing file lies below `folder`, with that file.
///
/// # Errors
/// The system's.
pub fn all_below(folder: &Path) -> io::Result<Vec<(LoopDevice, PathBuf)>> {
    let folder = folder.canonicalize().during("resolve", folder)?;
    let mut found = Vec::new();
    for number in numbers()? {
        let Some(file) = backing_file(number)?.filter(|file| file.starts_with(&folder)) else { continue };
        if let Some(backing) = backing(number)? {
            found.push((LoopDevice { number, backing }, file));
        }
    }
    Ok(found)
}

/// Finds the device that `wanted` is attached to.
pub(super) fn find(wanted: Identity) -> io::Result<Option<LoopDevice>> {
    for number in numbers()? {
        let Some(file) = backing_file(number)? else { continue };
        // Opening a device that is another's may delay its release, so that is done only where its file is not in sight.
        let other = fs::metadata(&file).is_ok_and(|metadata| Identity::of(&metadata) != wanted);
        if !other && backing(number)? == Some(wanted) {
            return Ok(Some(LoopDevice { number, backing: wanted }));
        }
    }
    Ok(None)
}

/// Returns the path of the file that is attached to device `number`, as the kernel shows it.
pub(super) fn backing_file(number: u32) -> io::Result<Option<PathBuf>> {
    let attribute = format!("{DEVICES}/loop{number}/loop/backing_file");
    match fs::read(&attribute) {
        Ok(text) => Ok(Some(without_mark(&text))),
        Err(error) if error.kind() == ErrorKind::NotFound || node::is_absent(&error) => Ok(None),
        Err(error) => Err(error).during("read", Path::new(&attribute)),
    }
}

/// Returns the size of device `number`, in bytes.
pub(super) fn size(number: u32) -> io::Result<u64> {
    let attribute = format!("{DEVICES}/loop{number}/size");
    let text = fs::read_to_string(&attribute).during("read", Path::new(&attribute))?;
    let sectors: u64 = text.trim().parse().map_err(io::Error::other).during("read", Path::new(&attribute))?;
    Ok(sectors.saturating_mul(SECTOR))
}

fn numbers() -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(DEVICES).during("list", Path::new(DEVICES))? {
        let name = entry.during("list", Path::new(DEVICES))?.file_name();
        numbers.extend(
            name.to_str().and_then(|name| name.strip_prefix("loop")).and_then(|digits| digits.parse::<u32>().ok()),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn backing(number: u32) -> io::Result<Option<Identity>> {
    let path = node::path(number);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if node::is_absent(&error) => return Ok(None),
        Err(error) => return Err(error).during("open", &path),
    };
    match Identity::attached_to(&file) {
        Ok(backing) => Ok(Some(backing)),
        Err(error) if error.raw_os_error() == Some(NOT_ATTACHED) => Ok(None),
        Err(error) => Err(error).during("inspect", &path),
    }
}

fn without_mark(text: &[u8]) -> PathBuf {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(DELETED).unwrap_or(text);
    OsString::from_vec(text.to_vec()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_a_removed_file_is_not_part_of_its_path() {
        assert_eq!(without_mark(b"/pool/volumes/a/data/image (deleted)\n"), Path::new("/pool/volumes/a/data/image"));
        assert_eq!(without_mark(b"/pool/with space\n"), Path::new("/pool/with space"));
    }
}
