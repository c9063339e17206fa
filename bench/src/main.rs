//! `varve-bench`: measures this machine and Varve on it, in one run, and says whether what was promised holds.
//!
//! ```text
//! [figures]    what is measured, one file each; each makes figures of the report
//! [report]     the table for people, the JSON lines for programs, the exit status
//! [link]       a slow link, counted
//! [plot]       plots, drawn from those lines
//! [machine]    what all was measured on
//! [limit]      what the machine could do at best
//! [subject]    the driver as a process, with a volume that it backs up and restores
//! [rivals]     other programs that do so
//! [tree]       the files in that volume
//! [estate]     a repository with many snapshots of many volumes
//! [image]      the volumes' images, made up from a seed
//! [observed]   a store that counts what it is asked
//! [bed]        a driver with a pool of its own, and volumes on it
//! [fio]        fio, and what it measured
//! [process]    what a process took; measuring in a process of its own
//! [disk]       caches dropped before something is measured, writes settled after it
//! ```
//!
//! Every figure is a ratio to a limit or to a rival, or a count, so that it means the same on any machine;
//! docs/benchmarks.md has how each is measured.
//!
//! # Cancellation
//! SIGINT and SIGTERM end a run: programs that it started are killed, and everything that it made is unmounted and removed.

mod bed;
mod disk;
mod estate;
mod figures;
mod fio;
mod image;
mod limit;
mod link;
mod machine;
mod observed;
mod plot;
mod process;
mod report;
mod rewritten;
mod rivals;
mod subject;
mod tree;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use varve_harness::Scratch;

use machine::Machine;
use report::Report;

/// How long a run that is told to end may take to put things away; after that it is done for it.
const GRACE: Duration = Duration::from_secs(20);

/// Measures Varve on this machine.
#[derive(Debug, Parser)]
#[command(name = "varve-bench", version)]
pub(crate) struct Arguments {
    /// A smaller form, for a quick look.
    #[arg(long)]
    quick: bool,
    /// Write one JSON object a figure to this file, or to the standard output with "-" in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only these.
    #[arg(long = "only", value_name = "NAME", value_enum)]
    only: Vec<figures::Name>,
    /// Where repositories are made; removed at the end.
    #[arg(long, value_name = "FOLDER", default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Runs one measurement in this process; for varve-bench itself.
    #[arg(long, hide = true, value_name = "NAME")]
    measure: Option<process::Measurement>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What else there is to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Draws plots of what a run wrote.
    Plot {
        /// The JSON lines that `--json` wrote; what it wrote beside them is read too.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Where the plots go.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Command::Plot { from, to }) = &arguments.command {
        return plot::draw(from, to).map(|()| ExitCode::SUCCESS);
    }
    if arguments.measure.is_some() {
        // As the driver has it.
        varve_node::sys::allocator::share_arenas();
    }
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let ended = runtime.block_on(async {
        if let Some(measurement) = arguments.measure {
            process::answer(measurement, &arguments.folder).await?;
            return Ok(ExitCode::SUCCESS);
        }
        run(arguments).await
    });
    // Blocking work that was given up is not waited for.
    runtime.shutdown_background();
    ended
}

/// Measures in a folder that takes everything with it, however that ends.
async fn run(mut arguments: Arguments) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::within(&arguments.folder, "varve-bench-").context("making a folder to measure in")?;
    let scratch = Arc::new(scratch);
    arguments.folder = scratch.path().to_owned();
    let told = watch(Arc::clone(&scratch))?;
    let machine = Machine::look().await;
    let mut report = Report::new(arguments.json.clone(), arguments.quick, machine);
    let interrupted = tokio::select! {
        biased;
        () = told.cancelled() => true,
        () = figures::measure(&arguments, &mut report) => false,
    };
    if interrupted {
        eprintln!("told to end: putting everything away");
    }
    scratch.remove().context("putting everything away")?;
    let held = report.finish()?;
    Ok(if interrupted { ExitCode::FAILURE } else { held })
}

/// Watches for SIGINT and SIGTERM; the first cancels the token that is returned. Whatever holds the run up then is not
/// waited for.
fn watch(scratch: Arc<Scratch>) -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("watching for signals")?;
    let token = CancellationToken::new();
    let told = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        told.cancel();
        tokio::time::sleep(GRACE).await;
        process::kill_children();
        if let Err(error) = scratch.remove() {
            eprintln!("{} could not be removed: {error}", scratch.path().display());
        }
        std::process::exit(1);
    });
    Ok(token)
}
