//! Restoring a snapshot into an image file.
//!
//! The image grows under a temporary name beside the wanted one and takes that name once it is whole and durable, so
//! that a file of the wanted name is always a whole snapshot. It is removed when the restore fails or is interrupted.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::task::spawn_blocking;
use varve_repository::{
    Repository,
    block::{BlockTarget, Blocks},
    hydrate::{Lost, Salvage},
    id::SnapshotId,
    progress::Progress,
    record::snapshot::Root,
};

use crate::{
    failure::{Found, Usage},
    output::{Output, properties},
    progress,
    quantity::{bytes, millis},
    signal::{self, Second},
};

/// A sparse file that a snapshot is written into.
#[derive(Debug)]
struct Image(fs::File);

impl BlockTarget for Image {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, first.bytes())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// What a restore did.
#[derive(Serialize)]
struct Restored {
    snapshot: SnapshotId,
    file: PathBuf,
    capacity_bytes: u64,
    written_bytes: u64,
    fetched_bytes: u64,
    restore_ms: u64,
    /// What is damaged and was left zero.
    lost: Vec<Lost>,
}

/// Makes sure that nothing is where the image is to be.
///
/// # Errors
/// `Usage` where something is.
pub(crate) fn refuse_existing(path: &Path) -> Result<(), Usage> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(Usage(format!("--to {}: it is there already; expected a name that is free", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.file_name() {
            Some(_) => Ok(()),
            None => Err(Usage(format!("--to {}: expected the name of a file", path.display()))),
        },
        Err(error) => Err(Usage(format!("--to {}: {error}", path.display()))),
    }
}

/// Writes a snapshot into a new file, sparse where it holds zeroes. With `keep_going` damage is left zero and listed.
///
/// # Errors
/// The file's, the repository's, or that it was interrupted; nothing is left behind then. `Found` where something was
/// damaged and left zero: the file is there then.
pub(crate) async fn restore(
    repository: &Repository,
    root: &Root,
    to: &Path,
    keep_going: bool,
    output: Output,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let cancel = signal::watch(Second::Ignored)?;
    let folder = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut prefix = OsString::from(".");
    prefix.push(to.file_name().unwrap_or_default());
    prefix.push(".partial-");
    let partial = tempfile::Builder::new()
        .prefix(&prefix)
        .tempfile_in(&folder)
        .with_context(|| format!("making a file in {}", folder.display()))?;
    partial.as_file().set_len(root.description.capacity_bytes).context("sizing the image")?;

    let target = Arc::new(Image(partial.as_file().try_clone().context("sharing the image")?));
    let counters = Progress::default();
    let work = async {
        if keep_going {
            repository.salvage(root, target, counters.clone(), cancel).await
        } else {
            let statistics = repository.hydrate(root, target, counters.clone(), cancel).await?;
            Ok(Salvage { statistics, lost: Vec::new() })
        }
    };
    let Salvage { statistics, lost } = progress::watch("restoring", &counters, work).await?;

    let file = to.to_owned();
    spawn_blocking(move || -> anyhow::Result<()> {
        match partial.persist_noclobber(&file) {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{} was made by somebody else meanwhile", file.display())
            }
            Err(error) => return Err(error.error).with_context(|| format!("naming {}", file.display())),
        }
        fs::File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("making {} durable", folder.display()))
    })
    .await??;

    let restored = Restored {
        snapshot: root.description.id,
        file: to.to_owned(),
        capacity_bytes: root.description.capacity_bytes,
        written_bytes: statistics.written_bytes,
        fetched_bytes: statistics.fetched_bytes,
        restore_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        lost,
    };
    output.print(&restored, |restored| {
        let mut table = properties([
            ("snapshot", restored.snapshot.to_string()),
            ("file", restored.file.display().to_string()),
            ("size", bytes(restored.capacity_bytes)),
            ("written", bytes(restored.written_bytes)),
            ("fetched", bytes(restored.fetched_bytes)),
            ("time", millis(started.elapsed().as_secs_f64() * 1000.0)),
        ]);
        for lost in &restored.lost {
            let end = lost.start.saturating_add(lost.length);
            let what = format!("bytes [{}, {end}): {}: {}", lost.start, lost.object, lost.reason);
            table.add_row(["left zero".to_owned(), what]);
        }
        table
    })?;
    verdict(&restored)
}

/// Fails where something was left zero.
fn verdict(restored: &Restored) -> anyhow::Result<()> {
    if restored.lost.is_empty() {
        return Ok(());
    }
    let total: u64 = restored.lost.iter().map(|lost| lost.length).sum();
    Err(Found(format!(
        "{} is not whole: {total} bytes in {} ranges are damaged in the repository and were left zero",
        restored.file.display(),
        restored.lost.len()
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_replaced() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let there = folder.path().join("there");
        fs::write(&there, "precious").expect("a file can be written");
        let error = refuse_existing(&there).expect_err("it is there").to_string();
        assert!(error.contains("there already"), "{error}");
        assert!(refuse_existing(folder.path()).is_err());
        assert!(refuse_existing(Path::new("/")).is_err());
        assert!(refuse_existing(&folder.path().join("free")).is_ok());
    }
}
