//! How fast volumes are read and written, beside files of the pool that they lie on.
//!
//! Three files are measured with the same jobs, in turn, all written out before: one in a volume that the driver mounted;
//! one that lies in the pool itself; and one on the same file system on a bare loop device over such a file, put up by hand.
//! What is promised is the first beside the second; the last is what any driver that attaches images by loop devices could
//! do at best.
//!
//! After a snapshot a block's first overwrite goes to a new place. So does that of a plain file with a reflink: both are
//! overwritten at random, no block twice.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tokio::process::Command;
use varve_harness::driver::text;

use crate::{
    Arguments,
    bed::Bed,
    fio,
    limit::median,
    report::{Bound, Figure, Report},
};

/// A pool's file system, and a volume's.
const BEDS: [(&str, &str); 3] = [("xfs", "ext4"), ("btrfs", "ext4"), ("xfs", "xfs")];

/// The loads, by name, and as fio knows them.
const JOBS: [(&str, &[&str]); 7] = [
    ("random_read_1", &["rw=randread", "bs=4k", "iodepth=1"]),
    ("random_read_16", &["rw=randread", "bs=4k", "iodepth=16"]),
    ("random_write_1", &["rw=randwrite", "bs=4k", "iodepth=1"]),
    ("random_write_16", &["rw=randwrite", "bs=4k", "iodepth=16"]),
    ("sequential_read", &["rw=read", "bs=1m", "iodepth=4"]),
    ("sequential_write", &["rw=write", "bs=1m", "iodepth=4"]),
    ("fsync", &["rw=randwrite", "bs=4k", "iodepth=1", "fsync=1"]),
];

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    /// Of each file, in mebibytes.
    file: u64,
    /// First overwrites of a round, in mebibytes.
    overwritten: u64,
    seconds: f64,
    rounds: usize,
    beds: usize,
    /// Which of the three files.
    places: usize,
}

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let size = if arguments.quick {
        Size { file: 256, overwritten: 8, seconds: 0.3, rounds: 3, beds: 1, places: 2 }
    } else {
        Size { file: 1024, overwritten: 32, seconds: 2.0, rounds: 5, beds: 3, places: 3 }
    };
    for (pool, volume) in BEDS.into_iter().take(size.beds) {
        report.say(&format!("volume: {volume} on {pool}, files of {} MiB", size.file));
        on(&arguments.folder, pool, volume, size, report).await.with_context(|| format!("{volume} on {pool}"))?;
    }
    Ok(())
}

async fn on(folder: &Path, pool: &'static str, volume: &str, size: Size, report: &mut Report) -> anyhow::Result<()> {
    let bed = Bed::start(folder, pool, "16GiB", "").await?;
    let mounted = bed.volume("measured", (size.file << 20) * 3 / 2, volume).await?;
    let own = bed.pool().join("bench");
    fs::create_dir(&own).context("making a folder in the pool")?;
    if pool == "btrfs" {
        // As the driver's images are.
        run("chattr", ["+C", text(&own)]).await?;
    }
    let mut places = vec![mounted.path("file"), own.join("file")];
    if size.places > places.len() {
        places.push(bare(&bed, &own, volume, size).await?.join("file"));
    }
    let length = format!("size={}m", size.file);
    for place in &places {
        fio::run(place, &["rw=write", "bs=1m", "iodepth=4", "ioengine=libaio", "end_fsync=1", &length]).await?;
    }

    let runtime = format!("runtime={}ms", (size.seconds * 1000.0).round());
    for (name, options) in JOBS {
        let mut rates = vec![Vec::new(); places.len()];
        for round in 0..size.rounds {
            for turn in 0..places.len() {
                // Who comes first changes: a machine that gets slower hurts each alike.
                let which = (turn + round) % places.len();
                let fixed = ["ioengine=libaio", "time_based", &runtime, &length];
                let measured = fio::run(&places[which], &[options, &fixed].concat()).await?;
                rates[which].push(measured.rate);
            }
        }
        let rates: Vec<f64> = rates.into_iter().map(median).collect();
        let label = |suffix: &str| format!("volume.{pool}_{volume}.{name}{suffix}");
        report.say(&format!("volume: {name}: {:.0} requests/s of {:.0}", rates[0], rates[1]));
        report.add(Figure::new(label(""), rates[0] / rates[1], "x", Bound::AtLeast(0.95)));
        if let Some(bare) = rates.get(2) {
            report.add(Figure::new(label("_bare"), bare / rates[1], "x", Bound::Shown));
        }
    }

    let overwriting = format!("io_size={}m", size.overwritten);
    let overwrite = ["rw=randwrite", "bs=4k", "iodepth=16", "ioengine=libaio", &length, &overwriting];
    let (mut volumes, mut plain) = (Vec::new(), Vec::new());
    for round in 0..size.rounds {
        for turn in 0..2 {
            if (turn + round) % 2 == 0 {
                let cut = bed.cut(&mounted, &format!("cut-{round}")).await?;
                volumes.push(fio::run(&places[0], &overwrite).await?.rate);
                bed.client.delete_snapshot(&cut.snapshot_id).await.context("deleting a cut")?;
            } else {
                let clone = own.join("clone");
                run("cp", ["--reflink=always", text(&places[1]), text(&clone)]).await?;
                run("sync", ["--file-system", text(&clone)]).await?;
                plain.push(fio::run(&places[1], &overwrite).await?.rate);
                fs::remove_file(&clone).context("removing a reflink")?;
            }
        }
    }
    let ratio = median(volumes) / median(plain);
    let name = format!("volume.{pool}_{volume}.first_overwrite");
    report.add(Figure::new(name, ratio, "x", Bound::AtLeast(0.9)));
    bed.remove(&mounted).await
}

/// Mounts a file system as the volume has on a loop device over a file of the pool, as anybody can; it goes with the bed.
async fn bare(bed: &Bed, own: &Path, volume: &str, size: Size) -> anyhow::Result<PathBuf> {
    let (image, mount) = (own.join("image"), bed.folder().join("bare"));
    fs::File::create(&image)?.set_len((size.file << 20) * 3 / 2).context("sizing an image")?;
    fs::create_dir(&mount)?;
    let attached = run("losetup", ["--find", "--show", "--direct-io=on", "--sector-size=4096", text(&image)]).await?;
    let device = attached.trim();
    match volume {
        "ext4" => {
            run("mkfs.ext4", ["-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", device]).await?
        }
        _ => run("mkfs.xfs", ["-q", "-s", "size=4096", device]).await?,
    };
    run("mount", [device, text(&mount)]).await?;
    Ok(mount)
}

/// Runs a program of the system and returns what it wrote.
async fn run<const N: usize>(program: &str, arguments: [&str; N]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("starting {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
