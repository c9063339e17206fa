//! How fast all snapshots are listed, what that asks of the store, and what statistics ask.
//!
//! Cold, reads take a few milliseconds each, so that all that may be under way at once are. Warm, the roots are in memory
//! and the store is a local folder, which is listed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use varve_repository::store::Store;

use crate::{
    Arguments,
    estate::{self, Size},
    limit::median,
    observed::Observed,
    report::{Bound, Figure, Report},
};

/// How long a read takes where it is counted how many run at once.
const LATENCY: Duration = Duration::from_millis(2);

/// How often the warm listing is timed.
const ROUNDS: usize = 5;

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let size = Size { volumes: 200, snapshots: if arguments.quick { 10 } else { 50 } };
    let snapshots = size.volumes * size.snapshots;
    report.say(&format!("listing: making {snapshots} snapshots of {} volumes", size.volumes));
    let made = Arc::new(Observed::new(Duration::ZERO));
    estate::fill(&estate::init(made.store()).await?, size).await?;
    let folder = tempfile::tempdir_in(&arguments.folder).context("making a folder for a repository")?;
    made.write_to(folder.path()).await?;

    report.say("listing: cold, warm, and statistics");
    let slow = Arc::new(Observed::copy_of(&made, LATENCY).await?);
    let cold = estate::open(slow.store()).await?;
    slow.forget();
    ensure!(cold.snapshots().await?.len() as u64 == snapshots, "all are listed");
    let (at_once, reads) = (slow.most_at_once(), slow.reads("snapshots"));
    let fresh = estate::open(slow.store()).await?;
    slow.forget();
    let stats = fresh.stats().await?;
    ensure!(stats.snapshots == snapshots && stats.packs > 0, "all are counted: {stats:?}");
    let opened = slow.reads("packs") + slow.reads("runs");

    let local = estate::open(Store::open(&format!("file://{}", folder.path().display()), &[])?).await?;
    let started = Instant::now();
    ensure!(local.snapshots().await?.len() as u64 == snapshots, "all are listed");
    let first = started.elapsed().as_secs_f64();
    let mut warm = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        ensure!(local.snapshots().await?.len() as u64 == snapshots, "all are listed");
        warm.push(started.elapsed().as_secs_f64());
    }
    report.add(Figure::new("listing.snapshots", snapshots as f64, "snapshots", Bound::Shown));
    report.add(Figure::new("listing.first", first, "s", Bound::Shown));
    report.add(Figure::new("listing.warm", median(warm), "s", Bound::AtMost(1.0)));
    report.add(Figure::new("listing.cold_at_once", at_once as f64, "requests", Bound::AtMost(64.0)));
    report.add(Figure::new(
        "listing.cold_reads",
        reads as f64 / snapshots as f64,
        "reads/snapshot",
        Bound::AtMost(1.0),
    ));
    report.add(Figure::new("stats.packs_and_runs_read", opened as f64, "reads", Bound::AtMost(0.0)));
    Ok(())
}
