//! `varve repository check`.

use clap::{Args, ValueEnum};
use comfy_table::Table;
use varve_repository::{
    check::{Level, Report},
    progress::Progress,
};

use crate::{
    arguments::{Answer, RepositoryAccess},
    failure::Found,
    output::properties,
    progress,
    quantity::bytes,
    repository,
    signal::{self, Second},
};

/// Check that everything that snapshots refer to is there and whole.
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// How deep to look.
    #[arg(long, value_name = "LEVEL", default_value = "presence")]
    level: CheckLevel,
    #[command(flatten)]
    access: RepositoryAccess,
    #[command(flatten)]
    answer: Answer,
}

/// How deep a check looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum CheckLevel {
    /// Records and runs are readable and refer to one another rightly.
    Structure,
    /// Also every pack is there and of the right size.
    #[default]
    Presence,
    /// Also every byte is read and verified.
    Content,
}

impl From<CheckLevel> for Level {
    fn from(level: CheckLevel) -> Self {
        match level {
            CheckLevel::Structure => Self::Structure,
            CheckLevel::Presence => Self::Presence,
            CheckLevel::Content => Self::Content,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, `Found` where there is damage, and the repository's.
pub(super) async fn run(arguments: Check) -> anyhow::Result<()> {
    let Check { level, access, answer } = arguments;
    let repository = repository::open(&access).await?;
    let cancel = signal::watch(Second::Exits)?;
    let counters = Progress::default();
    let report =
        progress::watch("checking", &counters, repository.check(level.into(), counters.clone(), cancel)).await?;
    answer.output.print(&report, sum_up)?;
    verdict(&report)
}

fn verdict(report: &Report) -> anyhow::Result<()> {
    if report.damages.is_empty() {
        return Ok(());
    }
    let mut hurt: Vec<_> = report.damages.iter().flat_map(|damage| &damage.hurt).map(|hurt| hurt.snapshot).collect();
    hurt.sort();
    hurt.dedup();
    Err(Found(format!("{} damaged objects hurt {} snapshots", report.damages.len(), hurt.len())).into())
}

fn sum_up(report: &Report) -> Table {
    let mut table = properties([
        ("snapshots", report.snapshots.to_string()),
        ("runs", report.runs.to_string()),
        ("packs", report.packs.to_string()),
        ("chunks", report.chunks.to_string()),
        ("read", bytes(report.read_bytes)),
        ("damaged", report.damages.len().to_string()),
    ]);
    for damage in &report.damages {
        table.add_row(["damage".to_owned(), format!("{}: {}", damage.object, damage.reason)]);
        for hurt in &damage.hurt {
            table.add_row([
                "  hurts".to_owned(),
                format!(
                    "{} of {}: {}",
                    hurt.snapshot,
                    hurt.volume.map_or_else(|| "an unknown volume".to_owned(), |volume| volume.to_string()),
                    ranges(&hurt.ranges)
                ),
            ]);
        }
    }
    table
}

/// Writes the first few byte ranges, and how many more there are.
fn ranges(ranges: &[(u64, u64)]) -> String {
    const SHOWN: usize = 8;
    if ranges.is_empty() {
        return "all of it".into();
    }
    let mut parts: Vec<_> = ranges
        .iter()
        .take(SHOWN)
        .map(|(start, length)| format!("[{start}, {})", start.saturating_add(*length)))
        .collect();
    if ranges.len() > SHOWN {
        parts.push(format!("and {} ranges more", ranges.len() - SHOWN));
    }
    format!("bytes {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use varve_repository::{
        check::{Damage, Hurt},
        id::{SnapshotId, VolumeId},
    };

    use super::*;

    #[test]
    fn hurt_ranges_are_written_as_half_open_intervals() {
        assert_eq!(ranges(&[]), "all of it");
        assert_eq!(ranges(&[(0, 4096), (8192, 4096)]), "bytes [0, 4096), [8192, 12288)");
        let many: Vec<_> = (0..10).map(|n| (n * 8192, 4096)).collect();
        assert!(ranges(&many).ends_with("and 2 ranges more"));
    }

    #[test]
    fn damage_fails_the_command_and_each_snapshot_counts_once() {
        assert!(verdict(&Report::default()).is_ok());
        let hurt = Hurt {
            snapshot: SnapshotId::from_bytes([1; 16]),
            volume: Some(VolumeId::from_bytes([2; 16])),
            ranges: vec![(0, 4096)],
        };
        let damage = Damage { object: "packs/x".into(), reason: "it is missing".into(), hurt: vec![hurt] };
        let report = Report { damages: vec![damage.clone(), damage], ..Report::default() };
        let error = verdict(&report).expect_err("there is damage");
        assert_eq!(error.to_string(), "2 damaged objects hurt 1 snapshots");
        let table = sum_up(&report).to_string();
        assert!(table.contains("packs/x") && table.contains("[0, 4096)"), "{table}");
    }
}
