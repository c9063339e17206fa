//! `varve repository copy`.

mod second;

use std::{collections::BTreeSet, io, io::Write as _, path::PathBuf, time::Duration};

use clap::Args;
use comfy_table::Table;
use serde::Serialize;
use varve_repository::{
    Error,
    copy::{Copier, Options, Outcome, Report, SnapshotReport},
    progress::Progress,
    record::snapshot::Method,
};

use crate::{
    arguments::{Answer, RepositoryAccess},
    command::id,
    failure::Found,
    output::{Output, properties},
    progress,
    quantity::{Size, bytes},
    repository,
    signal::{self, Second},
};

/// Copy snapshots into another repository, with another key if wanted.
///
/// The second repository is one of its own: nothing in it is of use to whoever has the key of the first alone. What is in
/// it already is not copied again, and what was deleted in it stays deleted.
#[derive(Args, Debug)]
pub(crate) struct Copy {
    /// The repository to copy to, as in s3://bucket/prefix.
    #[arg(long, value_name = "URL", env = "VARVE_TO_REPOSITORY")]
    to: Option<String>,

    /// File with its master key. Without it the environment (VARVE_TO_MASTER_KEY_FILE, VARVE_TO_MASTER_KEY) is asked,
    /// then the configuration file.
    #[arg(long, value_name = "FILE")]
    to_key_file: Option<PathBuf>,

    /// Make the repository to copy to, where there is none yet.
    #[arg(long)]
    init: bool,

    /// Copy only this snapshot; may be given several times.
    #[arg(long, value_name = "ID")]
    snapshot: Vec<String>,

    /// Copy only the snapshots of this volume; may be given several times.
    #[arg(long, value_name = "ID")]
    volume: Vec<String>,

    /// Delete in the copy what was deleted in the original.
    #[arg(long)]
    prune: bool,

    /// Keep on copying what is new, until told to end.
    #[arg(long)]
    follow: bool,

    /// How long to pause between two rounds of --follow, as in 30s, 5m or 1h.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = interval, requires = "follow")]
    interval: Duration,

    /// Folder to write down how far a snapshot has come, so that an interrupted copy goes on within it.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Most bytes a second to send, as in 20MiB.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    bandwidth: Option<Size>,

    #[command(flatten)]
    access: RepositoryAccess,
    #[command(flatten)]
    answer: Answer,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, `Found` where a snapshot could not be copied, and those of both repositories.
pub(super) async fn run(arguments: Copy) -> anyhow::Result<()> {
    let options = Options {
        snapshots: arguments.snapshot.iter().map(|text| id(text)).collect::<Result<BTreeSet<_>, _>>()?,
        volumes: arguments.volume.iter().map(|text| id(text)).collect::<Result<BTreeSet<_>, _>>()?,
        prune: arguments.prune,
        state: arguments.state,
        bandwidth: arguments.bandwidth.map(Size::bytes),
    };
    let access = second::access(&arguments.access, arguments.to, arguments.to_key_file)?;
    let from = repository::open(&arguments.access).await?;
    let to = second::open(&access, arguments.init).await?.with_memory(from.memory().clone());
    let mut copier = Copier::new(&from, &to, options)?;
    let cancel = signal::watch(Second::Exits)?;
    let counters = Progress::default();
    let output = arguments.answer.output;
    if arguments.follow {
        let mut told = BTreeSet::new();
        let tell = |round: &Result<Report, Error>| tell(output, round, &mut told);
        return Ok(copier.follow(arguments.interval, &counters, &cancel, tell).await?);
    }
    let report = progress::watch("copying", &counters, copier.round(&counters, &cancel)).await?;
    output.print(&report, sum_up)?;
    verdict(&report)
}

fn verdict(report: &Report) -> anyhow::Result<()> {
    if report.is_complete() {
        return Ok(());
    }
    let snapshots = count(report, |outcome| matches!(outcome, Outcome::Failed { .. }));
    let volumes = report.failed_volumes.len();
    Err(Found(format!("{snapshots} snapshots and {volumes} records of volumes could not be copied")).into())
}

fn count(report: &Report, of: impl Fn(&Outcome) -> bool) -> usize {
    report.snapshots.iter().filter(|report| of(&report.outcome)).count()
}

fn sum_up(report: &Report) -> Table {
    let mut table = properties([
        ("snapshots", report.snapshots.len().to_string()),
        ("copied", report.copied().to_string()),
        ("there before", count(report, |outcome| *outcome == Outcome::AlreadyThere).to_string()),
        ("deleted there", count(report, |outcome| *outcome == Outcome::DeletedThere).to_string()),
        ("pruned", report.pruned.len().to_string()),
        ("volumes' records copied", report.volumes.len().to_string()),
        ("fetched", bytes(report.fetched_bytes)),
        ("sent", bytes(report.uploaded_bytes)),
    ]);
    for failure in &report.failed_volumes {
        table.add_row(["failed".to_owned(), format!("{}: {}", failure.volume, failure.reason)]);
    }
    for report in &report.snapshots {
        if let Outcome::Failed { reason } = &report.outcome {
            table.add_row(["failed".to_owned(), format!("{}: {reason}", report.snapshot)]);
        }
    }
    table
}

/// Tells what a round of `--follow` did, line by line; what is as it was before is not told again.
fn tell(output: Output, round: &Result<Report, Error>, told: &mut BTreeSet<String>) {
    // Why a round failed is logged where it is decided what becomes of it.
    let Ok(report) = round else { return };
    let mut failed = BTreeSet::new();
    for report in &report.snapshots {
        if let Some(line) = line(report) {
            let is_failure = matches!(report.outcome, Outcome::Failed { .. });
            if !(is_failure && told.contains(&line)) {
                write(output, report, &line);
            }
            if is_failure {
                failed.insert(line);
            }
        }
    }
    for snapshot in &report.pruned {
        write(output, &Pruned { snapshot: snapshot.to_string(), outcome: "pruned" }, &format!("pruned {snapshot}"));
    }
    *told = failed;
}

/// A snapshot that was deleted in the copy, as a line of JSON.
#[derive(Serialize)]
struct Pruned {
    snapshot: String,
    outcome: &'static str,
}

/// Says what became of a snapshot; nothing where nothing did.
fn line(report: &SnapshotReport) -> Option<String> {
    let snapshot = report.snapshot;
    match &report.outcome {
        Outcome::Copied { method, uploaded_bytes, .. } => {
            let how = match method {
                Method::Full => "whole",
                Method::Incremental => "incrementally",
                Method::Compared => "compared",
            };
            Some(format!("copied {snapshot} {how}, {} sent", bytes(*uploaded_bytes)))
        }
        Outcome::DeletedHere => Some(format!("{snapshot} was deleted before it was copied")),
        Outcome::Failed { reason } => Some(format!("failed {snapshot}: {reason}")),
        Outcome::AlreadyThere | Outcome::DeletedThere => None,
    }
}

/// Writes one line; whoever does not read it any more is no reason to stop copying.
fn write(output: Output, report: &impl Serialize, line: &str) {
    let line = match output {
        Output::Table => line.to_owned(),
        Output::Json => serde_json::to_string(report).unwrap_or_default(),
    };
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Reads a time such as `30s`.
fn interval(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a whole number above zero with a unit, as in 30s, 5m or 1h";
    let (number, seconds) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => return Err(EXPECTED.into()),
    };
    let number: u32 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    if number == 0 { Err(EXPECTED.into()) } else { Ok(Duration::from_secs(u64::from(number) * seconds)) }
}

#[cfg(test)]
mod tests {
    use varve_repository::id::SnapshotId;

    use super::*;

    fn report(outcome: Outcome) -> SnapshotReport {
        SnapshotReport { snapshot: SnapshotId::from_bytes([1; 16]), volume: None, outcome }
    }

    #[test]
    fn intervals_are_numbers_with_a_unit() {
        assert_eq!(interval("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(interval("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(interval("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "0s", "5", "-1s", "1d", "s", "ß", "1.5h"] {
            assert!(interval(bad).is_err_and(|error| error.contains("30s")), "{bad}");
        }
    }

    #[test]
    fn a_failure_fails_the_command_and_is_named() {
        assert!(verdict(&Report::default()).is_ok());
        let failed = report(Outcome::Failed { reason: "memory:///: packs/x is damaged".into() });
        let report = Report { snapshots: vec![failed, report(Outcome::AlreadyThere)], ..Report::default() };
        let error = verdict(&report).expect_err("one failed").to_string();
        assert_eq!(error, "1 snapshots and 0 records of volumes could not be copied");
        let table = sum_up(&report).to_string();
        assert!(table.contains("packs/x is damaged") && table.contains("snap-0101"), "{table}");
    }

    #[test]
    fn what_is_as_before_is_not_told_again() {
        assert_eq!(line(&report(Outcome::AlreadyThere)), None);
        let copied = Outcome::Copied { method: Method::Incremental, fetched_bytes: 1, uploaded_bytes: 2048 };
        assert!(line(&report(copied)).is_some_and(|line| line.contains("incrementally, 2.0 KiB")));
    }
}
