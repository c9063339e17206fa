//! What is attached at present, as sysfs tells.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::{ffi::OsStringExt, fs::MetadataExt as _},
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
/// The kernel shows a file by its path in the mount namespace that attached it. Once that namespace is gone, as with a
/// container that was started anew, it shows the path from the root of the mount that the file lay on. So a file is looked
/// for below `folder` by both, and known by its device and inode number. One that was removed is known by its path alone,
/// or by the folder that it was in and its file system's device.
///
/// # Errors
/// The system's.
pub fn all_below(folder: &Path) -> io::Result<Vec<(LoopDevice, PathBuf)>> {
    let folder = folder.canonicalize().during("resolve", folder)?;
    let own = fs::metadata(&folder).during("inspect", &folder)?.dev();
    let mut found = Vec::new();
    for number in numbers()? {
        let Some(shown) = backing_file(number)? else { continue };
        let places: Vec<PathBuf> = places(&folder, &shown).collect();
        // As in `find`: a device whose file is in sight elsewhere is another's, and is not opened.
        let visible = places.iter().any(|place| place.exists());
        if !visible && shown.exists() {
            continue;
        }
        let Some(backing) = backing(number)? else { continue };
        let is_its = |place: &Path| fs::metadata(place).is_ok_and(|metadata| Identity::of(&metadata) == backing);
        let was_its = |place: &Path| {
            let within = place.parent().filter(|parent| *parent != folder).is_some_and(Path::is_dir);
            place == shown || (backing.device == own && within)
        };
        let file = places.into_iter().find(|place| if visible { is_its(place) } else { was_its(place) });
        found.extend(file.map(|file| (LoopDevice { number, backing }, file)));
    }
    Ok(found)
}

/// Where a file that the kernel shows as `shown` may lie below `folder`: there, or at that path from the root of whichever
/// mount `folder` is on.
fn places(folder: &Path, shown: &Path) -> impl Iterator<Item = PathBuf> {
    let from_root = shown.strip_prefix("/").unwrap_or(shown);
    folder.ancestors().map(move |root| root.join(from_root)).filter(move |path| path.starts_with(folder))
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

    #[test]
    fn a_file_is_looked_for_by_its_path_and_by_that_from_the_root_of_its_mount() {
        let at = |shown: &str| places(Path::new("/a/pool"), Path::new(shown)).collect::<Vec<_>>();
        assert_eq!(at("/a/pool/volumes/v/image")[1..], [PathBuf::from("/a/pool/volumes/v/image")]);
        assert_eq!(at("/volumes/v/image"), [PathBuf::from("/a/pool/volumes/v/image")]);
        assert_eq!(at("/pool/volumes/v/image")[1..], [PathBuf::from("/a/pool/volumes/v/image")]);
    }
}
