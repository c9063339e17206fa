//! What is measured. Each file is one group of figures, and a function that measures it and adds them to the report.

pub(crate) mod check;
pub(crate) mod collection;
pub(crate) mod deduplication;
pub(crate) mod listing;

use crate::{Arguments, report::Report};

/// A group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// What collecting garbage asks of the store, and of memory.
    Collection,
    /// How fast every byte is verified.
    Check,
    /// How fast snapshots are listed, and what that asks of the store.
    Listing,
    /// What equal volumes take together.
    Deduplication,
}

impl Name {
    const ALL: [Self; 4] = [Self::Check, Self::Listing, Self::Deduplication, Self::Collection];
}

/// Measures what the arguments ask for.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let names = if arguments.only.is_empty() { Name::ALL.to_vec() } else { arguments.only.clone() };
    for name in names {
        match name {
            Name::Collection => collection::measure(arguments, report).await?,
            Name::Check => check::measure(arguments, report).await?,
            Name::Listing => listing::measure(arguments, report).await?,
            Name::Deduplication => deduplication::measure(arguments, report).await?,
        }
    }
    Ok(())
}
