//! A tree of files written down exactly, so that two can be compared: content, mode, owner, times, links, attributes.
//!
//! A snapshot restores a file system block by block, so even what no program can set must come back: inode numbers, by
//! which hard links are told, and times of change (`ctime`). Only access times are left out, since recording changes
//! them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::OsStringExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::{
    fs::{lgetxattr, llistxattr},
    io::Errno,
};
use tokio_util::sync::CancellationToken;

use super::interrupted;

/// Everything below a folder, the folder itself included, by path relative to it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

/// One file, folder, link or other thing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: u32,
    group: u32,
    inode: u64,
    links: u64,
    /// Seconds and nanoseconds of the last modification.
    modified: (i64, i64),
    /// Seconds and nanoseconds of the last change of status.
    changed: (i64, i64),
    /// Hash over the names and values of all extended attributes.
    attributes: blake3::Hash,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File { bytes: u64, content: blake3::Hash },
    Link { target: PathBuf },
    Other { device: u64 },
}

/// A regular file of a tree, for whoever wants to change some.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Its path, relative to the tree's folder.
    pub(super) path: PathBuf,
    /// Its size, in bytes.
    pub(super) bytes: u64,
    /// Its names.
    pub(super) links: u64,
}

impl Tree {
    /// Records what is below `folder`, apart from the file at the relative path `except`.
    ///
    /// # Errors
    /// The system's, or that it was interrupted.
    pub(super) fn record(folder: &Path, except: &Path, stop: &CancellationToken) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        let mut pending = vec![PathBuf::new()];
        while let Some(relative) = pending.pop() {
            interrupted(stop)?;
            let path = if relative.as_os_str().is_empty() { folder.to_owned() } else { folder.join(&relative) };
            let entry = Entry::record(&path).with_context(|| format!("recording {}", path.display()))?;
            if entry.kind == Kind::Folder {
                for child in fs::read_dir(&path).with_context(|| format!("listing {}", path.display()))? {
                    let child = relative.join(child.context("listing")?.file_name());
                    if child != except {
                        pending.push(child);
                    }
                }
            }
            tree.entries.insert(relative, entry);
        }
        Ok(tree)
    }

    /// How many things there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Its regular files, in the order of their paths.
    pub(super) fn files(&self) -> Vec<File> {
        let file = |(path, entry): (&PathBuf, &Entry)| match entry.kind {
            Kind::File { bytes, .. } => Some(File { path: path.clone(), bytes, links: entry.links }),
            Kind::Folder | Kind::Link { .. } | Kind::Other { .. } => None,
        };
        self.entries.iter().filter_map(file).collect()
    }

    /// Says in what `restored` differs from this tree, one line a path; nothing where they are identical.
    pub(super) fn differences(&self, restored: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for (path, entry) in &self.entries {
            match restored.entries.get(path) {
                None => differences.push(format!("{}: missing", path.display())),
                Some(other) if other != entry => {
                    differences.push(format!("{}: {} differ", path.display(), entry.differing(other).join(", ")));
                }
                Some(_) => {}
            }
        }
        let unexpected = restored.entries.keys().filter(|path| !self.entries.contains_key(*path));
        differences.extend(unexpected.map(|path| format!("{}: not in the snapshot", path.display())));
        differences
    }
}

impl Entry {
    fn record(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        let kind = if metadata.is_dir() {
            Kind::Folder
        } else if metadata.is_file() {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(fs::File::open(path)?)?;
            Kind::File { bytes: metadata.len(), content: hasher.finalize() }
        } else if metadata.is_symlink() {
            Kind::Link { target: fs::read_link(path)? }
        } else {
            let kind = metadata.file_type();
            let device = if kind.is_block_device() || kind.is_char_device() { metadata.rdev() } else { 0 };
            Kind::Other { device }
        };
        Ok(Self {
            kind,
            mode: metadata.mode(),
            owner: metadata.uid(),
            group: metadata.gid(),
            inode: metadata.ino(),
            links: metadata.nlink(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            attributes: hash_attributes(&attributes(path)?),
        })
    }

    fn differing(&self, other: &Self) -> Vec<&'static str> {
        let aspects = [
            ("content", self.kind != other.kind),
            ("mode", self.mode != other.mode),
            ("owner", (self.owner, self.group) != (other.owner, other.group)),
            ("links", (self.inode, self.links) != (other.inode, other.links)),
            ("modification time", self.modified != other.modified),
            ("change time", self.changed != other.changed),
            ("extended attributes", self.attributes != other.attributes),
        ];
        aspects.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

/// Reads the extended attributes of a path, sorted by name; none where the file system has none.
pub(super) fn attributes(path: &Path) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    // The most that Linux allows for a list of names and for a value (xattr(7)).
    const LARGEST: usize = 64 * 1024;
    let mut names = vec![0; LARGEST];
    let length = match llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut attributes = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; LARGEST];
        match lgetxattr(path, name, &mut value[..]) {
            Ok(length) => value.truncate(length),
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        attributes.push((OsString::from_vec(name.to_vec()), value));
    }
    attributes.sort();
    Ok(attributes)
}

fn hash_attributes(attributes: &[(OsString, Vec<u8>)]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for (name, value) in attributes {
        for part in [name.as_encoded_bytes(), value] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn record(folder: &Path) -> Tree {
        Tree::record(folder, Path::new("journal/log"), &CancellationToken::new()).expect("the tree can be recorded")
    }

    #[test]
    fn what_is_left_alone_is_identical_and_every_change_is_found() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("journal")).expect("a folder can be made");
        for name in ["kept", "edited", "removed", "renamed", "closed", "journal/log"] {
            fs::write(at(name), name).expect("a file can be written");
        }
        fs::hard_link(at("kept"), at("linked")).expect("a link can be made");
        symlink("kept", at("symbolic")).expect("a link can be made");

        let before = record(folder.path());
        assert_eq!(before.len(), 9);
        assert_eq!(before.files().len(), 6);
        fs::write(at("journal/log"), "it may change").expect("a file can be written");
        assert_eq!(before.differences(&record(folder.path())), Vec::<String>::new());

        fs::write(at("edited"), "EDITED").expect("a file can be written");
        fs::remove_file(at("removed")).expect("a file can be removed");
        fs::rename(at("renamed"), at("elsewhere")).expect("a file can be renamed");
        fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o400)).expect("a mode can be set");
        fs::remove_file(at("symbolic")).expect("a link can be removed");
        symlink("edited", at("symbolic")).expect("a link can be made");
        let differences = before.differences(&record(folder.path())).join("\n");
        for line in ["edited: content", "removed: missing", "renamed: missing", "elsewhere: not in", "closed: mode"] {
            assert!(differences.contains(line), "{line} is not in:\n{differences}");
        }
        assert!(differences.contains("symbolic: content") && !differences.contains("kept"), "{differences}");
    }

    #[test]
    fn an_interrupted_recording_ends() {
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(Tree::record(Path::new("/usr"), Path::new(""), &stop).is_err());
    }
}
