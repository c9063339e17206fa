//! What is on a disk and what only seems to be: caches dropped before something is measured, writes settled after it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

/// Writes everything back and empties the page cache, so that whoever reads next reads from the disk.
pub(crate) async fn cool() -> anyhow::Result<()> {
    blocking(|| {
        rustix::fs::sync();
        // Clean pages, and dentries and inodes (Documentation/admin-guide/sysctl/vm.rst).
        fs::write("/proc/sys/vm/drop_caches", "3").context("emptying the page cache, which takes root")
    })
    .await
}

/// Syncs every file and folder below a folder, as who must not lose a backup would.
pub(crate) async fn settle(folder: &Path) -> anyhow::Result<()> {
    let folder = folder.to_owned();
    blocking(move || {
        let sync = |path: &Path| fs::File::open(path).and_then(|file| file.sync_all());
        let (files, folders) = walk(&folder)?;
        for path in files.iter().chain(&folders) {
            sync(path).with_context(|| format!("syncing {}", path.display()))?;
        }
        Ok(())
    })
    .await
}

/// Writes back everything of the file system that a folder is in.
pub(crate) async fn settle_filesystem(folder: &Path) -> anyhow::Result<()> {
    let folder = folder.to_owned();
    blocking(move || {
        let folder = fs::File::open(folder).context("opening a mounted folder")?;
        rustix::fs::syncfs(folder).context("syncing a file system")
    })
    .await
}

/// Bytes of all files below a folder.
pub(crate) fn bytes(folder: &Path) -> anyhow::Result<u64> {
    let (files, _) = walk(folder)?;
    files.iter().try_fold(0, |sum, file| Ok(sum + fs::metadata(file)?.len()))
}

/// Refuses where less than `bytes` are free.
pub(crate) fn ensure_room(folder: &Path, bytes: u64) -> anyhow::Result<()> {
    let filesystem = rustix::fs::statvfs(folder).context("asking how much room there is")?;
    let free = filesystem.f_bavail * filesystem.f_frsize;
    ensure!(
        free >= bytes,
        "{} has {} MiB free and this takes up to {} MiB: `--folder` names another folder",
        folder.display(),
        free >> 20,
        bytes >> 20
    );
    Ok(())
}

/// Finds regular files and folders below a folder, itself included, each list sorted.
pub(crate) fn walk(folder: &Path) -> anyhow::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
        folders.push(folder);
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

/// Does blocking work where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("blocking work panicked")?
}
