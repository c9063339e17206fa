//! How fast the engine moves an image into a repository and back, beside what the machine could do at best; what it takes
//! of processors and memory.
//!
//! An image of mixed content lies in a file, and is read and filled past the page cache as the driver does. Each offload
//! goes into a new repository in a local folder, each restore into a new file, in a process of its own whose time on
//! processors and whose peak of memory are read at its end. Offloads and [limits](crate::limit) take turns, and so do restores
//! and theirs, all from a cold page cache; medians are compared.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use varve_node::extent::{ImageSource, ImageTarget};
use varve_repository::{
    SnapshotState,
    block::{BlockSource, Blocks, Change, ChangeSource},
    offload::Against,
    progress::Progress,
    store::Store,
};

use crate::{
    Arguments, disk, estate,
    image::{Mixed, WINDOW_BYTES, fill_mixed, whole},
    limit::{Packed, Plain, median},
    process::{self, Measurement},
    report::{Bound, Figure, Report},
};

/// What a process may hold resident with the memory that is set by default, in MiB.
const MEMORY: f64 = 128.0;

/// The snapshot that is made and restored.
const SNAPSHOT: &str = "snapshot";

/// What a process took to move the image.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    seconds: f64,
    processor_seconds: f64,
    peak_memory: u64,
}

/// What was measured of one direction, round by round.
#[derive(Debug, Default)]
struct Rounds {
    taken: Vec<Taken>,
    /// Seconds that the limit took.
    limits: Vec<f64>,
}

impl Rounds {
    /// The middle one of what the rounds say.
    fn median(&self, of: impl Fn(&Taken) -> f64) -> f64 {
        median(self.taken.iter().map(of).collect())
    }
}

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (bytes, rounds): (u64, usize) = if arguments.quick { (512 << 20, 3) } else { (4 << 30, 5) };
    let image = Mixed { seed: 5, windows: bytes / WINDOW_BYTES as u64 };
    report.say(&format!("engine: making an image of {} MiB", bytes >> 20));
    let folder = tempfile::tempdir_in(&arguments.folder).context("making a folder for an image")?;
    let (path, packed) = (image_path(folder.path()), folder.path().join("packed"));
    let (plain, packed) = spawn_blocking(move || {
        write(image, &path)?;
        anyhow::Ok((Arc::new(Plain::of(image)?), Arc::new(Packed::of(image, &packed)?)))
    })
    .await
    .context("making an image")??;

    let (mut offloads, mut restores) = (Rounds::default(), Rounds::default());
    for round in 1..=rounds {
        report.say(&format!("engine: round {round} of {rounds}"));
        remove(&repository_path(folder.path()))?;
        disk::cool().await?;
        offloads.taken.push(process::ask(Measurement::Offload, folder.path()).await?);
        let plain = Arc::clone(&plain);
        let took = spawn_blocking(move || plain.seal(bytes)).await.context("the limit of offloads")??;
        offloads.limits.push(took.as_secs_f64());

        disk::cool().await?;
        restores.taken.push(process::ask(Measurement::Restore, folder.path()).await?);
        disk::cool().await?;
        let (restored, packed) = (target_path(folder.path()), Arc::clone(&packed));
        let took = spawn_blocking(move || {
            create(&restored, bytes)?;
            let took = packed.restore(&restored)?;
            std::fs::remove_file(&restored).context("removing what was restored")?;
            anyhow::Ok(took)
        });
        restores.limits.push(took.await.context("the limit of restores")??.as_secs_f64());
    }
    let names = ["engine.offload_rate", "engine.offload_limit", "engine.offload_of_limit", "engine.offload_cpu"];
    add(report, bytes, &offloads, names, "engine.offload_memory");
    let names = ["engine.restore_rate", "engine.restore_limit", "engine.restore_of_limit", "engine.restore_cpu"];
    add(report, bytes, &restores, names, "engine.restore_memory");
    Ok(())
}

fn add(report: &mut Report, bytes: u64, rounds: &Rounds, names: [&'static str; 4], memory: &'static str) {
    let [rate, limit, of_limit, processors] = names;
    let (mebibytes, gibibytes) = (bytes as f64 / f64::from(1 << 20), bytes as f64 / f64::from(1 << 30));
    let (took, best) = (rounds.median(|taken| taken.seconds), median(rounds.limits.clone()));
    report.add(Figure::new(rate, mebibytes / took, "MiB/s", Bound::Shown));
    report.add(Figure::new(limit, mebibytes / best, "MiB/s", Bound::Shown));
    report.add(Figure::new(of_limit, best / took, "x", Bound::AtLeast(0.7)));
    let spent = rounds.median(|taken| taken.processor_seconds) / gibibytes;
    report.add(Figure::new(processors, spent, "s/GiB", Bound::Shown));
    let peak = rounds.taken.iter().map(|taken| taken.peak_memory).max().unwrap_or_default();
    report.add(Figure::new(memory, peak as f64 / f64::from(1 << 20), "MiB", Bound::AtMost(MEMORY)));
}

fn image_path(folder: &Path) -> PathBuf {
    folder.join("image")
}

fn repository_path(folder: &Path) -> PathBuf {
    folder.join("repository")
}

fn target_path(folder: &Path) -> PathBuf {
    folder.join("restored")
}

fn store(folder: &Path) -> anyhow::Result<Store> {
    Ok(Store::open(&format!("file://{}", repository_path(folder).display()), &[])?)
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("removing a repository"),
        _ => Ok(()),
    }
}

fn create(path: &Path, bytes: u64) -> anyhow::Result<File> {
    let file = File::options().create_new(true).read(true).write(true).open(path).context("making an image")?;
    file.set_len(bytes).context("making an image")?;
    Ok(file)
}

/// Writes an image to a file, on all cores.
fn write(image: Mixed, path: &Path) -> anyhow::Result<()> {
    let file = create(path, image.bytes())?;
    let threads = thread::available_parallelism().context("counting cores")?.get() as u64;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let file = &file;
                scope.spawn(move || {
                    let mut window = vec![0; WINDOW_BYTES];
                    for number in (thread..image.windows).step_by(usize::try_from(threads).unwrap_or(1)) {
                        fill_mixed(image.seed, number, &mut window);
                        file.write_all_at(&window, number * WINDOW_BYTES as u64)?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("it does not panic"))
    })
    .and_then(|()| file.sync_all())
    .context("writing an image")
}

/// An image in a file, all of it new.
struct OnDisk(ImageSource);

impl BlockSource for OnDisk {
    fn capacity(&self) -> Blocks {
        self.0.capacity()
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read(first, buffer)
    }
}

impl ChangeSource for OnDisk {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        Ok(Box::new(whole(self.capacity(), from)))
    }
}

/// Takes the time and what else it takes.
async fn taken<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(Taken, T)> {
    let (started, before) = (Instant::now(), process::processor_time());
    let result = work.await?;
    let seconds = started.elapsed().as_secs_f64();
    let processor_seconds = (process::processor_time() - before).as_secs_f64();
    Ok((Taken { seconds, processor_seconds, peak_memory: process::peak_memory()? }, result))
}

/// Offloads the image in a folder into a new repository there.
pub(crate) async fn offload(folder: &Path) -> anyhow::Result<Taken> {
    let image = OnDisk(ImageSource::open(&image_path(folder)).context("opening the image")?);
    let bytes = image.capacity().bytes();
    let repository = estate::init(store(folder)?).await?;
    let request = estate::request(&repository, "volume", SNAPSHOT, Arc::new(image), Against::Anew);
    let (taken, root) = taken(async { repository.offload(request).await.context("offloading") }).await?;
    ensure!(root.statistics.stored_bytes == bytes, "every chunk is different from every other");
    Ok(taken)
}

/// Restores what the repository in a folder holds into a new file.
pub(crate) async fn restore(folder: &Path) -> anyhow::Result<Taken> {
    let repository = estate::open(store(folder)?).await?;
    let SnapshotState::Committed(root) = repository.snapshot(repository.snapshot_id(SNAPSHOT, 0)).await? else {
        anyhow::bail!("the snapshot was offloaded before");
    };
    let (path, bytes) = (target_path(folder), root.description.capacity_bytes);
    let (taken, ()) = taken(async {
        drop(create(&path, bytes)?);
        let target = Arc::new(ImageTarget::open(&path).context("opening the image to fill")?);
        let done = repository.hydrate(&root, target, Progress::default(), CancellationToken::new()).await?;
        ensure!(done.written_bytes == bytes, "all of the image is restored");
        Ok(())
    })
    .await?;
    compare(&image_path(folder), &path)?;
    std::fs::remove_file(&path).context("removing what was restored")?;
    Ok(taken)
}

/// Makes sure that an eighth of two files, taken here and there, is the same.
fn compare(one: &Path, other: &Path) -> anyhow::Result<()> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let length = one.metadata()?.len();
    let (mut here, mut there) = (vec![0; WINDOW_BYTES], vec![0; WINDOW_BYTES]);
    for offset in (0..length).step_by(8 * WINDOW_BYTES) {
        one.read_exact_at(&mut here, offset)?;
        other.read_exact_at(&mut there, offset)?;
        ensure!(here == there, "what was restored differs at {offset}");
    }
    Ok(())
}
