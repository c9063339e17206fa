//! Round trips, requests and rates on a slow link to an S3 server.
//!
//! A volume that does not compress is offloaded and restored over a [link](crate::link) of 40 MiB/s whose answers are
//! 20 ms late and up to 100 ms more, and the rates are compared with the link's. Then a thousand of its blocks are written at
//! random and offloaded, which counts puts and bytes; and a hundred, again and again, which takes a few round trips. Last a
//! driver as a process takes snapshots over a link without jitter, where the round trips of the whole call are counted one by one.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::FileExt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;
use varve_harness::{
    S3, Scratch, Setup, Standalone,
    csi::{Client, mount, volume},
};
use varve_repository::{
    Repository,
    block::{BlockTarget, Blocks},
    offload::Against,
    progress::Progress,
    record::snapshot::Root,
    store::Store,
};

use crate::{
    Arguments, estate,
    limit::median,
    link::{Link, Shape},
    report::{Bound, Figure, Report},
    rewritten::{Volume, written},
};

/// The link that is promised for.
const SLOW: Shape = Shape { latency: Duration::from_millis(20), jitter: Duration::from_millis(100), rate: 40 << 20 };

/// A link on which requests that wait for one another can be told from those that do not.
const STEADY: Shape = Shape { latency: Duration::from_millis(100), jitter: Duration::ZERO, rate: 1 << 30 };

/// Blocks that are written at random for what is counted in bytes.
const MANY_WRITES: u64 = 1000;

/// Blocks that are written at random for what is counted in round trips.
const FEW_WRITES: u64 = 100;

/// What a small snapshot may upload beside its blocks, in bytes.
const ALLOWANCE: f64 = 65_536.0;

/// A restore's target that keeps nothing: what is measured is the link.
#[derive(Debug)]
struct Nowhere;

impl BlockTarget for Nowhere {
    fn write(&self, _: Blocks, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let scratch = Scratch::within(&arguments.folder, "varve-bench-link-").context("making a folder for a server")?;
    let server = S3::start(&scratch.path().join("s3"));
    let link = Link::open(server.address(), SLOW).await?;
    let (bytes, rounds, small_rounds) = if arguments.quick { (192 << 20, 1, 5) } else { (384 << 20, 5, 9) };
    let (mut offloads, mut restores) = (Vec::new(), Vec::new());
    let mut last = None;
    for round in 1..=rounds {
        report.say(&format!(
            "link: {} MiB there and back at {} MiB/s, {round} of {rounds}",
            bytes >> 20,
            SLOW.rate >> 20
        ));
        let store = Store::open(&server.repository(&format!("rates-{round}")), &server.environment_at(link.address()))?;
        let repository = estate::init(store).await?;
        let mut volume = Volume::new(bytes);
        let (root, took) = offload(&repository, &mut volume, "snapshot-0", Against::Nothing).await?;
        offloads.push(root.statistics.uploaded_bytes as f64 / took.as_secs_f64() / SLOW.rate as f64);
        let started = Instant::now();
        let progress = Progress::default();
        repository
            .hydrate(&root, Arc::new(Nowhere), progress.clone(), CancellationToken::new())
            .await
            .context("restoring over the link")?;
        restores.push(progress.read().moved as f64 / started.elapsed().as_secs_f64() / SLOW.rate as f64);
        last = Some((repository, volume, root));
    }
    report.add(Figure::new("link.offload_of_rate", median(offloads), "x", Bound::AtLeast(0.8)));
    report.add(Figure::new("link.restore_of_rate", median(restores), "x", Bound::AtLeast(0.8)));
    let (repository, mut volume, root) = last.context("there is at least one round")?;
    small(report, &link, &repository, &mut volume, &root, small_rounds).await?;
    call(report, &link, &server, scratch).await
}

/// Measures small snapshots of a large volume.
async fn small(
    report: &mut Report,
    link: &Link,
    repository: &Repository,
    volume: &mut Volume,
    root: &Root,
    rounds: usize,
) -> anyhow::Result<()> {
    report.say(&format!("link: snapshots of {MANY_WRITES} and of {FEW_WRITES} random writes"));
    let mut base = root.description.id;
    volume.write(MANY_WRITES, 0..volume.blocks());
    let compressed = volume.compressed()?;
    let before = repository.store().requests();
    let (many, _) = offload(repository, volume, "many", Against::Base(base)).await?;
    let asked = repository.store().requests() - before;
    base = many.description.id;
    let upload = (asked.written_bytes as f64 - ALLOWANCE) / compressed as f64;
    report.add(Figure::new("link.small_writes", asked.put as f64, "requests", Bound::AtMost(4.0)));
    report.add(Figure::new("link.small_reads", asked.get as f64, "requests", Bound::Shown));
    report.add(Figure::new("link.small_upload", upload, "x", Bound::AtMost(1.15)));

    let mut times = Vec::new();
    for round in 0..rounds {
        volume.write(FEW_WRITES, 0..volume.blocks());
        let (small, took) = offload(repository, volume, &format!("few-{round}"), Against::Base(base)).await?;
        base = small.description.id;
        times.push(took.as_secs_f64() / SLOW.mean().as_secs_f64());
    }
    report.add(Figure::new("link.small_time", median(times), "round trips", Bound::Shown));
    link.reshape(STEADY);
    volume.write(FEW_WRITES, 0..volume.blocks());
    link.restart();
    offload(repository, volume, "steady", Against::Base(base)).await?;
    let traffic = link.traffic();
    report.add(Figure::new("link.small_depth", traffic.round_trips as f64, "round trips", Bound::AtMost(6.0)));
    Ok(())
}

/// Counts what a driver's whole call takes, from CreateSnapshot to "ready".
async fn call(report: &mut Report, link: &Link, server: &S3, scratch: Scratch) -> anyhow::Result<()> {
    report.say("link: snapshots through a driver");
    link.reshape(STEADY);
    let setup = Setup {
        repository: server.repository("driver"),
        environment: server.environment_at(link.address()),
        configuration: "snapshot_wait_ms = 10000\n".into(),
        ..Setup::new(scratch.path())
    };
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let capability = mount("ext4");
    let made = client.create(volume("small", 256 << 20, &capability)).await.context("making a volume")?;
    let published = client.publish(&made.volume_id, &capability).await.context("publishing a volume")?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(published.path("state"));
    let file = file.context("making a file")?;
    let write = |from: u64, count: u64| {
        (from..from + count)
            .try_for_each(|writing| file.write_all_at(&written(writing), writing * 4096 % (64 << 20)))?;
        file.sync_all()
    };
    write(0, 4096).context("filling a file")?;
    client.snapshot(&published.id, "first").await;
    let (mut depths, mut requests, mut connections) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..5 {
        write(4096 * (round + 1), FEW_WRITES).context("writing to a file")?;
        link.restart();
        let snapshot = client.cut(&published.id, &format!("snapshot-{round}")).await.context("taking a snapshot")?;
        ensure!(snapshot.ready_to_use, "the call waits for its offload");
        let traffic = link.traffic();
        depths.push(traffic.round_trips as f64);
        requests.push(traffic.requests as f64);
        connections.push(traffic.connections as f64);
    }
    report.add(Figure::new("link.call_round_trips", median(depths), "round trips", Bound::AtMost(6.0)));
    report.add(Figure::new("link.call_requests", median(requests), "requests", Bound::Shown));
    report.add(Figure::new("link.call_connections", median(connections), "connections", Bound::Shown));
    // Open, it would keep the volume in use.
    drop(file);
    client.unpublish(&published).await.context("unpublishing a volume")?;
    driver.terminate();
    Ok(())
}

/// Offloads what a volume is now; returns the root and how long it took until that stood.
async fn offload(
    repository: &Repository,
    volume: &mut Volume,
    name: &str,
    against: Against,
) -> anyhow::Result<(Root, Duration)> {
    let request = estate::request(repository, "volume", name, volume.cut(), against);
    let started = Instant::now();
    let (root, leftover) = repository.offload_to_commit(request).await.context("offloading over the link")?;
    let took = started.elapsed();
    leftover.clear().await;
    Ok((root, took))
}
