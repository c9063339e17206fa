//! `varve repository copy`.

use clap::Args;

use crate::{
    arguments::{Answer, RepositoryAccess},
    repository,
};

/// Copy snapshots into another repository, with another key if wanted.
#[derive(Args, Debug)]
pub(crate) struct Copy {
    #[command(flatten)]
    access: RepositoryAccess,
    #[command(flatten)]
    answer: Answer,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, and the repository's.
pub(super) async fn run(arguments: Copy) -> anyhow::Result<()> {
    let Copy { access, answer: _ } = arguments;
    let _repository = repository::open(&access).await?;
    anyhow::bail!("not built yet")
}
