//! Changing about one per cent of the files, in the ways that files change: edits, deletions, renames, new files.

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use super::tree::File;

/// One part in so many of the bytes is changed.
const SHARE: u64 = 100;
/// Size of one edit, in bytes.
const EDIT: u64 = 4096;
/// Largest number of edits in one file.
const EDITS: u64 = 4;
/// Size of a new file, in bytes.
const NEW: usize = 64 * 1024;

/// What was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Changes {
    /// Files in which bytes were overwritten.
    pub(super) edited: u64,
    /// Files that were made.
    pub(super) created: u64,
    /// Files that were removed.
    pub(super) deleted: u64,
    /// Files that got another name in another folder.
    pub(super) renamed: u64,
    /// Bytes written into edited and new files.
    pub(super) written_bytes: u64,
}

/// Changes a fair sample of `files`, which lie in `folder`; new ones and new names go into the folder `fresh`, which is
/// made. Which files are hit depends on their names alone, so that a demo can be repeated.
///
/// # Errors
/// The system's.
pub(super) fn change(folder: &Path, files: &[File], fresh: &Path) -> anyhow::Result<Changes> {
    let mut sample: Vec<(blake3::Hash, &File)> = files
        .iter()
        .filter(|file| file.links == 1)
        .map(|file| (blake3::hash(file.path.as_os_str().as_encoded_bytes()), file))
        .collect();
    sample.sort_by(|left, right| left.0.as_bytes().cmp(right.0.as_bytes()));
    let budget = (files.iter().map(|file| file.bytes).sum::<u64>() / SHARE).max(16 * EDIT);
    // Of the files, one in two hundred is removed and as many renamed; of the bytes, half are edits, half new files.
    let moved = (sample.len() / 200).max(1);
    let (removed, rest) = sample.split_at(moved.min(sample.len()));
    let (renamed, rest) = rest.split_at(moved.min(rest.len()));

    let mut changes = Changes::default();
    fs::create_dir(fresh).with_context(|| format!("making {}", fresh.display()))?;
    for (_, file) in removed {
        fs::remove_file(folder.join(&file.path)).with_context(|| format!("removing {}", file.path.display()))?;
        changes.deleted += 1;
    }
    for (hash, file) in renamed {
        let name = fresh.join(format!("renamed-{}", hash.to_hex()));
        fs::rename(folder.join(&file.path), name).with_context(|| format!("renaming {}", file.path.display()))?;
        changes.renamed += 1;
    }
    for (hash, file) in rest {
        if changes.written_bytes >= budget / 2 {
            break;
        }
        if file.bytes == 0 {
            continue;
        }
        changes.written_bytes += edit(&folder.join(&file.path), file.bytes, hash)
            .with_context(|| format!("editing {}", file.path.display()))?;
        changes.edited += 1;
    }
    while changes.written_bytes < budget {
        changes.written_bytes += create(&fresh.join(format!("new-{}", changes.created)), changes.created)?;
        changes.created += 1;
    }
    if let Some((_, file)) = rest.last() {
        let path = folder.join(&file.path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("changing a mode")?;
    }
    Ok(changes)
}

/// Overwrites some places of a file; returns the bytes written.
fn edit(path: &PathBuf, bytes: u64, seed: &blake3::Hash) -> std::io::Result<u64> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    let mut places = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    let mut written = 0;
    for _ in 0..(bytes / (16 * EDIT)).clamp(1, EDITS) {
        let mut place = [0; 8];
        places.fill(&mut place);
        let offset = u64::from_le_bytes(place) % bytes;
        let length = EDIT.min(bytes - offset);
        let mut data = vec![0; usize::try_from(length).expect("an edit is small")];
        places.fill(&mut data);
        file.write_all_at(&data, offset)?;
        written += length;
    }
    Ok(written)
}

/// Makes a file, one half of which compresses; returns the bytes written.
fn create(path: &Path, number: u64) -> anyhow::Result<u64> {
    let mut data = vec![b'v'; NEW];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut data[..NEW / 2]);
    fs::write(path, &data).with_context(|| format!("writing {}", path.display()))?;
    Ok(data.len() as u64)
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::{super::tree::Tree, *};

    #[test]
    fn about_one_per_cent_is_changed_in_every_way() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        for number in 0..400 {
            fs::write(folder.path().join(format!("file-{number}")), vec![0; 64 * 1024]).expect("a file can be written");
        }
        let stop = CancellationToken::new();
        let before = Tree::record(folder.path(), Path::new(""), &stop).expect("the tree can be recorded");
        let changes =
            change(folder.path(), &before.files(), &folder.path().join("fresh")).expect("files can be changed");
        let bytes = 400 * 64 * 1024;
        assert!((bytes / 100..bytes / 50).contains(&changes.written_bytes), "{changes:?}");
        assert_eq!((changes.deleted, changes.renamed), (2, 2));
        assert!(changes.edited > 0 && changes.created > 0, "{changes:?}");
        let after = Tree::record(folder.path(), Path::new(""), &stop).expect("the tree can be recorded");
        let expected = changes.deleted + 2 * changes.renamed + changes.edited + changes.created;
        let found = before.differences(&after).len() as u64;
        // The folder itself, the new folder and the file whose mode changed differ too.
        assert_eq!(found, expected + 3);
    }
}
