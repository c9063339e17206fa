//! What is measured. Each file is one group of figures, and a function that measures it and adds them to the report.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod collection;
pub(crate) mod contest;
pub(crate) mod deduplication;
pub(crate) mod engine;
pub(crate) mod fleet;
pub(crate) mod history;
pub(crate) mod incremental;
pub(crate) mod link;
pub(crate) mod listing;
pub(crate) mod pause;
pub(crate) mod snapshot;
pub(crate) mod volume;

use std::{any::Any, panic::AssertUnwindSafe, time::Instant};

use clap::ValueEnum;
use futures::FutureExt;

use crate::{Arguments, report::Report};

/// A group of figures; they are measured in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// What collecting garbage asks of the store, and of memory.
    Collection,
    /// How fast every byte is verified.
    Check,
    /// How fast snapshots are listed, and what that asks of the store.
    Listing,
    /// Round trips, requests and rates on a slow link.
    Link,
    /// What equal volumes take together.
    Deduplication,
    /// How fast the engine offloads and restores.
    Engine,
    /// What a snapshot costs, and its restore takes, after a thousand others.
    History,
    /// Many volumes of one node at once, and limits.
    Fleet,
    /// Full backup and restore, beside other programs.
    Backup,
    /// A small change in a large volume, beside other programs.
    Incremental,
    /// What a snapshot of an idle volume costs, and the memory that a large one takes.
    Snapshot,
    /// How long a snapshot holds a writer.
    Pause,
    /// How fast volumes are read and written.
    Volume,
}

/// Measures what the arguments ask for, group by group: one that fails keeps no other from being measured.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) {
    let names = if arguments.only.is_empty() { Name::value_variants().to_vec() } else { arguments.only.clone() };
    for name in names {
        let started = Instant::now();
        let failure = match AssertUnwindSafe(group(name, arguments, report)).catch_unwind().await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(panic) => Some(message(&*panic)),
        };
        let shown = name.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        report.ended(&shown, started.elapsed(), failure);
    }
}

async fn group(name: Name, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    match name {
        Name::Collection => collection::measure(arguments, report).await,
        Name::Check => check::measure(arguments, report).await,
        Name::Listing => listing::measure(arguments, report).await,
        Name::Deduplication => deduplication::measure(arguments, report).await,
        Name::Engine => engine::measure(arguments, report).await,
        Name::History => history::measure(arguments, report).await,
        Name::Fleet => fleet::measure(arguments, report).await,
        Name::Link => link::measure(arguments, report).await,
        Name::Incremental => incremental::measure(arguments, report).await,
        Name::Backup => backup::measure(arguments, report).await,
        Name::Snapshot => snapshot::measure(arguments, report).await,
        Name::Pause => pause::measure(arguments, report).await,
        Name::Volume => volume::measure(arguments, report).await,
    }
}

/// What somebody said who panicked: the driver's and the tools' harness does where something is missing.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}
