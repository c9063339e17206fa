//! `varve repository repair`.

use clap::Args;

use crate::{
    arguments::{Answer, RepositoryAccess},
    repository,
};

/// Bring back what is damaged from wherever it can be had.
#[derive(Args, Debug)]
pub(crate) struct Repair {
    #[command(flatten)]
    access: RepositoryAccess,
    #[command(flatten)]
    answer: Answer,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, and the repository's.
pub(super) async fn run(arguments: Repair) -> anyhow::Result<()> {
    let Repair { access, answer: _ } = arguments;
    let _repository = repository::open(&access).await?;
    anyhow::bail!("not built yet")
}
