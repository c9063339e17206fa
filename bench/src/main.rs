//! `varve-bench`: measures this machine and Varve on it, in one run, and says whether what was promised holds.
//!
//! ```text
//! [figures]    what is measured, one file each; each makes figures of the report
//! [report]     the table for people, the JSON lines for programs, the exit status
//! [limit]      what the machine could do at best
//! [estate]     a repository with many snapshots of many volumes
//! [image]      the volumes' images, made up from a seed
//! [observed]   a store that counts what it is asked
//! [process]    measuring in a process of its own, with its peak memory
//! ```
//!
//! Every figure is a ratio to a limit or a count, so that it means the same on any machine; docs/benchmarks.md has how
//! each is measured.

mod estate;
mod figures;
mod image;
mod limit;
mod observed;
mod process;
mod report;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;

use report::Report;

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
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        if let Some(measurement) = arguments.measure {
            process::answer(measurement, &arguments.folder).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut report = Report::new(arguments.json.clone());
        figures::measure(&arguments, &mut report).await?;
        report.finish()
    })
}
