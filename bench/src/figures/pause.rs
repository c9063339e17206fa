//! How long a snapshot holds a volume's writer, with an image in 100,000 extents.
//!
//! fio writes 4 KiB at random into a mounted volume, one write at a time and past the page cache, so that the longest
//! write is the writer's longest stall: whatever holds it, a freeze or a clone that locks the image, shows in it. Runs
//! during which snapshots are made take turns with runs without, and the medians of their longest stalls are compared. The
//! frozen time is the driver's own account of each snapshot.
//!
//! Snapshots are kept on the node: what an offload takes beside is another figure's matter.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::time::sleep;
use varve_harness::csi::Published;

use crate::{
    Arguments,
    bed::Bed,
    fio,
    limit::median,
    report::{Bound, Figure, Report},
};

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    extents: u64,
    /// Runs with snapshots, and as many without.
    runs: usize,
    /// Snapshots in a run.
    snapshots: usize,
    seconds: u64,
}

/// Figures of one kind of pool.
struct Names {
    pool: &'static str,
    extents: &'static str,
    stall: &'static str,
    without: &'static str,
    frozen: &'static str,
    median: &'static str,
    snapshot: &'static str,
    flush: &'static str,
    flush_median: &'static str,
}

const XFS: Names = Names {
    pool: "xfs",
    extents: "pause.xfs_extents",
    stall: "pause.xfs_stall",
    without: "pause.xfs_stall_without",
    frozen: "pause.xfs_frozen_p99",
    median: "pause.xfs_frozen_median",
    snapshot: "pause.xfs_snapshot",
    flush: "pause.xfs_flush_p99",
    flush_median: "pause.xfs_flush_median",
};
const BTRFS: Names = Names {
    pool: "btrfs",
    extents: "pause.btrfs_extents",
    stall: "pause.btrfs_stall",
    without: "pause.btrfs_stall_without",
    frozen: "pause.btrfs_frozen_p99",
    median: "pause.btrfs_frozen_median",
    snapshot: "pause.btrfs_snapshot",
    flush: "pause.btrfs_flush_p99",
    flush_median: "pause.btrfs_flush_median",
};

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let size = if arguments.quick {
        Size { extents: 20_000, runs: 3, snapshots: 2, seconds: 2 }
    } else {
        Size { extents: 100_000, runs: 5, snapshots: 6, seconds: 8 }
    };
    for names in [XFS, BTRFS] {
        on(&arguments.folder, &names, size, report).await.with_context(|| format!("a pool on {}", names.pool))?;
    }
    Ok(())
}

async fn on(folder: &Path, names: &Names, size: Size, report: &mut Report) -> anyhow::Result<()> {
    let bed = Bed::start(folder, names.pool, "16GiB", "").await?;
    let mebibytes = (size.extents * 4096) >> 20;
    report.say(&format!("pause: a file of {mebibytes} MiB on {}, in {} extents", names.pool, size.extents));
    let volume = bed.volume("measured", (mebibytes + 300) << 20, "ext4").await?;
    let file = volume.path("file");
    let length = format!("size={mebibytes}m");
    let found = bed.fragment(&volume, size.extents).await?;
    report.add(Figure::new(names.extents, found as f64, "extents", Bound::Shown));

    let (mut during, mut without) = (Vec::new(), Vec::new());
    let (mut frozen, mut took, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
    let runtime = format!("runtime={}", size.seconds);
    let writing = ["rw=randwrite", "bs=4k", "iodepth=1", "ioengine=psync", "time_based", &runtime, &length];
    for run in 0..size.runs {
        report.say(&format!("pause: run {} of {}", run + 1, size.runs));
        without.push(fio::run(&file, &writing).await?.longest);
        let (measured, made) = tokio::join!(fio::run(&file, &writing), cuts(&bed, &volume, run, size));
        during.push(measured?.longest);
        for cut in made? {
            frozen.push(cut.pause);
            took.push(cut.seconds);
            flushes.push(cut.flush);
        }
    }
    let millis = |seconds: f64| seconds * 1000.0;
    let (during, without) = (millis(median(during)), millis(median(without)));
    report.add(Figure::new(names.without, without, "ms", Bound::Shown));
    report.add(Figure::new(names.stall, during - without, "ms", Bound::AtMost(50.0)));
    report.add(Figure::new(names.frozen, millis(percentile(&mut frozen, 99)), "ms", Bound::AtMost(20.0)));
    report.add(Figure::new(names.median, millis(median(frozen)), "ms", Bound::Shown));
    report.add(Figure::new(names.snapshot, millis(median(took)), "ms", Bound::Shown));
    report.add(Figure::new(names.flush, millis(percentile(&mut flushes, 99)), "ms", Bound::Shown));
    report.add(Figure::new(names.flush_median, millis(median(flushes)), "ms", Bound::Shown));
    bed.remove(&volume).await
}

/// What one snapshot took, in seconds.
struct Cut {
    /// While writers were held.
    pause: f64,
    /// Of its call.
    seconds: f64,
    /// Of writing and syncing one block in the pool shortly before: no freeze takes less than one of these.
    flush: f64,
}

/// Makes snapshots, spread over a run.
async fn cuts(bed: &Bed, volume: &Published, run: usize, size: Size) -> anyhow::Result<Vec<Cut>> {
    let between = Duration::from_secs(size.seconds) / u32::try_from(size.snapshots + 1)?;
    let mut measured = Vec::new();
    for number in 0..size.snapshots {
        sleep(between / 2).await;
        let beside = bed.pool().join("flushed");
        let flush =
            tokio::task::spawn_blocking(move || flush(&beside)).await?.context("flushing a file of the pool")?;
        let started = Instant::now();
        let cut = bed.cut(volume, &format!("cut-{run}-{number}")).await?;
        let seconds = started.elapsed().as_secs_f64();
        measured.push(Cut { pause: bed.pause(&cut.snapshot_id)?, seconds, flush });
        sleep(between / 2).await;
        bed.client.delete_snapshot(&cut.snapshot_id).await.context("deleting a cut")?;
    }
    Ok(measured)
}

/// Writes a block into a file and syncs it; tells how long that took, in seconds.
fn flush(path: &Path) -> std::io::Result<f64> {
    let file = File::create(path)?;
    let started = Instant::now();
    file.write_all_at(&[1; 4096], 0)?;
    file.sync_all()?;
    Ok(started.elapsed().as_secs_f64())
}

/// The value that so many of a hundred do not exceed.
fn percentile(values: &mut [f64], hundredths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * hundredths).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert!((percentile(&mut values, 99) - 198.0).abs() < 1e-9);
        assert!((percentile(&mut values[..30], 99) - 30.0).abs() < 1e-9);
        assert!(percentile(&mut [], 99).is_nan());
    }
}
