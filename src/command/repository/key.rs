//! `varve repository key …`, and `keygen`.

use std::path::Path;

use clap::Subcommand;
use varve_repository::{crypto::MasterKey, seam::Seams};

use crate::{
    arguments::{Answer, RepositoryAccess},
    repository,
};

/// Say which master keys open the repository.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// List the key slots.
    List {
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, and the repository's.
pub(super) async fn run(command: Key) -> anyhow::Result<()> {
    let Key::List { access, answer: _ } = command;
    let _repository = repository::open(&access).await?;
    anyhow::bail!("not built yet")
}

/// Makes a new master key in a file.
///
/// # Errors
/// `Local`.
pub(super) fn generate(path: &Path) -> anyhow::Result<()> {
    MasterKey::generate(Seams::system().entropy.as_ref()).write_new(path)?;
    eprintln!(
        "a new master key is in {}: without a copy of it in a safe place, nothing can be restored",
        path.display()
    );
    Ok(())
}
