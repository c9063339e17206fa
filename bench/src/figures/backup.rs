//! Full backup and restore of a volume: the driver beside restic, kopia and what the machine could do at best.
//!
//! A volume made by the driver, an ext4 on its pool, is filled with files of mixed content. Then, in turns whose order
//! changes from round to round, each backs it up into an empty repository in a local folder and restores it into an
//! empty volume of the same kind:
//!
//! - the driver by CreateSnapshot until the snapshot is ready; by CreateVolume from it, on a driver that has another,
//!   empty pool, until it is mounted;
//! - a rival from the mounted folder; into one.
//!
//! All read from a cold page cache, and are done once what they wrote is on the disk. What was restored first is
//! compared with what there was.

use std::{
    fs::{self, File},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use varve_harness::Scratch;

use super::contest::{self, Contest};
use crate::{
    Arguments,
    disk::{self, blocking},
    image::{Mixed, WINDOW_BYTES},
    limit::{Packed, Plain, median},
    report::{Bound, Figure, Report},
    rivals::{self, run::Taken},
    subject::{Place, Subject},
    tree,
};

/// What the files are made from.
const SEED: u64 = 11;

/// The most memory that the driver may have resident, in MiB.
const MEMORY: f64 = 128.0;

/// How much is measured.
struct Size {
    bytes: u64,
    capacity: u64,
    pool: &'static str,
    rounds: usize,
}

const FULL: Size = Size { bytes: 8 << 30, capacity: 10 << 30, pool: "24GiB", rounds: 5 };
const QUICK: Size = Size { bytes: 512 << 20, capacity: 768 << 20, pool: "3GiB", rounds: 3 };

/// What everybody backs up and restores.
struct Ground<'a> {
    scratch: &'a Scratch,
    place: Place,
    source: Subject,
    bytes: u64,
    /// Of the files.
    digest: blake3::Hash,
    plain: Arc<Plain>,
    packed: Arc<Packed>,
}

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let size = if arguments.quick { QUICK } else { FULL };
    disk::ensure_room(&arguments.folder, 13 * size.bytes / 4)?;
    let scratch = Scratch::within(&arguments.folder, "backup-").context("making a folder")?;
    report.say(&format!("backup: filling a volume with {} MiB", size.bytes >> 20));
    let ground = Ground::prepare(&scratch, &size).await?;

    let mut contest = Contest::default();
    let mut moved = Vec::new();
    for round in 0..size.rounds {
        for turn in contest::order(round) {
            report.say(&format!("backup: round {} of {}: {turn}", round + 1, size.rounds));
            let (backup, restore) = match turn {
                contest::LIMIT => {
                    let (backup, restore, disk) = ground.limit().await?;
                    moved.push(disk.as_secs_f64());
                    (backup, restore)
                }
                contest::VARVE => ground.varve(round, report).await?,
                rival => ground.rival(rival, round, report).await?,
            };
            contest.add("backup", turn, backup);
            contest.add("restore", turn, restore);
        }
    }
    let bytes = ground.bytes;
    ground.source.end().await?;
    add(report, &contest, bytes);
    let disk = median(moved.clone());
    report.measured("restore.disk", "s", moved);
    let of_disk = disk / contest.wall("restore", contest::VARVE);
    report.add(Figure::new("restore.of_disk", of_disk, "x", Bound::Shown));
    Ok(())
}

impl<'a> Ground<'a> {
    async fn prepare(scratch: &'a Scratch, size: &Size) -> anyhow::Result<Self> {
        let place = Place { folder: scratch.path().join("varve"), pool: size.pool, capacity: size.capacity };
        fs::create_dir_all(&place.folder).context("making a folder")?;
        let mut source = place.start("source").await?;
        source.make("volume").await?;
        let (folder, bytes) = (source.mounted()?.to_owned(), size.bytes);
        let (bytes, digest) = blocking(move || {
            let bytes = tree::fill(&folder, SEED, bytes)?;
            Ok((bytes, tree::digest(&folder)?))
        })
        .await?;
        disk::settle_filesystem(source.mounted()?).await?;

        let image = Mixed { seed: SEED, windows: bytes / WINDOW_BYTES as u64 };
        let file = scratch.path().join("packed");
        let (plain, packed) = blocking(move || Ok((Plain::of(image)?, Packed::of(image, &file)?))).await?;
        Ok(Self { scratch, place, source, bytes, digest, plain: Arc::new(plain), packed: Arc::new(packed) })
    }

    /// The work that cannot be saved, on all cores: on the way there from memory and into nothing, on the way back from
    /// a file into an image on a pool; and what the disk alone takes for the latter.
    async fn limit(&self) -> anyhow::Result<(Taken, Taken, Duration)> {
        let alone = |wall| Taken { wall, ..Taken::default() };
        disk::cool().await?;
        let (plain, bytes) = (Arc::clone(&self.plain), self.bytes);
        let sealed = blocking(move || plain.seal(bytes)).await?;

        let target = self.place.start("limit").await?;
        let image = target.pool().join("limit.image");
        let fill = async |fill: fn(&Packed, &Path) -> anyhow::Result<Duration>| {
            disk::cool().await?;
            let (packed, image, bytes) = (Arc::clone(&self.packed), image.clone(), self.bytes);
            blocking(move || {
                File::create_new(&image).and_then(|file| file.set_len(bytes)).context("making an image")?;
                let took = fill(&packed, &image)?;
                fs::remove_file(&image).context("removing what the limit restored")?;
                Ok(took)
            })
            .await
        };
        let (restored, moved) = (fill(Packed::restore).await?, fill(Packed::only_move).await?);
        target.end().await?;
        Ok((alone(sealed), alone(restored), moved))
    }

    async fn varve(&self, round: usize, report: &mut Report) -> anyhow::Result<(Taken, Taken)> {
        disk::cool().await?;
        let (snapshot, backup) = self.source.back_up(&format!("round-{round}")).await?;
        let root = self.source.root(&snapshot).await?;
        let statistics = root.statistics;
        ensure!(
            root.base.is_none() && statistics.stored_bytes >= self.bytes && statistics.deduplicated_bytes == 0,
            "everything was backed up: {statistics:?}"
        );
        if round == 0 {
            self.stored(contest::VARVE, &self.place.repository(), report)?;
        }
        let mut target = self.place.start("target").await?;
        disk::cool().await?;
        let restore = target.restore(&format!("restored-{round}"), &snapshot).await?;
        if round == 0 {
            self.compare(contest::VARVE, target.mounted()?).await?;
        }
        target.end().await?;
        self.source.forget(&snapshot).await?;
        Ok((backup, restore))
    }

    async fn rival(&self, name: &str, round: usize, report: &mut Report) -> anyhow::Result<(Taken, Taken)> {
        let folder = self.scratch.path().join("rival");
        fs::create_dir_all(&folder).context("making a folder")?;
        let rival = rivals::named(name, &folder)?;
        rival.init().await?;
        disk::cool().await?;
        let backup = rivals::back_up(&*rival, self.source.mounted()?).await?;
        if round == 0 {
            self.stored(rival.name(), &rival.repository(), report)?;
        }
        let mut target = self.place.start("target").await?;
        target.make(&format!("empty-{name}-{round}")).await?;
        disk::cool().await?;
        let restore = rivals::restore(&*rival, self.source.mounted()?, target.mounted()?).await?;
        if round == 0 {
            self.compare(rival.name(), target.mounted()?).await?;
        }
        target.end().await?;
        blocking(move || fs::remove_dir_all(folder).context("removing a rival's repository")).await?;
        Ok((backup, restore))
    }

    fn stored(&self, name: &str, repository: &Path, report: &mut Report) -> anyhow::Result<()> {
        let ratio = disk::bytes(repository)? as f64 / self.bytes as f64;
        report.add(Figure::new(format!("backup.stored_{name}"), ratio, "x", Bound::Shown));
        Ok(())
    }

    async fn compare(&self, name: &str, restored: &Path) -> anyhow::Result<()> {
        let restored = restored.to_owned();
        let digest = blocking(move || tree::digest(&restored)).await?;
        ensure!(digest == self.digest, "what {name} restored differs from what there was");
        Ok(())
    }
}

fn add(report: &mut Report, contest: &Contest, bytes: u64) {
    for (phase, of_limit, of_restic, of_kopia) in [("backup", 0.7, 5.0, 3.0), ("restore", 0.7, 4.0, 3.0)] {
        contest.show(report, phase, "s", |taken| taken.wall.as_secs_f64());
        for (rival, least) in [(contest::LIMIT, of_limit), ("restic", of_restic), ("kopia", of_kopia)] {
            let ratio = contest.wall(phase, rival) / contest.wall(phase, contest::VARVE);
            report.add(Figure::new(format!("{phase}.of_{rival}"), ratio, "x", Bound::AtLeast(least)));
        }
    }
    let gibibytes = bytes as f64 / f64::from(1 << 30);
    for phase in ["backup", "restore"] {
        let name = format!("{phase}.cpu");
        let seconds = |taken: &Taken| taken.cpu.as_secs_f64() / gibibytes;
        contest.show_as(report, phase, &name, "s/GiB", seconds);
        for rival in rivals::NAMES {
            let ratio = contest.median(phase, contest::VARVE, seconds) / contest.median(phase, rival, seconds);
            report.add(Figure::new(format!("{name}_of_{rival}"), ratio, "x", Bound::AtMost(1.0)));
        }
    }
    for (phase, name) in [("backup", "memory.full"), ("restore", "memory.restore")] {
        contest.show_peaks(report, phase, name, MEMORY);
    }
}
