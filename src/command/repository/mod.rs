//! `varve repository …`: one file for each command.

pub(crate) mod check;
pub(crate) mod collect;
pub(crate) mod copy;
pub(crate) mod key;
pub(crate) mod repair;

use comfy_table::Table;
use serde::Serialize;
use uuid::Uuid;
use varve_repository::stats::Stats;

use crate::{arguments::RepositoryCommand, config::File, output::properties, quantity::bytes, repository};

/// A repository that was made.
#[derive(Serialize)]
struct Made {
    url: String,
    uuid: Uuid,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, `Found` for a check that found damage, and the repository's.
pub(crate) async fn run(command: RepositoryCommand) -> anyhow::Result<()> {
    match command {
        RepositoryCommand::Init { generate_key, access, answer } => {
            let access = File::read(access.config.as_deref())?.access(&access)?;
            let repository = repository::init(&access, generate_key).await?;
            let made = Made { url: repository.store().url().to_owned(), uuid: repository.uuid() };
            answer.output.print(&made, |made| properties([("url", made.url.clone()), ("uuid", made.uuid.to_string())]))
        }
        RepositoryCommand::Check(arguments) => check::run(arguments).await,
        RepositoryCommand::Collect(arguments) => collect::run(arguments).await,
        RepositoryCommand::Repair(arguments) => repair::run(arguments).await,
        RepositoryCommand::Copy(arguments) => copy::run(arguments).await,
        RepositoryCommand::Stats { access, answer } => {
            let stats = repository::open(&access).await?.stats().await?;
            answer.output.print(&stats, count)
        }
        RepositoryCommand::Key(command) => key::run(command).await,
        RepositoryCommand::Keygen { to } => key::generate(&to),
    }
}

fn count(stats: &Stats) -> Table {
    properties([
        ("uuid", stats.uuid.to_string()),
        ("volumes", stats.volumes.to_string()),
        ("snapshots", stats.snapshots.to_string()),
        ("tombstones", stats.tombstones.to_string()),
        ("offloads under way", stats.uploads.to_string()),
        ("packs", format!("{} ({})", stats.packs, bytes(stats.pack_bytes))),
        ("repacked", stats.relocations.to_string()),
        ("runs", format!("{} ({})", stats.runs, bytes(stats.run_bytes))),
        ("logical", bytes(stats.logical_bytes)),
        ("before compression", bytes(stats.stored_bytes)),
    ])
}
