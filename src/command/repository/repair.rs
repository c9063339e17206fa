//! `varve repository repair`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use comfy_table::Table;
use varve_repository::{
    Repository,
    check::Level,
    progress::Progress,
    repair::{LocalImage, Mended, Options, Outcome, Proof, Report, Sources},
};

use super::check::{self, CheckLevel};
use crate::{
    arguments::{Answer, RepositoryAccess},
    failure::{Found, Usage},
    progress, repository,
    signal::{self, Second},
};

/// Bring back what is damaged: from other copies in the repository, from a node's pool, from a mirror.
///
/// Checks first. What cannot be brought back stays as it is and is named; the exit status is 1 then.
#[derive(Args, Debug)]
pub(crate) struct Repair {
    /// A repository that holds the same snapshots, as `varve repository copy` makes one.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,

    /// File with the mirror's master key; without it the key of this repository is tried.
    #[arg(long, value_name = "FILE", requires = "mirror")]
    mirror_key_file: Option<PathBuf>,

    /// A node's pool, whose cuts and volumes may still hold what is lost. It is only read.
    #[arg(long, value_name = "DIR")]
    pool: Option<PathBuf>,

    /// How deep to look for damage.
    #[arg(long, value_name = "LEVEL", default_value = "content")]
    level: CheckLevel,

    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    access: RepositoryAccess,
    #[command(flatten)]
    answer: Answer,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, `Found` where something is still damaged, and the repositories'.
pub(super) async fn run(arguments: Repair) -> anyhow::Result<()> {
    let Repair { mirror, mirror_key_file, pool, level, dry_run, access, answer } = arguments;
    let images = pool.as_deref().map(images).transpose()?.unwrap_or_default();
    let repository = repository::open(&access).await?;
    let mirror = match mirror {
        Some(url) => Some(open_mirror(url, mirror_key_file, &access, &repository).await?),
        None => None,
    };
    let cancel = signal::watch(Second::Exits)?;
    let counters = Progress::default();
    let options = Options { level: Level::from(level), dry_run, node: "varve repository repair".into() };
    let sources = Sources { mirror, images };
    let work = repository.repair(&sources, options, counters.clone(), cancel);
    let report = progress::watch("repairing", &counters, work).await?;
    answer.output.print(&report, sum_up)?;
    verdict(&report)
}

fn images(pool: &Path) -> Result<Vec<LocalImage>, Usage> {
    LocalImage::of_pool(pool).map_err(|error| {
        Usage(format!(
            "--pool {}: {error}; expected the folder of a pool, with `cuts` and `volumes` in it",
            pool.display()
        ))
    })
}

async fn open_mirror(
    url: String,
    key_file: Option<PathBuf>,
    access: &RepositoryAccess,
    repository: &Repository,
) -> anyhow::Result<Repository> {
    let access = RepositoryAccess {
        repository: Some(url),
        key_file: key_file.or_else(|| access.key_file.clone()),
        config: access.config.clone(),
    };
    let mirror = repository::open(&access).await.context("opening the mirror")?;
    if mirror.uuid() == repository.uuid() {
        return Err(Usage("--mirror names the repository that is to be repaired; expected another one".into()).into());
    }
    Ok(mirror)
}

fn verdict(report: &Report) -> anyhow::Result<()> {
    if !report.is_anything_lost() {
        return Ok(());
    }
    let still = report.snapshots.iter().filter(|mended| matches!(mended.outcome, Outcome::Partly | Outcome::Unchanged));
    Err(Found(format!("{} snapshots stay hurt", still.count())).into())
}

fn sum_up(report: &Report) -> Table {
    let mut table = check::sum_up(&report.found);
    for mended in &report.snapshots {
        table.add_row(["snapshot".to_owned(), format!("{}: {}", mended.snapshot, outcome(mended, report.dry_run))]);
        for recovered in &mended.recovered {
            let proof = match recovered.proof {
                Proof::Chunk => "proven by the chunk's id",
                Proof::Source => "vouched for by the same snapshot there",
            };
            let range = check::ranges(&[(recovered.start, recovered.length)]);
            table.add_row(["  recovered".to_owned(), format!("{range} from {}, {proof}", recovered.source)]);
        }
        for lost in &mended.lost {
            let range = if lost.length == 0 { "all of it".into() } else { check::ranges(&[(lost.start, lost.length)]) };
            table.add_row(["  lost".to_owned(), format!("{range}: {}: {}", lost.object, lost.reason)]);
        }
    }
    table
}

fn outcome(mended: &Mended, dry_run: bool) -> &'static str {
    match (mended.outcome, dry_run) {
        (Outcome::Whole, false) => "whole again",
        (Outcome::Whole, true) => "would be whole again",
        (Outcome::Partly, false) => "partly recovered",
        (Outcome::Partly, true) => "would be partly recovered",
        (Outcome::Unchanged, _) => "nothing of it was found anywhere",
        (Outcome::Gone, _) => "was deleted meanwhile",
    }
}

#[cfg(test)]
mod tests {
    use varve_repository::{hydrate::Lost, id::SnapshotId, repair::Recovered};

    use super::*;

    #[test]
    fn what_is_still_lost_fails_the_command_and_is_named() {
        let recovered = Recovered { start: 0, length: 4096, source: "packs/y".into(), proof: Proof::Chunk };
        let lost = Lost { start: 8192, length: 4096, object: "packs/x".into(), reason: "it is missing".into() };
        let mended = Mended {
            snapshot: SnapshotId::from_bytes([1; 16]),
            volume: None,
            outcome: Outcome::Partly,
            recovered: vec![recovered],
            lost: vec![lost],
        };
        let report = Report { snapshots: vec![mended], ..Report::default() };
        assert_eq!(verdict(&report).expect_err("it is hurt").to_string(), "1 snapshots stay hurt");
        let table = sum_up(&report).to_string();
        for words in ["partly recovered", "bytes [0, 4096) from packs/y", "bytes [8192, 12288): packs/x: it is missing"]
        {
            assert!(table.contains(words), "{table}");
        }
        assert!(verdict(&Report::default()).is_ok());
    }
}
