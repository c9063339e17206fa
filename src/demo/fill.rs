//! Filling the volume with real files: a copy of a folder, with everything that belongs to its files.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};
use tokio_util::sync::CancellationToken;

use super::{interrupted, tree};

/// Size of the sparse file among the oddities, in bytes.
const SPARSE: u64 = 64 << 20;
/// Most files, folders and links that are taken.
const MOST_ENTRIES: usize = 200_000;

/// What there is to copy.
#[derive(Debug)]
pub(super) struct Plan {
    source: PathBuf,
    /// Paths relative to the source, each folder before what is in it.
    entries: Vec<PathBuf>,
    /// Bytes in regular files.
    pub(super) bytes: u64,
}

impl Plan {
    /// Looks through a folder, on its file system alone, until `limit` bytes are found.
    ///
    /// # Errors
    /// That it is no folder or holds nothing, the system's, or that it was interrupted.
    pub(super) fn survey(source: &Path, limit: u64, stop: &CancellationToken) -> anyhow::Result<Self> {
        let device = fs::metadata(source).with_context(|| format!("looking at {}", source.display()))?.dev();
        let mut plan = Self { source: source.to_owned(), entries: Vec::new(), bytes: 0 };
        let mut pending = vec![PathBuf::new()];
        while let Some(folder) = pending.pop() {
            interrupted(stop)?;
            let path = source.join(&folder);
            let mut children = match fs::read_dir(&path) {
                Ok(children) => children.collect::<io::Result<Vec<_>>>()?,
                // Removed, or closed to us, since it was listed.
                Err(_) if !folder.as_os_str().is_empty() => continue,
                Err(error) => return Err(error).with_context(|| format!("listing {}", path.display())),
            };
            children.sort_by_key(fs::DirEntry::file_name);
            for child in children {
                let Ok(metadata) = child.metadata() else { continue };
                let kind = metadata.file_type();
                if metadata.dev() != device || plan.entries.len() >= MOST_ENTRIES {
                    continue;
                }
                let relative = folder.join(child.file_name());
                if kind.is_dir() {
                    pending.push(relative.clone());
                } else if kind.is_file() {
                    if plan.bytes.saturating_add(metadata.len()) > limit {
                        continue;
                    }
                    plan.bytes += metadata.len();
                } else if !kind.is_symlink() {
                    continue;
                }
                plan.entries.push(relative);
            }
        }
        if plan.bytes == 0 {
            bail!("{} holds no files of use: name another folder with --data", source.display());
        }
        Ok(plan)
    }

    /// How many files, folders and links there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Copies everything into the folder `target`, which is there and empty, and makes it durable.
    ///
    /// # Errors
    /// The system's, or that it was interrupted.
    pub(super) fn copy(&self, target: &Path, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut linked: HashMap<u64, PathBuf> = HashMap::new();
        for relative in &self.entries {
            interrupted(stop)?;
            let (from, to) = (self.source.join(relative), target.join(relative));
            match copy(&from, &to, &mut linked) {
                Ok(()) => {}
                // Removed since the survey.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {}
                Err(error) => return Err(error).with_context(|| format!("copying {}", from.display())),
            }
        }
        // Times of folders are set last, since every file made in one changes them.
        for relative in self.entries.iter().rev() {
            let from = self.source.join(relative);
            if let Ok(metadata) = fs::symlink_metadata(&from)
                && metadata.is_dir()
            {
                dress(&from, &target.join(relative), &metadata)?;
            }
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path, linked: &mut HashMap<u64, PathBuf>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_dir() {
        return fs::create_dir(to);
    }
    if metadata.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else {
        if metadata.nlink() > 1 {
            if let Some(first) = linked.get(&metadata.ino()) {
                return fs::hard_link(first, to);
            }
            linked.insert(metadata.ino(), to.to_owned());
        }
        fs::copy(from, to)?;
    }
    dress(from, to, &metadata)
}

/// Gives a copy the owner, mode, attributes and times of its original.
fn dress(from: &Path, to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    if !metadata.is_symlink() {
        // After the owner: a change of owner takes set-user-ID bits away.
        fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode()))?;
    }
    for (name, value) in tree::attributes(from)? {
        // What the file system of the volume has no room for is not part of the copy, and so not of the comparison.
        let _ = lsetxattr(to, &name, &value, XattrFlags::empty());
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: metadata.atime(), tv_nsec: metadata.atime_nsec() },
        last_modification: Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() },
    };
    Ok(utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes a folder of things that a system folder may lack: every kind of file that a restore could get wrong.
///
/// # Errors
/// The system's.
pub(super) fn oddities(folder: &Path) -> io::Result<()> {
    fs::create_dir(folder)?;
    let at = |name: &str| folder.join(name);
    fs::write(at("empty"), "")?;
    fs::write(at(&"n".repeat(255)), "a name of 255 bytes")?;
    fs::write(at("two\nlines"), "a name with a newline")?;
    fs::write(at("linked"), "a file with two names")?;
    fs::hard_link(at("linked"), at("linked too"))?;
    symlink("nowhere", at("dangling"))?;
    fs::write(at("set-user-id"), "a mode with a special bit")?;
    lchown(at("set-user-id"), Some(1234), Some(5678))?;
    fs::set_permissions(at("set-user-id"), fs::Permissions::from_mode(0o4751))?;
    fs::write(at("attributed"), "a file with an attribute")?;
    lsetxattr(at("attributed"), "user.varve.demo", b"a value", XattrFlags::empty())?;
    let sparse = fs::File::create(at("sparse"))?;
    sparse.set_len(SPARSE)?;
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"far behind a hole", SPARSE - 17)?;
    fs::write(at("old"), "a file from before the epoch")?;
    let long_ago = Timespec { tv_sec: -86_400, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: long_ago, last_modification: long_ago };
    utimensat(CWD, at("old"), &times, AtFlags::empty())?;
    rustix::fs::mkfifoat(CWD, at("pipe"), rustix::fs::Mode::from_raw_mode(0o600))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_links_modes_times_and_stays_below_the_limit() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        fs::create_dir_all(source.join("below")).expect("a folder can be made");
        fs::create_dir(&target).expect("a folder can be made");
        fs::write(source.join("a"), [1; 1000]).expect("a file can be written");
        fs::hard_link(source.join("a"), source.join("below/b")).expect("a link can be made");
        fs::write(source.join("large"), [2; 9000]).expect("a file can be written");
        symlink("a", source.join("link")).expect("a link can be made");
        fs::set_permissions(source.join("a"), fs::Permissions::from_mode(0o640)).expect("a mode can be set");
        let stop = CancellationToken::new();

        let plan = Plan::survey(&source, 5000, &stop).expect("the folder can be read");
        assert_eq!((plan.bytes, plan.len()), (2000, 4));
        plan.copy(&target, &stop).expect("the folder can be copied");

        let (a, b) = (target.join("a"), target.join("below/b"));
        let (original, a, b) = (
            fs::metadata(source.join("a")).expect("it is there"),
            fs::metadata(a).expect("it was copied"),
            fs::metadata(b).expect("it was copied"),
        );
        assert_eq!(a.ino(), b.ino());
        assert_eq!(a.mode() & 0o7777, 0o640);
        assert_eq!((a.mtime(), a.mtime_nsec()), (original.mtime(), original.mtime_nsec()));
        assert_eq!(fs::read_link(target.join("link")).expect("it was copied"), Path::new("a"));
        assert!(!target.join("large").exists());
    }

    #[test]
    fn a_folder_without_files_is_refused() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let error = Plan::survey(folder.path(), 1 << 20, &CancellationToken::new()).expect_err("it is empty");
        assert!(error.to_string().contains("--data"), "{error}");
    }
}
