//! What a snapshot of an idle volume costs, and the memory that one of a million extents takes.
//!
//! Volumes are mounted and hold one file, whose blocks were overwritten after a cut so that the image lies in a known number
//! of extents. Their snapshots are offloaded; the first is of everything, and those after it of a volume in which nothing
//! was written. They take turns:
//!
//! - a volume of 1 GiB and one of 1 TiB, with the same file: time must follow what is there, not what is provisioned;
//! - the one of 1 GiB, and another with eleven times its extents: the difference is the time of an extent.
//!
//! The time is that of CreateSnapshot until the snapshot is ready, cut and offload together.

use std::{path::Path, time::Instant};

use anyhow::{Context, ensure};
use varve_harness::{
    csi::{self, Published},
    driver::complaint,
};

use crate::{
    Arguments,
    bed::{Bed, extents},
    fio,
    limit::median,
    process,
    report::{Bound, Figure, Report},
};

/// The pool's image, which is sparse: no volume may be larger than its pool.
const POOL: &str = "1200GiB";
/// All volumes together are promised more than that.
const CONFIGURATION: &str = "overcommit = 100.0\n";

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    extents: u64,
    more_extents: u64,
    rounds: usize,
    /// Of the volume whose snapshots' memory is measured.
    most_extents: u64,
}

/// Figures of one kind of pool.
struct Names {
    pool: &'static str,
    took: &'static str,
    provisioned: &'static str,
    each: &'static str,
    uploaded: &'static str,
}

const XFS: Names = Names {
    pool: "xfs",
    took: "snapshot.xfs_idle",
    provisioned: "snapshot.xfs_1tib_of_1gib",
    each: "snapshot.xfs_each_extent",
    uploaded: "snapshot.xfs_idle_uploaded",
};
const BTRFS: Names = Names {
    pool: "btrfs",
    took: "snapshot.btrfs_idle",
    provisioned: "snapshot.btrfs_1tib_of_1gib",
    each: "snapshot.btrfs_each_extent",
    uploaded: "snapshot.btrfs_idle_uploaded",
};

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let size = if arguments.quick {
        Size { extents: 2_000, more_extents: 22_000, rounds: 5, most_extents: 50_000 }
    } else {
        Size { extents: 10_000, more_extents: 110_000, rounds: 9, most_extents: 1_000_000 }
    };
    for names in [XFS, BTRFS] {
        idle(&arguments.folder, &names, size, report).await.with_context(|| format!("a pool on {}", names.pool))?;
    }
    memory(&arguments.folder, size, report).await
}

async fn idle(folder: &Path, names: &Names, size: Size, report: &mut Report) -> anyhow::Result<()> {
    report.say(&format!("snapshot: volumes of {} and {} extents on {}", size.extents, size.more_extents, names.pool));
    let bed = Bed::start(folder, names.pool, POOL, CONFIGURATION).await?;
    let mut volumes = Vec::new();
    for (name, bytes, wanted) in
        [("small", 1 << 30, size.extents), ("large", 1 << 40, size.extents), ("fragmented", 1 << 30, size.more_extents)]
    {
        let volume = bed.volume(name, bytes, "ext4").await?;
        let found = bed.fragment(&volume, wanted).await?;
        report.say(&format!("snapshot: {name}: {found} extents"));
        // The first is of everything; what the file system still had to write is in the second.
        for first in ["full", "settled"] {
            bed.client.snapshot(&volume.id, &format!("{name}-{first}")).await;
        }
        volumes.push((name, volume, found, Vec::new()));
    }
    let mut most = 0;
    for round in 0..size.rounds {
        for (name, volume, _, took) in &mut volumes {
            let started = Instant::now();
            let snapshot = bed.client.snapshot(&volume.id, &format!("{name}-{round}")).await;
            took.push(started.elapsed().as_secs_f64());
            most = most.max(uploaded(&bed, &snapshot.snapshot_id)?);
        }
    }
    let [small, large, fragmented] = <[_; 3]>::try_from(volumes).ok().context("three volumes were measured")?;
    let (small_took, large_took, fragmented_took) =
        (median(small.3.clone()), median(large.3.clone()), median(fragmented.3.clone()));
    let each = (fragmented_took - small_took) / (fragmented.2.saturating_sub(small.2)) as f64;
    report.add(Figure::new(names.took, small_took * 1000.0, "ms", Bound::Shown));
    report.add(Figure::new(names.provisioned, large_took / small_took, "x", Bound::AtMost(1.3)));
    report.add(Figure::new(names.each, each * 1e6, "us", Bound::AtMost(5.0)));
    // Metadata: the run, the root, and the blocks with which a freeze marks the file system clean.
    report.add(Figure::new(names.uploaded, most as f64 / 1024.0, "KiB", Bound::AtMost(32.0)));
    for volume in [&small.1, &large.1, &fragmented.1] {
        bed.remove(volume).await?;
    }
    Ok(())
}

/// What a snapshot put into the repository, in bytes.
fn uploaded(bed: &Bed, snapshot: &str) -> anyhow::Result<u64> {
    let output = bed.driver().setup().varve(["snapshot", "show", snapshot, "--output", "json"]);
    ensure!(output.status.success(), "showing a snapshot: {}", complaint(&output));
    let root: serde_json::Value = serde_json::from_slice(&output.stdout).context("reading a snapshot's root")?;
    root["statistics"]["uploaded_bytes"].as_u64().context("a root has no statistics")
}

/// The memory of a driver that takes a full and an incremental snapshot of a volume of 1 TiB in many extents.
async fn memory(folder: &Path, size: Size, report: &mut Report) -> anyhow::Result<()> {
    report.say(&format!("snapshot: a volume of 1 TiB in {} extents", size.most_extents));
    let bed = Bed::start(folder, "xfs", POOL, CONFIGURATION).await?;
    let capability = csi::block();
    let volume = bed.client.create(csi::volume("most", 1 << 40, &capability)).await.context("making a volume")?;
    let volume = bed.client.publish(&volume.volume_id, &capability).await.context("publishing a volume")?;
    scatter(&volume, size.most_extents).await?;
    let found = extents(&bed.image(&volume))?;
    ensure!(found >= size.most_extents * 9 / 10, "the image has {found} extents");
    for name in ["full", "incremental"] {
        let started = Instant::now();
        bed.client.snapshot(&volume.id, name).await;
        report.say(&format!("snapshot: {name} of {found} extents in {:.1} s", started.elapsed().as_secs_f64()));
    }
    let peak = process::peak_memory_of(bed.driver().id().as_raw_nonzero().get().unsigned_abs())?;
    report.add(Figure::new("snapshot.peak_memory_extents", found as f64, "extents", Bound::Shown));
    let name = "snapshot.peak_memory_million_extents";
    report.add(Figure::new(name, peak as f64 / f64::from(1 << 20), "MiB", Bound::AtMost(128.0)));
    bed.remove(&volume).await
}

/// Writes every other block of a raw volume, from its begin on: each is an extent of its own. Several at a time.
async fn scatter(volume: &Published, count: u64) -> anyhow::Result<()> {
    let bytes = format!("size={}k", count * 8);
    let options = ["rw=write:4k", "bs=4k", "iodepth=32", "ioengine=libaio", "buffer_compress_percentage=90", &bytes];
    fio::run(&volume.target, &options).await.map(drop)
}
