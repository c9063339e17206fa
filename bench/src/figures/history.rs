//! What a snapshot costs, and how long its restore takes, when a thousand came before it.
//!
//! Two volumes of the same kind are written to and snapshotted by the engine, into repositories in a local folder. One is old:
//! it gets as many snapshots as are promised for, less a few. Then a young one is begun, and both are snapshotted in turns,
//! so that whatever else the machine does meets the two alike: the 10th and its neighbours beside the 1,000th and its own.
//! Last, the old one's newest snapshot is restored in turns with a full backup of the same content from a new repository.
//!
//! Volumes are of two kinds. In the one, writes go to a small part again and again, as those of databases, logs and caches
//! do; in the other they go all over it, which nothing but a benchmark does for long: then each block that is live is in a
//! pack with others that are dead, and there is ever more to say of where they are.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;
use varve_node::extent::ImageTarget;
use varve_repository::{
    Repository,
    block::{BLOCK_SIZE, BlockSource, Blocks},
    offload::Against,
    progress::Progress,
    record::snapshot::Root,
    store::Store,
};

use crate::{
    Arguments,
    disk::{self, blocking},
    estate,
    image::WINDOW_BYTES,
    limit::median,
    report::{Bound, Figure, Report},
    rewritten::Volume,
};

/// Blocks that are written between two snapshots.
const WRITES: u64 = 250;

/// The young volume's snapshots that are compared: the 10th in their midst, over several merges of its largest level.
const YOUNG: std::ops::Range<usize> = 5..25;

/// Of the old volume's snapshots so many are compared: over several merges of its largest level, too.
const OLD: usize = 100;

/// How many times what the 10th costs the 1,000th may.
const GROWTH: f64 = 1.2;

/// How many times what a fresh full backup's restore takes the 1,000th's may.
const RESTORE: f64 = 1.3;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    bytes: u64,
    snapshots: usize,
    rounds: usize,
}

const FULL: Size = Size { bytes: 1 << 30, snapshots: 1000, rounds: 5 };
const QUICK: Size = Size { bytes: 128 << 20, snapshots: 150, rounds: 3 };

/// Where writes go.
#[derive(Clone, Copy)]
struct Kind {
    /// One of so many parts of the volume is written to.
    part: u64,
    names: Names,
    growth: Bound,
    restore: Bound,
}

#[derive(Clone, Copy)]
struct Names {
    kind: &'static str,
    time: &'static str,
    requests: &'static str,
    metadata: &'static str,
    bytes: &'static str,
    restore: &'static str,
}

const HOT: Kind = Kind {
    part: 20,
    names: Names {
        kind: "hot",
        time: "history.hot_time",
        requests: "history.hot_requests",
        metadata: "history.hot_metadata",
        bytes: "history.hot_metadata_bytes",
        restore: "history.hot_restore",
    },
    growth: Bound::AtMost(GROWTH),
    restore: Bound::AtMost(RESTORE),
};

const SPREAD: Kind = Kind {
    part: 1,
    names: Names {
        kind: "spread",
        time: "history.spread_time",
        requests: "history.spread_requests",
        metadata: "history.spread_metadata",
        bytes: "history.spread_metadata_bytes",
        restore: "history.spread_restore",
    },
    growth: Bound::Shown,
    restore: Bound::Shown,
};

/// What one snapshot took.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    requests: f64,
    /// All bytes put but for packs.
    metadata: f64,
}

/// A volume and its snapshots.
struct Chain {
    name: &'static str,
    volume: Volume,
    part: u64,
    repository: Repository,
    newest: Option<Root>,
    costs: Vec<Cost>,
}

impl Chain {
    async fn begin(name: &'static str, bytes: u64, part: u64, folder: &Path) -> anyhow::Result<Self> {
        let repository = repository(folder, name).await?;
        Ok(Self { name, volume: Volume::new(bytes), part, repository, newest: None, costs: Vec::new() })
    }

    /// Takes a snapshot, after some writes where there is one already.
    async fn grow(&mut self) -> anyhow::Result<()> {
        let mut against = Against::Nothing;
        if let Some(base) = &self.newest {
            against = Against::Base(base.description.id);
            let blocks = self.volume.blocks() / self.part;
            self.volume.write(WRITES, 0..blocks);
        }
        let name = format!("{}-{}", self.name, self.costs.len());
        let request = estate::request(&self.repository, self.name, &name, self.volume.cut(), against);
        let (before, started) = (self.repository.store().requests(), Instant::now());
        let root = self.repository.offload(request).await.context("offloading a snapshot")?;
        let seconds = started.elapsed().as_secs_f64();
        let asked = self.repository.store().requests() - before;
        let own = root.runs.iter().filter(|run| run.id.upload() == root.upload);
        let runs: u64 = own.map(|run| run.object_bytes).sum();
        let packs = root.statistics.uploaded_bytes - runs;
        let metadata = (asked.written_bytes - packs) as f64;
        self.costs.push(Cost { seconds, requests: asked.total() as f64, metadata });
        self.newest = Some(root);
        Ok(())
    }
}

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let size = if arguments.quick { QUICK } else { FULL };
    // A full backup twice, what each snapshot adds, and two images.
    let added = size.snapshots as u64 * WRITES * BLOCK_SIZE;
    disk::ensure_room(&arguments.folder, 4 * size.bytes + added)?;
    for kind in [HOT, SPREAD] {
        let folder = tempfile::tempdir_in(&arguments.folder).context("making a folder for repositories")?;
        measure_kind(kind, size, folder.path(), report).await?;
    }
    Ok(())
}

async fn measure_kind(kind: Kind, size: Size, folder: &Path, report: &mut Report) -> anyhow::Result<()> {
    let names = kind.names;
    report.say(&format!("history: {} snapshots, writes {}", size.snapshots, names.kind));
    let mut old = Chain::begin("old", size.bytes, kind.part, folder).await?;
    for _ in 0..size.snapshots - YOUNG.end {
        old.grow().await?;
    }
    let mut young = Chain::begin("young", size.bytes, kind.part, folder).await?;
    for _ in 0..YOUNG.end {
        young.grow().await?;
        old.grow().await?;
    }
    let times = |chain: &Chain| {
        let newest = &chain.costs[chain.costs.len() - YOUNG.len()..];
        median(newest.iter().map(|cost| cost.seconds).collect())
    };
    report.add(Figure::new(names.time, times(&old) / times(&young), "x", kind.growth));
    let late = &old.costs[old.costs.len() - OLD..];
    let early = &young.costs[YOUNG];
    let requests = |costs: &[Cost]| mean(costs, |cost| cost.requests);
    report.add(Figure::new(names.requests, requests(late) / requests(early), "x", kind.growth));
    let metadata = |costs: &[Cost]| mean(costs, |cost| cost.metadata);
    report.add(Figure::new(names.metadata, metadata(late) / metadata(early), "x", kind.growth));
    report.add(Figure::new(names.bytes, metadata(late), "bytes", Bound::Shown));
    drop(young);
    restores(kind, size, old, folder, report).await
}

fn mean(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    costs.iter().map(of).sum::<f64>() / costs.len() as f64
}

/// Restores the newest of many snapshots, and a full backup of the same, in turns.
async fn restores(kind: Kind, size: Size, old: Chain, folder: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.say(&format!("history: restoring the last of {} snapshots, and a fresh one", size.snapshots));
    let fresh = repository(folder, "fresh").await?;
    let content = old.volume.whole();
    let request = estate::request(&fresh, "fresh", "fresh", Arc::clone(&content), Against::Anew);
    let root = fresh.offload(request).await.context("offloading all of it anew")?;
    let newest = old.newest.context("there is a snapshot")?;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for round in 0..size.rounds {
        let mut turns = [(&fresh, &root, &mut before), (&old.repository, &newest, &mut after)];
        if round % 2 == 1 {
            turns.reverse();
        }
        for (repository, root, times) in turns {
            disk::cool().await?;
            let path = folder.join("restored");
            times.push(restore(repository, root, path.clone()).await?);
            let content = Arc::clone(&content);
            blocking(move || {
                compare(&content, &path)?;
                std::fs::remove_file(&path).context("removing what was restored")
            })
            .await?;
        }
    }
    report.add(Figure::new(kind.names.restore, median(after) / median(before), "x", kind.restore));
    Ok(())
}

/// Restores a snapshot into a new file, past the page cache as the driver does, and tells how many seconds that took.
async fn restore(repository: &Repository, root: &Root, path: PathBuf) -> anyhow::Result<f64> {
    let file = File::options().create_new(true).write(true).open(&path).context("making an image")?;
    file.set_len(root.description.capacity_bytes).context("making an image")?;
    let target = Arc::new(ImageTarget::open(&path).context("opening the image to fill")?);
    let started = Instant::now();
    repository.hydrate(root, target, Progress::default(), CancellationToken::new()).await.context("restoring")?;
    Ok(started.elapsed().as_secs_f64())
}

/// Makes sure that a file is what a volume was, an eighth of it and all of its beginning.
fn compare(volume: &Volume, path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path).context("opening what was restored")?;
    let (mut here, mut there) = (vec![0; WINDOW_BYTES], vec![0; WINDOW_BYTES]);
    let windows = volume.blocks() * BLOCK_SIZE / WINDOW_BYTES as u64;
    for window in (0..windows).filter(|window| *window < windows / 8 || window % 8 == 0) {
        let at = window * WINDOW_BYTES as u64;
        volume.read(Blocks(at / BLOCK_SIZE), &mut here)?;
        file.read_exact_at(&mut there, at)?;
        ensure!(here == there, "what was restored differs at {at}");
    }
    Ok(())
}

async fn repository(folder: &Path, name: &str) -> anyhow::Result<Repository> {
    estate::init(Store::open(&format!("file://{}", folder.join(name).display()), &[])?).await
}
