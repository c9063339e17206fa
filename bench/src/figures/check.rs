//! How fast `repository check` verifies every byte, beside what the machine could do at best.
//!
//! One volume of mixed content is offloaded into a local folder. Checks of it and [limits](crate::limit) take turns, and
//! the medians are compared. Both are of plain bytes a second.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;
use varve_repository::{check::Level, offload::Against, progress::Progress, store::Store};

use crate::{
    Arguments, estate,
    image::{Mixed, WINDOW_BYTES},
    limit::{Sealed, median},
    report::{Bound, Figure, Report},
};

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (bytes, rounds): (u64, usize) = if arguments.quick { (256 << 20, 3) } else { (2 << 30, 5) };
    let image = Mixed { seed: 1, windows: bytes / WINDOW_BYTES as u64 };
    report.say(&format!("check: offloading {} MiB of mixed content", bytes >> 20));
    let folder = tempfile::tempdir_in(&arguments.folder).context("making a folder for a repository")?;
    let url = format!("file://{}/repository", folder.path().display());
    let repository = estate::init(Store::open(&url, &[])?).await?;
    let request = estate::request(&repository, "volume", "snapshot", Arc::new(image), Against::Nothing);
    let root = repository.offload(request).await.context("offloading")?;
    ensure!(root.statistics.stored_bytes == image.bytes(), "every chunk is different from every other");

    let sealed = tokio::task::spawn_blocking(move || Sealed::of(image)).await.context("preparing the limit")??;
    let sealed = Arc::new(sealed);
    let (mut checks, mut limits) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        report.say(&format!("check: round {round} of {rounds}"));
        let started = Instant::now();
        let checked = repository.check(Level::Content, Progress::default(), CancellationToken::new()).await?;
        checks.push(image.bytes() as f64 / started.elapsed().as_secs_f64());
        ensure!(
            checked.damages.is_empty() && checked.chunks == image.windows,
            "the check finds all whole: {checked:?}"
        );
        let sealed = Arc::clone(&sealed);
        let took = tokio::task::spawn_blocking(move || sealed.open(image.bytes())).await.context("the limit")??;
        limits.push(image.bytes() as f64 / took.as_secs_f64());
    }
    let (check, limit) = (median(checks), median(limits));
    report.add(Figure::new("check.rate", check / f64::from(1 << 20), "MiB/s", Bound::Shown));
    report.add(Figure::new("check.limit", limit / f64::from(1 << 20), "MiB/s", Bound::Shown));
    report.add(Figure::new("check.of_limit", check / limit, "x", Bound::AtLeast(0.6)));
    Ok(())
}
