//! `varve repository collect`.

use clap::Args;

use crate::{
    arguments::{Answer, RepositoryAccess},
    repository,
};

/// Find and delete what no snapshot and no offload refers to, and repack what is mostly dead.
#[derive(Args, Debug)]
pub(crate) struct Collect {
    #[command(flatten)]
    access: RepositoryAccess,
    #[command(flatten)]
    answer: Answer,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, and the repository's.
pub(super) async fn run(arguments: Collect) -> anyhow::Result<()> {
    let Collect { access, answer: _ } = arguments;
    let _repository = repository::open(&access).await?;
    anyhow::bail!("not built yet")
}
