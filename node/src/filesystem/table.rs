//! The table of mounts: `/proc/self/mountinfo`, see proc_pid_mountinfo(5).

use std::{
    ffi::OsString,
    fs,
    os::unix::{
        ffi::OsStringExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use super::{Error, Result};

/// Where the kernel shows this process's mounts.
const TABLE: &str = "/proc/self/mountinfo";

/// One line of `/proc/self/mountinfo`, see proc_pid_mountinfo(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id.
    pub id: u32,
    /// Device number of what is mounted: major and minor.
    pub device: (u32, u32),
    /// Which folder or file of the file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// Options of this mount, separated by commas.
    pub options: String,
    /// Type of the file system.
    pub filesystem: String,
    /// Its source, usually a device node.
    pub source: PathBuf,
    /// Options of the file system, separated by commas.
    pub super_options: String,
}

// === impl Mount ===

impl Mount {
    /// Whether this mount, or the file system as a whole, is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        [&self.options, &self.super_options].iter().any(|options| options.split(',').any(|option| option == "ro"))
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = text(fields.next()?).parse().ok()?;
        let _parent = fields.next()?;
        let device = text(fields.next()?);
        let (major, minor) = device.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let root = path(fields.next()?);
        let target = path(fields.next()?);
        let options = text(fields.next()?);
        // Optional fields, any number of them, end with a hyphen.
        fields.by_ref().find(|field| *field == b"-")?;
        let filesystem = text(fields.next()?);
        let source = path(fields.next()?);
        let super_options = text(fields.next()?);
        Some(Self { id, device, root, target, options, filesystem, source, super_options })
    }
}

/// Lists all mounts of this mount namespace, in the order in which they were made.
///
/// # Errors
/// The system's.
pub fn mounts() -> Result<Vec<Mount>> {
    let table = fs::read(TABLE).map_err(|source| Error::System { action: "read", path: TABLE.into(), source })?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect())
}

/// Lists the mounts of a block device, and the binds of its node (raw block volumes).
///
/// # Errors
/// The system's.
pub fn mounts_of(device: &Path) -> Result<Vec<Mount>> {
    let number = fs::metadata(device)
        .map_err(|source| Error::System { action: "inspect", path: device.to_owned(), source })?
        .rdev();
    let numbers = (rustix::fs::major(number), rustix::fs::minor(number));
    let is_bind = |mount: &Mount| {
        mount.root.file_name() == device.file_name()
            && fs::metadata(&mount.target).is_ok_and(|file| file.file_type().is_block_device() && file.rdev() == number)
    };
    Ok(mounts()?.into_iter().filter(|mount| mount.device == numbers || is_bind(mount)).collect())
}

/// Returns the topmost mount at exactly `path`.
///
/// # Errors
/// The system's.
pub fn mount_at(path: &Path) -> Result<Option<Mount>> {
    let Some(path) = resolve(path)? else { return Ok(None) };
    Ok(mounts()?.into_iter().rev().find(|mount| mount.target == path))
}

/// Tells whether something is mounted at exactly `path`.
///
/// # Errors
/// The system's.
pub fn is_mount(path: &Path) -> Result<bool> {
    Ok(mount_at(path)?.is_some())
}

/// Resolves links in all but the last component: looking at that one would look into what is mounted there, which may be
/// a file system that no longer answers.
fn resolve(path: &Path) -> Result<Option<PathBuf>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Some(path.to_owned())) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match parent.canonicalize() {
        Ok(parent) => Ok(Some(parent.join(name))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::System { action: "resolve", path: parent.to_owned(), source }),
    }
}

/// Undoes the kernel's escapes: a backslash and three octal digits for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes() {
        let line =
            br"36 35 98:10 /mnt1 /a\040b\134c rw,noatime master:1 propagate_from:2 - ext3 /dev/root ro,errors=continue";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(mount.id, 36);
        assert_eq!(mount.device, (98, 10));
        assert_eq!(mount.root, Path::new("/mnt1"));
        assert_eq!(mount.target, Path::new(r"/a b\c"));
        assert_eq!(mount.options, "rw,noatime");
        assert_eq!(mount.filesystem, "ext3");
        assert_eq!(mount.source, Path::new("/dev/root"));
        assert!(mount.is_read_only());
    }

    #[test]
    fn a_line_without_optional_fields_and_with_an_empty_source() {
        let mount =
            Mount::parse(b"1 0 0:2 / /x rw -  tmpfs rw").or_else(|| Mount::parse(b"1 0 0:2 / /x rw - tmpfs  rw"));
        assert_eq!(mount.map(|mount| mount.target), Some(PathBuf::from("/x")));
    }

    #[test]
    fn the_root_is_a_mount_and_an_absent_path_is_not() {
        assert!(is_mount(Path::new("/")).unwrap());
        assert!(!is_mount(Path::new("/varve/nowhere/at/all")).unwrap());
        assert!(is_mount(Path::new("/proc/../proc")).unwrap());
    }

    #[test]
    fn an_incomplete_escape_stays_as_it_is() {
        assert_eq!(unescape(br"a\04"), br"a\04");
        assert_eq!(unescape(br"\011\"), b"\t\\");
    }
}
