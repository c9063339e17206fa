//! A folder of files of many sizes, made up from a seed; no two chunks of it are equal.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::Context;

use crate::{
    disk,
    image::{self, WINDOW_BYTES},
};

/// Sizes of files, and how many of 64 parts of all bytes are in files of each.
const SIZES: [(u64, u64); 5] = [(16 << 10, 1), (128 << 10, 3), (1 << 20, 8), (16 << 20, 20), (128 << 20, 32)];

/// Files in a folder, at most.
const FILES_IN_A_FOLDER: usize = 256;

/// Bytes of one random write.
pub(crate) const WRITE_BYTES: usize = 4096;

/// One file that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Planned {
    path: PathBuf,
    bytes: u64,
    /// The first of the windows that it is made of; each is in one file only.
    window: u64,
}

/// Plans files of about so many bytes together.
fn plan(bytes: u64) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut window = 0;
    for (size, parts) in SIZES {
        for number in 0..(bytes / 64 * parts / size).max(1) {
            let folder = format!("{}k-{}", size >> 10, number / FILES_IN_A_FOLDER as u64);
            planned.push(Planned { path: Path::new(&folder).join(format!("{number}.data")), bytes: size, window });
            window += size.div_ceil(WINDOW_BYTES as u64);
        }
    }
    planned
}

/// Fills a folder with files of about `bytes` together; returns how many bytes they have.
pub(crate) fn fill(folder: &Path, seed: u64, bytes: u64) -> anyhow::Result<u64> {
    let planned = plan(bytes);
    for file in &planned {
        fs::create_dir_all(folder.join(&file.path).parent().unwrap_or(folder)).context("making a folder")?;
    }
    let next = AtomicUsize::new(0);
    let work = || -> anyhow::Result<()> {
        let mut window = vec![0; WINDOW_BYTES];
        while let Some(file) = planned.get(next.fetch_add(1, Ordering::Relaxed)) {
            let path = folder.join(&file.path);
            let mut written = File::create(&path).with_context(|| format!("making {}", path.display()))?;
            let mut rest = usize::try_from(file.bytes)?;
            for number in file.window.. {
                let length = rest.min(WINDOW_BYTES);
                if length == 0 {
                    break;
                }
                image::fill_mixed(seed, number, &mut window[..length]);
                written.write_all(&window[..length]).with_context(|| format!("writing {}", path.display()))?;
                rest -= length;
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().context("counting cores")?.get();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("it does not panic"))
    })?;
    Ok(planned.iter().map(|file| file.bytes).sum())
}

/// Overwrites random blocks of a folder's files, each with what was never there, and syncs them.
pub(crate) fn overwrite(folder: &Path, seed: u64, writes: u64) -> anyhow::Result<()> {
    let (paths, _) = disk::walk(folder)?;
    let mut blocks = Vec::with_capacity(paths.len());
    let mut sum = 0;
    for path in &paths {
        sum += fs::metadata(path)?.len() / WRITE_BYTES as u64;
        blocks.push(sum);
    }
    let mut block = [0; WRITE_BYTES];
    for write in 0..writes {
        let at = image::mixed(seed, write) % sum;
        let file = blocks.partition_point(|end| *end <= at);
        let before = file.checked_sub(1).map_or(0, |file| blocks[file]);
        image::fill_mixed(seed, write, &mut block);
        let file = File::options().write(true).open(&paths[file]).context("opening a file to overwrite")?;
        file.write_all_at(&block, (at - before) * WRITE_BYTES as u64).context("overwriting a block")?;
    }
    let folder = File::open(folder).context("opening a mounted folder")?;
    rustix::fs::syncfs(folder).context("syncing a file system")
}

/// What a folder's files are, with their names: equal for equal folders.
pub(crate) fn digest(folder: &Path) -> anyhow::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    for path in disk::walk(folder)?.0 {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        let mut file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let length = file.metadata()?.len();
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(&length.to_le_bytes());
        loop {
            match file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            };
        }
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_bytes_that_were_asked_for_and_share_no_window() {
        let planned = plan(1 << 30);
        let bytes: u64 = planned.iter().map(|file| file.bytes).sum();
        assert_eq!(bytes, 1 << 30);
        let mut windows: Vec<u64> = planned.iter().map(|file| file.window).collect();
        windows.sort_unstable();
        windows.dedup();
        assert_eq!(windows.len(), planned.len());
    }

    #[test]
    fn a_digest_tells_folders_apart() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        fs::create_dir(folder.path().join("a")).expect("a folder can be made");
        fs::write(folder.path().join("a/b"), vec![1; 8192]).expect("a file can be written");
        let before = digest(folder.path()).expect("it can be read");
        assert_eq!(digest(folder.path()).expect("it can be read"), before);
        overwrite(folder.path(), 1, 1).expect("it can be overwritten");
        assert_ne!(digest(folder.path()).expect("it can be read"), before);
        assert_eq!(fs::metadata(folder.path().join("a/b")).expect("it is there").len(), 8192);
    }
}
