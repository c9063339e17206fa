//! `varve demo`: the whole thing on real parts, with proof.
//!
//! A driver is started as a process of its own and spoken to as Kubernetes would: a volume is provisioned, filled with
//! real files, snapshotted, changed, snapshotted again while a writer writes. Then the driver is killed and its pool
//! destroyed. A second driver, which has an empty pool and the repository, restores both snapshots, and every file is
//! compared with what was recorded when its snapshot was made.
//!
//! # Cancellation
//!
//! However it ends, the driver is ended first (it thaws what it froze), then the work on files, and then everything that
//! stands on the temporary folder is undone and the folder removed. Interrupting it a second time changes nothing.

mod change;
mod driver;
mod fill;
mod kubelet;
mod play;
mod report;
mod tree;
mod writer;

use std::{fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use varve_scratch::Scratch;

use self::play::Play;
use crate::{
    arguments::{Demo, PoolFilesystem},
    failure::{Found, Usage},
    output::Output,
    signal::{self, Second},
};

/// Folders that fill the volume where none is named; the first that is there.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/lib", "/usr/share", "/usr"];

/// Runs the demo and prints what it found.
///
/// # Errors
/// `Usage` where it cannot be run as asked, `Found` where something restored differs, or what failed; nothing is left
/// behind in any case.
pub(crate) async fn run(arguments: Demo) -> anyhow::Result<()> {
    preflight(arguments.pool_filesystem)?;
    let output = arguments.answer.output;
    let interrupt = signal::watch(Second::Ignored)?;
    let scratch = Arc::new(Scratch::new("varve-demo-").context("making a temporary folder")?);
    let (source, narrator) = (source(arguments.data)?, Narrator(output));
    let mut demo =
        Play::new(arguments.pool_filesystem, source, arguments.limit.bytes(), narrator, Arc::clone(&scratch));
    let result = tokio::select! {
        () = interrupt.cancelled() => Err(anyhow::anyhow!("interrupted")),
        result = demo.play() => result,
    };
    let ended = demo.end(result.is_err() && !interrupt.is_cancelled()).await;
    let removed = spawn_blocking(move || scratch.remove()).await?.context("removing the temporary folder");
    let report = result?;
    ended?;
    removed?;

    output.print(&report, report::table)?;
    if report.identical {
        return Ok(());
    }
    for snapshot in report.snapshots.iter().filter(|snapshot| !snapshot.identical()) {
        eprintln!("{snapshot:#?}");
    }
    Err(Found("what was restored is not what was snapshotted".into()).into())
}

/// Says what is being done, where it does not disturb the answer.
#[derive(Clone, Copy, Debug)]
struct Narrator(Output);

impl Narrator {
    fn say(self, text: impl std::fmt::Display) {
        match self.0 {
            Output::Table => println!("{text}"),
            Output::Json => eprintln!("{text}"),
        }
    }
}

/// Fails where the work was told to end.
fn interrupted(stop: &CancellationToken) -> anyhow::Result<()> {
    if stop.is_cancelled() { bail!("interrupted") } else { Ok(()) }
}

/// Checks what the demo cannot do without, and says what to do about it.
fn preflight(filesystem: PoolFilesystem) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Usage("the demo mounts file systems: run it as root".into()).into());
    }
    let pool = match filesystem {
        PoolFilesystem::Xfs => ("mkfs.xfs", "xfsprogs"),
        PoolFilesystem::Btrfs => ("mkfs.btrfs", "btrfs-progs"),
    };
    let missing: Vec<_> = [pool, ("mkfs.ext4", "e2fsprogs"), ("losetup", "util-linux")]
        .into_iter()
        .filter(|(tool, _)| Command::new(tool).arg("-V").output().is_err())
        .collect();
    if let Some((tool, _)) = missing.first() {
        let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        bail!("{tool} is missing: `apt-get install -y {}`", packages.join(" "));
    }
    Ok(())
}

fn source(data: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match data {
        Some(folder) if folder.is_dir() => Ok(fs::canonicalize(folder)?),
        Some(folder) => Err(Usage(format!("--data {}: expected a folder", folder.display())).into()),
        None => SYSTEM_FOLDERS
            .iter()
            .map(PathBuf::from)
            .find(|folder| folder.is_dir())
            .context("no system folder is there to take files from: name one with --data"),
    }
}

/// A duration in milliseconds, to the microsecond.
fn in_millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
