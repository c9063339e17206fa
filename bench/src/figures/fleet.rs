//! Many volumes of one node at once: whether they take longer than one of the same size, whether any of them is starved,
//! what a hydration beside an offload costs, and whether a limit is kept.
//!
//! All of it goes through the driver as Kubernetes would call it, with a writer at work in a volume of its own. What one
//! volume takes and what twenty take is measured in the same run of the same driver, and in turns.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures::future::join_all;
use varve_harness::{
    Scratch, Setup, Standalone,
    csi::{Client, Published, from_snapshot, mount, volume},
};

use crate::{
    Arguments,
    image::{WINDOW_BYTES, fill_mixed},
    limit::median,
    report::{Bound, Figure, Report},
};

/// Volumes that are snapshotted at once.
const VOLUMES: u64 = 20;

/// What the limit is set to where it is measured, in bytes a second.
const LIMIT: u64 = 20 << 20;

/// The window over which no more than the limit allows may be stored.
const WINDOW: Duration = Duration::from_secs(10);

const CONFIGURATION: &str = "snapshot_wait_ms = 500\ncollect_hours = 0\n";

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    /// Bytes of each of the volumes; one volume of the same content together is beside them.
    bytes: u64,
    /// Bytes that are offloaded in all under the limit; half of them or so are stored.
    limited: u64,
}

/// What one round came to.
struct Round {
    /// Bytes a second.
    single: f64,
    fleet: f64,
    /// Of one offload and one hydration at once, both counted.
    beside: f64,
    /// Seconds until the call was answered that waited longest.
    answered: f64,
    /// The longest time until a snapshot was ready by the median of those times.
    slowest: f64,
    /// What the hydration took with an offload beside it by what it took alone.
    hydration: f64,
}

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let size = if arguments.quick {
        Size { rounds: 3, bytes: 12 << 20, limited: 480 << 20 }
    } else {
        Size { rounds: 5, bytes: 64 << 20, limited: 1440 << 20 }
    };
    let mut rounds = Vec::new();
    for number in 1..=size.rounds {
        report.say(&format!("fleet: round {number} of {}", size.rounds));
        rounds.push(round(arguments, size, number).await?);
    }
    let mib = f64::from(1 << 20);
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    report.add(Figure::new("fleet.single", of(|round| round.single) / mib, "MiB/s", Bound::Shown));
    report.add(Figure::new("fleet.rate", of(|round| round.fleet) / mib, "MiB/s", Bound::Shown));
    report.add(Figure::new("fleet.of_single", of(|round| round.fleet / round.single), "x", Bound::AtLeast(0.8)));
    report.add(Figure::new("fleet.answered", of(|round| round.answered), "s", Bound::AtMost(5.0)));
    report.add(Figure::new("fleet.slowest_call", of(|round| round.slowest), "x", Bound::AtMost(2.5)));
    let beside = of(|round| round.beside / round.single);
    report.add(Figure::new("fleet.beside_hydration", beside, "x", Bound::AtLeast(0.8)));
    report.add(Figure::new("fleet.hydration_slowdown", of(|round| round.hydration), "x", Bound::Shown));
    report.say(&format!("fleet: {VOLUMES} volumes under a limit of {} MiB/s", LIMIT >> 20));
    limited(arguments, size, report).await
}

/// A driver with its volumes, and what writes to one of them meanwhile.
struct Site {
    client: Client,
    load: Load,
    driver: Standalone,
    scratch: Scratch,
}

impl Site {
    async fn new(arguments: &Arguments, configuration: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::within(&arguments.folder, "varve-fleet-").context("making a folder")?;
        let setup = Setup { configuration: configuration.into(), ..Setup::new(scratch.path()) };
        let driver = Standalone::start(&setup);
        let client = Client::connect(&driver).await;
        let at_load = made(&client, "load", 64 << 20).await?;
        let load = Load::start(&at_load.path("file"))?;
        Ok(Self { client, load, driver, scratch })
    }

    /// Makes a volume with mixed content.
    async fn volume(&self, name: &str, bytes: u64, seed: u64) -> anyhow::Result<Published> {
        let published = made(&self.client, name, bytes).await?;
        let path = published.path("data");
        tokio::task::spawn_blocking(move || write_mixed(&path, bytes, seed)).await?.context("writing a volume")?;
        Ok(published)
    }

    async fn fleet(&self, bytes: u64, seed: u64) -> anyhow::Result<Vec<Published>> {
        let mut fleet = Vec::new();
        for number in 0..VOLUMES {
            fleet.push(self.volume(&format!("fleet-{number}"), bytes, seed + number).await?);
        }
        Ok(fleet)
    }

    /// Ends it and removes all of it.
    fn end(self) -> anyhow::Result<()> {
        let written = self.load.stop();
        ensure!(written > 0, "the writer wrote beside it");
        let status = self.driver.terminate();
        ensure!(status.success(), "the driver ended with {status}");
        self.scratch.remove().context("removing what was made")
    }
}

async fn made(client: &Client, name: &str, bytes: u64) -> anyhow::Result<Published> {
    let capability = mount("ext4");
    let capacity = i64::try_from(bytes + bytes / 8 + (64 << 20)).context("volumes are small")?;
    let made = client.create(volume(name, capacity, &capability)).await?;
    Ok(client.publish(&made.volume_id, &capability).await?)
}

fn write_mixed(path: &Path, bytes: u64, seed: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut window = vec![0; WINDOW_BYTES];
    for number in 0..bytes / WINDOW_BYTES as u64 {
        fill_mixed(seed, number, &mut window);
        file.write_all(&window)?;
    }
    file.sync_all()
}

/// A writer of 4 KiB at a time at random places, some hundred times a second: what a proxy does that keeps its state.
struct Load {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Load {
    fn start(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).context("making the writer's file")?;
        file.set_len(32 << 20)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut place, mut written) = (1_u64, 0);
            while !told.load(Ordering::Relaxed) {
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let block = (place >> 33) % (8 << 10);
                if file.write_all_at(&place.to_le_bytes().repeat(512), block * 4096).is_ok() {
                    written += 1;
                }
                thread::sleep(Duration::from_millis(4));
            }
            written
        });
        Ok(Self { stop, thread })
    }

    /// Stops it; tells how often it wrote.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// How long one snapshot took: until the call was answered for the first time, and until it was ready.
struct Took {
    answered: Duration,
    ready: Duration,
}

async fn snapshot(client: &Client, volume: &str, name: &str) -> anyhow::Result<(String, Took)> {
    let started = Instant::now();
    let mut answered = None;
    loop {
        let snapshot = client.cut(volume, name).await.with_context(|| format!("snapshot {name}"))?;
        let answered = *answered.get_or_insert_with(|| started.elapsed());
        if snapshot.ready_to_use {
            return Ok((snapshot.snapshot_id, Took { answered, ready: started.elapsed() }));
        }
    }
}

/// One volume and twenty, in turns; then a hydration alone and beside an offload.
async fn round(arguments: &Arguments, size: Size, number: usize) -> anyhow::Result<Round> {
    let site = Site::new(arguments, CONFIGURATION).await?;
    let client = &site.client;
    let total = VOLUMES * size.bytes;
    let single = site.volume("single", total, 1000).await?;
    let other = site.volume("other", total, 2000).await?;
    let fleet = site.fleet(size.bytes, 3000).await?;

    let (mut of_single, mut of_fleet) = (None, None);
    for turn in 0..2 {
        if (turn + number).is_multiple_of(2) {
            of_single = Some(snapshot(client, &single.id, "single-1").await?);
        } else {
            let started = Instant::now();
            let names: Vec<_> = (0..VOLUMES).map(|number| format!("fleet-{number}-1")).collect();
            let calls = fleet.iter().zip(&names).map(|(volume, name)| snapshot(client, &volume.id, name));
            let took = join_all(calls).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
            of_fleet = Some((started.elapsed(), took));
        }
    }
    let ((first, of_single), (fleet_took, calls)) = of_single.zip(of_fleet).context("both had their turn")?;

    // The cut of the first snapshot goes when there is a newer one, so that what is restored is fetched.
    fs::write(single.path("more"), "more").context("writing to the volume")?;
    snapshot(client, &single.id, "single-2").await?;
    let started = Instant::now();
    let alone = restore(client, "restored-alone", &first, total).await?;
    let hydrated_alone = started.elapsed();
    client.delete(&alone).await?;
    let started = Instant::now();
    let hydrating = async {
        restore(client, "restored-beside", &first, total).await?;
        anyhow::Ok(started.elapsed())
    };
    let (hydrated_beside, offloaded) = futures::join!(hydrating, snapshot(client, &other.id, "other-1"));
    let hydrated_beside = hydrated_beside?;
    offloaded?;
    let both = started.elapsed();
    for volume in fleet.iter().chain([&single, &other]) {
        client.unpublish(volume).await?;
    }
    site.end()?;

    let bytes = total as f64;
    let ready: Vec<f64> = calls.iter().map(|(_, took)| took.ready.as_secs_f64()).collect();
    let longest = ready.iter().copied().fold(0.0, f64::max);
    Ok(Round {
        single: bytes / of_single.ready.as_secs_f64(),
        fleet: bytes / fleet_took.as_secs_f64(),
        beside: 2.0 * bytes / both.as_secs_f64(),
        answered: calls.iter().map(|(_, took)| took.answered.as_secs_f64()).fold(0.0, f64::max),
        slowest: longest / median(ready),
        hydration: hydrated_beside.as_secs_f64() / hydrated_alone.as_secs_f64(),
    })
}

/// Makes a volume from a snapshot; returns its id.
async fn restore(client: &Client, name: &str, snapshot: &str, bytes: u64) -> anyhow::Result<String> {
    let capacity = i64::try_from(bytes + bytes / 8 + (64 << 20)).context("volumes are small")?;
    let mut request = volume(name, capacity, &mount("ext4"));
    request.volume_content_source = from_snapshot(snapshot);
    Ok(client.create(request).await?.volume_id)
}

/// What the repository grew by, and when: packs and runs, with the times at which they were written.
fn stored(repository: &Path) -> anyhow::Result<Vec<(Duration, u64)>> {
    let mut stored = Vec::new();
    for folder in ["packs", "runs"] {
        for entry in fs::read_dir(repository.join(folder)).context("listing the repository")? {
            let found = entry?.metadata()?;
            let at = found.modified()?.duration_since(std::time::UNIX_EPOCH)?;
            stored.push((at, found.len()));
        }
    }
    stored.sort_unstable();
    Ok(stored)
}

/// Twenty volumes at once under a limit.
async fn limited(arguments: &Arguments, size: Size, report: &mut Report) -> anyhow::Result<()> {
    let site = Site::new(arguments, &format!("{CONFIGURATION}upload_bandwidth = {LIMIT}\n")).await?;
    let fleet = site.fleet(size.limited / VOLUMES, 5000).await?;
    let names: Vec<_> = (0..VOLUMES).map(|number| format!("fleet-{number}-1")).collect();
    let calls = fleet.iter().zip(&names).map(|(volume, name)| snapshot(&site.client, &volume.id, name));
    join_all(calls).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let stored = stored(&site.scratch.path().join("repository"))?;
    for volume in &fleet {
        site.client.unpublish(volume).await?;
    }
    site.end()?;

    let (Some((began, first)), Some((ended, _))) = (stored.first(), stored.last()) else {
        anyhow::bail!("nothing was stored");
    };
    let total: u64 = stored.iter().map(|(_, bytes)| bytes).sum();
    // The first object had been paid for before it was there.
    let rate = (total - first) as f64 / (*ended - *began).as_secs_f64();
    let allowed = LIMIT as f64 * WINDOW.as_secs_f64();
    let within = |from: Duration| {
        let bytes: u64 =
            stored.iter().filter(|(at, _)| *at > from && *at <= from + WINDOW).map(|(_, bytes)| bytes).sum();
        bytes as f64 / allowed
    };
    let most = stored.iter().map(|(at, _)| within(*at)).fold(0.0, f64::max);
    let off = (rate / LIMIT as f64 - 1.0).abs();
    report.add(Figure::new("fleet.limited_rate", rate / f64::from(1 << 20), "MiB/s", Bound::Shown));
    report.add(Figure::new("fleet.bandwidth", off, "off", Bound::AtMost(0.05)));
    report.add(Figure::new("fleet.bandwidth_burst", most, "x", Bound::AtMost(1.05)));
    Ok(())
}
