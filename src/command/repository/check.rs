//! `varve repository check`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use comfy_table::Table;
use varve_repository::{
    check::{Level, Options, Percent, Report},
    progress::Progress,
};

use crate::{
    arguments::{Answer, RepositoryAccess},
    command::snapshot::moment,
    failure::{Found, Usage},
    output::properties,
    progress,
    quantity::bytes,
    repository,
    signal::{self, Second},
};

/// Check that everything that snapshots refer to is there and whole.
///
/// The exit status is 1 where a snapshot is hurt. Damage that hurts none is reported, and is no failure.
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// How deep to look [default: presence, and content with --sample].
    #[arg(long, value_name = "LEVEL")]
    level: Option<CheckLevel>,

    /// Read only so much of the packs, in per cent, chosen at random in each run.
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_hyphen_values = true)]
    sample: Option<Percent>,

    /// File that remembers what was looked at: another run with it goes on behind it, also after an interruption. It
    /// is removed once everything has been looked at.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,

    #[command(flatten)]
    access: RepositoryAccess,
    #[command(flatten)]
    answer: Answer,
}

impl Check {
    /// Puts together what is asked for.
    ///
    /// # Errors
    /// `Usage` where it contradicts itself.
    fn options(level: Option<CheckLevel>, sample: Option<Percent>, resume: Option<PathBuf>) -> Result<Options, Usage> {
        let level = match (level, sample) {
            (None, None) => CheckLevel::default(),
            (None | Some(CheckLevel::Content), Some(_)) => CheckLevel::Content,
            (Some(level), None) => level,
            (Some(CheckLevel::Structure | CheckLevel::Presence), Some(sample)) => {
                return Err(Usage(format!(
                    "--sample {sample}: only of what is read byte by byte a sample can be taken; expected --level content \
                     with it"
                )));
            }
        };
        Ok(Options { level: level.into(), sample, resume })
    }
}

/// Reads a part of the whole.
fn percent(text: &str) -> Result<Percent, String> {
    let number = text.trim_end_matches('%').trim_end().parse().ok();
    number
        .and_then(Percent::new)
        .ok_or_else(|| "expected a number of per cent above 0 and at most 100, as in 10 or 0.5".to_owned())
}

/// How deep a check looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckLevel {
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
    let Check { level, sample, resume, access, answer } = arguments;
    let options = Check::options(level, sample, resume)?;
    let repository = repository::open(&access).await?;
    let cancel = signal::watch(Second::Exits)?;
    let counters = Progress::default();
    let report = progress::watch("checking", &counters, repository.check(options, counters.clone(), cancel)).await?;
    answer.output.print(&report, sum_up)?;
    verdict(&report)
}

/// Fails where a snapshot is hurt, or the repository as a whole.
fn verdict(report: &Report) -> anyhow::Result<()> {
    let hurt = report.hurt_snapshots();
    let harmless = report.harmless().count();
    // Its record names the keys: without it nothing can be opened.
    if report.harmless().any(|damage| damage.object == "repository") {
        return Err(Found("the record of the repository itself is damaged".into()).into());
    }
    if hurt.is_empty() {
        if harmless > 0 {
            eprintln!("{harmless} damaged objects hurt no snapshot");
        }
        return Ok(());
    }
    let harmful = report.damages.len() - harmless;
    Err(Found(format!("{harmful} damaged objects hurt {} snapshots", hurt.len())).into())
}

/// Writes what was found for people.
pub(super) fn sum_up(report: &Report) -> Table {
    let mut table = properties([
        ("snapshots", report.snapshots.to_string()),
        ("runs", report.runs.to_string()),
        ("packs", report.packs.to_string()),
        ("chunks", report.chunks.to_string()),
        ("read", bytes(report.read_bytes)),
        ("damaged", report.damages.len().to_string()),
    ]);
    if let Some(content) = report.content {
        let part = format!(
            "{} of {} packs, {} of {}",
            content.packs,
            content.of_packs,
            bytes(content.bytes),
            bytes(content.of_bytes)
        );
        table.add_row(["read whole".to_owned(), part]);
    }
    if let Some(pass) = report.pass {
        let state = if pass.complete { "complete" } else { "to be continued" };
        let part = format!("{} of {} packs since {}, {state}", pass.packs, pass.of_packs, moment(pass.began_at));
        table.add_row(["pass".to_owned(), part]);
    }
    for damage in &report.damages {
        table.add_row(["damage".to_owned(), format!("{}: {}", damage.object, damage.reason)]);
        if damage.hurt.is_empty() {
            table.add_row(["  hurts".to_owned(), "no snapshot".to_owned()]);
        }
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
pub(super) fn ranges(ranges: &[(u64, u64)]) -> String {
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

    #[test]
    fn damage_that_hurts_nobody_is_told_and_is_no_failure() {
        let damage = Damage { object: "packs/x".into(), reason: "it is missing".into(), hurt: Vec::new() };
        let report = Report { damages: vec![damage.clone()], ..Report::default() };
        assert!(verdict(&report).is_ok());
        let table = sum_up(&report).to_string();
        assert!(table.contains("packs/x") && table.contains("no snapshot"), "{table}");
        let damage = Damage { object: "repository".into(), ..damage };
        assert!(verdict(&Report { damages: vec![damage], ..Report::default() }).is_err());
    }

    #[test]
    fn a_sample_is_of_content() {
        let ten = Percent::new(10.0);
        let level = |level, sample| Check::options(level, sample, None).map(|options| options.level);
        assert_eq!(level(None, None).expect("usable"), Level::Presence);
        assert_eq!(level(None, ten).expect("usable"), Level::Content);
        assert_eq!(level(Some(CheckLevel::Structure), None).expect("usable"), Level::Structure);
        let refused = level(Some(CheckLevel::Presence), ten).expect_err("nothing to take a sample of").to_string();
        assert!(refused.contains("--sample 10 %") && refused.contains("--level content"), "{refused}");
        assert_eq!(percent("12.5%"), Ok(Percent::new(12.5).expect("a part")));
        for text in ["0", "-3", "101", "all", "NaN", ""] {
            assert!(percent(text).is_err_and(|reason| reason.contains("at most 100")), "{text}");
        }
    }
}
