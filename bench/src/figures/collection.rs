//! What collecting garbage asks of the store, and of memory.
//!
//! A repository of many snapshots over many volumes loses most of them, and is then collected from a local folder by
//! a process of its own. Its requests are counted as the large providers charge for them, and told apart by what they
//! are for: finding out what lives reads every root and run that is left, however little garbage there is; getting rid
//! of a pack takes its share of a deletion, or of a copy.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use varve_repository::{
    collect::{Kind, Options},
    progress::Progress,
    store::Store,
};

use crate::{
    Arguments,
    estate::{self, Size},
    observed::Observed,
    process::{self, Measurement},
    report::{Bound, Figure, Report},
};

/// Newest snapshots of each volume that stay.
const KEPT: usize = 10;

/// What a collection took, and what for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    deleted_packs: u64,
    repacked_packs: u64,
    /// Requests but listings that finding out took.
    finding: u64,
    /// Requests but listings that deleting and repacking took.
    sweeping: u64,
    listings: u64,
    seconds: f64,
    peak_memory: u64,
}

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let size = Size { volumes: if arguments.quick { 40 } else { 200 }, snapshots: 50 };
    report.say(&format!("collection: making {} snapshots of {} volumes", size.volumes * size.snapshots, size.volumes));
    let made = Arc::new(Observed::new(Duration::ZERO));
    let repository = estate::init(made.store()).await?;
    let snapshots = estate::fill(&repository, size).await?;
    let deleted = estate::thin_out(&repository, &snapshots, KEPT).await?;
    let folder = tempfile::tempdir_in(&arguments.folder).context("making a folder for a repository")?;
    made.write_to(folder.path()).await?;
    drop((repository, made));

    report.say(&format!("collection: collecting what {deleted} deleted snapshots left"));
    let taken: Taken = process::ask(Measurement::Collection, folder.path()).await?;
    let packs = taken.deleted_packs + taken.repacked_packs;
    let a_pack = |requests: u64| requests as f64 / packs as f64;
    let memory = taken.peak_memory as f64 / f64::from(1 << 20);
    report.add(Figure::new("collection.deleted_packs", taken.deleted_packs as f64, "packs", Bound::Shown));
    report.add(Figure::new("collection.repacked_packs", taken.repacked_packs as f64, "packs", Bound::Shown));
    report.add(Figure::new("collection.seconds", taken.seconds, "s", Bound::Shown));
    report.add(Figure::new("collection.listings", taken.listings as f64, "requests", Bound::Shown));
    report.add(Figure::new("collection.finding", a_pack(taken.finding), "requests/pack", Bound::Shown));
    report.add(Figure::new("collection.sweeping", a_pack(taken.sweeping), "requests/pack", Bound::AtMost(2.0)));
    let total = a_pack(taken.finding + taken.sweeping);
    report.add(Figure::new("collection.total", total, "requests/pack", Bound::AtMost(2.0)));
    report.add(Figure::new("collection.peak_memory", memory, "MiB", Bound::AtMost(256.0)));
    Ok(())
}

/// Collects the repository in a folder.
pub(crate) async fn collect(folder: &Path) -> anyhow::Result<Taken> {
    let repository = estate::open(Store::open(&format!("file://{}", folder.display()), &[])?).await?;
    let started = Instant::now();
    let collected = repository
        .collect(&Options::default(), Progress::default(), CancellationToken::new())
        .await
        .context("collecting")?;
    let seconds = started.elapsed().as_secs_f64();
    let peak_memory = process::peak_memory()?;
    ensure!(collected.plan.unreadable.is_empty() && !collected.plan.unsettled, "all could be told: {collected:?}");
    // What is repacked is deleted too, once: it counts as repacked.
    let deleted = collected.deleted.iter().filter(|garbage| garbage.kind == Kind::Pack);
    let (all, finding) = (collected.cost, collected.plan.cost);
    Ok(Taken {
        deleted_packs: deleted.map(|garbage| garbage.amount.objects).sum(),
        repacked_packs: collected.repacked.packs,
        finding: finding.total() - finding.list,
        sweeping: (all - finding).total() - (all - finding).list,
        listings: all.list,
        seconds,
        peak_memory,
    })
}
