//! A small change in a large volume: what an incremental backup takes, beside restic and kopia.
//!
//! A volume that is mostly provisioned and partly filled is backed up in full by everybody. Then, in each round, random
//! blocks of its files are overwritten, and each backs that up in turn, going by what it backed up before, with its own
//! caches as they are and a cold page cache. What the driver sends is held against the blocks that really changed, which
//! are found by comparing the images of two cuts byte by byte. The last snapshot is restored and compared.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, ensure};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use varve_harness::Scratch;

use super::contest::{self, Contest};
use crate::{
    Arguments,
    disk::{self, blocking},
    image::WINDOW_BYTES,
    limit::median,
    report::{Bound, Figure, Report},
    rivals,
    subject::{Place, Subject},
    tree,
};

/// What the files are made from.
const SEED: u64 = 23;

/// Random writes between two backups.
const WRITES: u64 = 1000;

/// How many times longer than ours a rival's backup must take.
const TIMES: f64 = 50.0;

/// How many times the compressed changed blocks may be sent, and how many bytes beside.
const OVERHEAD: (f64, f64) = (1.15, 65536.0);

/// What may be put into the store for one small snapshot.
const STORE_WRITES: f64 = 4.0;

/// The most memory that the driver may have resident, in MiB.
const MEMORY: f64 = 128.0;

/// Bytes of a block.
const BLOCK: usize = 4096;

/// How much is measured.
struct Size {
    bytes: u64,
    capacity: u64,
    pool: &'static str,
    rounds: usize,
    /// What is promised grows with the volume; of a small one it is shown alone.
    times: Bound,
}

const FULL: Size =
    Size { bytes: 8 << 30, capacity: 100 << 30, pool: "110GiB", rounds: 5, times: Bound::AtLeast(TIMES) };
const QUICK: Size = Size { bytes: 256 << 20, capacity: 3200 << 20, pool: "4GiB", rounds: 3, times: Bound::Shown };

/// What the store was asked to keep for one snapshot.
#[derive(Clone, Copy, Debug)]
struct Sent {
    bytes: u64,
    writes: u64,
}

/// What really changed between two cuts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changed {
    blocks: u64,
    compressed_bytes: u64,
}

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let size = if arguments.quick { QUICK } else { FULL };
    disk::ensure_room(&arguments.folder, 3 * size.bytes)?;
    let scratch = Scratch::within(&arguments.folder, "incremental-").context("making a folder")?;
    let place = Place { folder: scratch.path().join("varve"), pool: size.pool, capacity: size.capacity };
    let theirs = scratch.path().join("rivals");
    for folder in [&place.folder, &theirs] {
        fs::create_dir_all(folder).context("making a folder")?;
    }

    report.say(&format!("incremental: filling a volume with {} MiB and backing it up", size.bytes >> 20));
    let mut source = place.start("source").await?;
    source.make("volume").await?;
    let (folder, bytes) = (source.mounted()?.to_owned(), size.bytes);
    blocking(move || tree::fill(&folder, SEED, bytes)).await?;
    disk::settle_filesystem(source.mounted()?).await?;
    let (full, _) = source.back_up("full").await?;
    let mut rivals = BTreeMap::new();
    for name in rivals::NAMES {
        let rival = rivals::named(name, &theirs)?;
        rival.init().await?;
        rivals::back_up(&*rival, source.mounted()?).await?;
        rivals.insert(name, rival);
    }

    let before = source.pool().join("before.image");
    clone(&source.cut(&full), &before)?;
    let mut contest = Contest::default();
    let (mut sent, mut changed, mut last) = (Vec::new(), Changed::default(), full);
    let mut offloads = Vec::new();
    for round in 0..size.rounds {
        let folder = source.mounted()?.to_owned();
        blocking(move || tree::overwrite(&folder, SEED + 1 + round as u64, WRITES)).await?;
        for turn in contest::order(round).filter(|turn| *turn != contest::LIMIT) {
            report.say(&format!("incremental: round {} of {}: {turn}", round + 1, size.rounds));
            disk::cool().await?;
            let taken = match rivals.get(turn) {
                Some(rival) => rivals::back_up(&**rival, source.mounted()?).await?,
                None => {
                    let objects = objects(&place.repository())?;
                    let (snapshot, taken) = source.back_up(&format!("round-{round}")).await?;
                    let root = source.root(&snapshot).await?;
                    ensure!(root.base.is_some(), "the snapshot is an incremental one");
                    offloads.push(root.statistics.offload_millis as f64 / 1000.0);
                    sent.push(Sent::since(&objects, &place.repository())?);
                    last = snapshot;
                    taken
                }
            };
            contest.add("incremental", turn, taken);
        }
        if round == 0 {
            let (before, after) = (before.clone(), source.cut(&last));
            changed = blocking(move || {
                let changed = compare(&before, &after)?;
                fs::remove_file(&before).context("removing a clone")?;
                Ok(changed)
            })
            .await?;
        }
    }
    drop(rivals);
    blocking(move || fs::remove_dir_all(theirs).context("removing the rivals' repositories")).await?;
    verify(&place, source, &last).await?;
    report.add(Figure::new("incremental.offload", median(offloads), "s", Bound::Shown));
    add(report, &contest, &sent, changed, size.times);
    Ok(())
}

/// Restores a snapshot elsewhere and compares it with what is mounted.
async fn verify(place: &Place, source: Subject, snapshot: &str) -> anyhow::Result<()> {
    let mut target = place.start("target").await?;
    target.restore("restored", snapshot).await?;
    let (here, there) = (source.mounted()?.to_owned(), target.mounted()?.to_owned());
    let same = blocking(move || Ok(tree::digest(&here)? == tree::digest(&there)?)).await?;
    ensure!(same, "what was restored differs from what there was");
    target.end().await?;
    source.end().await
}

fn add(report: &mut Report, contest: &Contest, sent: &[Sent], changed: Changed, times: Bound) {
    contest.show(report, "incremental", "s", |taken| taken.wall.as_secs_f64());
    for rival in rivals::NAMES {
        let ratio = contest.wall("incremental", rival) / contest.wall("incremental", contest::VARVE);
        report.add(Figure::new(format!("incremental.of_{rival}"), ratio, "x", times));
    }
    let kibibytes = |bytes: u64| bytes as f64 / 1024.0;
    report.add(Figure::new("incremental.changed", changed.blocks as f64, "blocks", Bound::Shown));
    report.add(Figure::new("incremental.compressed", kibibytes(changed.compressed_bytes), "KiB", Bound::Shown));
    // The first round's, as what changed is.
    let first = sent.first().map_or(f64::NAN, |sent| sent.bytes as f64);
    report.add(Figure::new("incremental.sent", first / 1024.0, "KiB", Bound::Shown));
    let (factor, beside) = OVERHEAD;
    let allowed = factor * changed.compressed_bytes as f64 + beside;
    report.add(Figure::new("incremental.sent_of_allowed", first / allowed, "x", Bound::AtMost(1.0)));
    let writes = sent.iter().map(|sent| sent.writes).max().unwrap_or(u64::MAX);
    report.add(Figure::new("incremental.store_writes", writes as f64, "writes", Bound::AtMost(STORE_WRITES)));
    contest.show_as(report, "incremental", "incremental.cpu", "s", |taken| taken.cpu.as_secs_f64());
    contest.show_peaks(report, "incremental", "memory.incremental", MEMORY);
}

/// The objects of a repository, with when each was written.
type Objects = BTreeMap<PathBuf, SystemTime>;

fn objects(repository: &Path) -> anyhow::Result<Objects> {
    let (files, _) = disk::walk(repository)?;
    // The folder's locks are no objects; their names say so.
    let objects = files.into_iter().filter(|path| !path.to_string_lossy().contains('#'));
    objects
        .map(|path| {
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            Ok((path.clone(), modified.with_context(|| format!("looking at {}", path.display()))?))
        })
        .collect()
}

impl Sent {
    /// What was written into a repository since its objects were listed. The intent is put before everything and deleted
    /// after it, so that it is not seen, and counts as a write.
    fn since(before: &Objects, repository: &Path) -> anyhow::Result<Self> {
        let mut sent = Self { bytes: 0, writes: 1 };
        for (path, written) in objects(repository)? {
            if before.get(&path) != Some(&written) {
                sent.bytes += fs::metadata(&path)?.len();
                sent.writes += 1;
            }
        }
        Ok(sent)
    }
}

/// Clones an image, so that its blocks stay whatever becomes of it.
fn clone(from: &Path, to: &Path) -> anyhow::Result<()> {
    let from = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let to = File::create_new(to).with_context(|| format!("making {}", to.display()))?;
    rustix::fs::ioctl_ficlone(&to, &from).context("cloning an image")
}

/// Compares two images, and compresses the blocks that are other ones in the second and not zero, in its order.
fn compare(before: &Path, after: &Path) -> anyhow::Result<Changed> {
    let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let (before, after) = (open(before)?, open(after)?);
    let mut changed = Changed::default();
    let mut gathered = Vec::with_capacity(WINDOW_BYTES);
    let (mut old, mut new) = (vec![0; WINDOW_BYTES], vec![0; WINDOW_BYTES]);
    let compress = |gathered: &mut Vec<u8>| -> anyhow::Result<u64> {
        let length = zstd::bulk::compress(gathered, 1).context("compressing changed blocks")?.len();
        gathered.clear();
        Ok(length as u64)
    };
    let mut at = 0;
    while let Some((start, end)) = data(&after, at)? {
        let mut offset = start;
        while offset < end {
            let length = usize::try_from(end - offset).map_or(WINDOW_BYTES, |rest| rest.min(WINDOW_BYTES));
            before.read_exact_at(&mut old[..length], offset).context("reading an image")?;
            after.read_exact_at(&mut new[..length], offset).context("reading an image")?;
            for (old, new) in old[..length].chunks(BLOCK).zip(new[..length].chunks(BLOCK)) {
                if old != new && new.iter().any(|byte| *byte != 0) {
                    changed.blocks += 1;
                    gathered.extend_from_slice(new);
                    if gathered.len() >= WINDOW_BYTES {
                        changed.compressed_bytes += compress(&mut gathered)?;
                    }
                }
            }
            offset += length as u64;
        }
        at = end;
    }
    if !gathered.is_empty() {
        changed.compressed_bytes += compress(&mut gathered)?;
    }
    Ok(changed)
}

/// The next part of a sparse file that has data, from an offset on.
fn data(file: &File, from: u64) -> anyhow::Result<Option<(u64, u64)>> {
    let start = match seek(file, SeekFrom::Data(from)) {
        Err(Errno::NXIO) => return Ok(None),
        start => start.context("looking for data")?,
    };
    Ok(Some((start, seek(file, SeekFrom::Hole(start)).context("looking for a hole")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_that_are_other_ones_count() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (before, after) = (folder.path().join("before"), folder.path().join("after"));
        let file = File::create(&before).expect("a file can be made");
        file.set_len(1 << 20).expect("a file can be extended");
        file.write_all_at(&[1; 3 * BLOCK], 0).expect("a file can be written");
        fs::copy(&before, &after).expect("a file can be copied");
        assert_eq!(compare(&before, &after).expect("they can be read"), Changed::default());
        let file = File::options().write(true).open(&after).expect("it is there");
        file.write_all_at(&[2; 1], BLOCK as u64).expect("a file can be written");
        file.write_all_at(&[3; BLOCK], 512 << 10).expect("a file can be written");
        // What becomes zero is never stored.
        file.write_all_at(&[0; BLOCK], 2 * BLOCK as u64).expect("a file can be written");
        let changed = compare(&before, &after).expect("they can be read");
        assert_eq!(changed.blocks, 2);
        assert!((1..200).contains(&changed.compressed_bytes), "{changed:?}");
    }

    #[test]
    fn what_was_put_is_counted_with_the_intent() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        fs::write(folder.path().join("root"), "old").expect("a file can be written");
        let before = objects(folder.path()).expect("it can be listed");
        fs::write(folder.path().join("pack"), "1234").expect("a file can be written");
        fs::write(folder.path().join(".lock#0"), "").expect("a file can be written");
        let sent = Sent::since(&before, folder.path()).expect("it can be listed");
        assert_eq!((sent.bytes, sent.writes), (4, 2));
    }
}
