//! Measuring in a process of its own, so that its peak memory is that of what is measured and of nothing before it.

use std::path::Path;

use anyhow::{Context, bail};
use serde::{Serialize, de::DeserializeOwned};
use tokio::process::Command;

use crate::figures::collection;

/// What such a process measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Measurement {
    /// A collection of the repository in a folder.
    Collection,
}

impl Measurement {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Collection => "collection",
        }
    }
}

/// Runs a measurement in a new process, on what lies in a folder.
pub(crate) async fn ask<T: DeserializeOwned>(measurement: Measurement, folder: &Path) -> anyhow::Result<T> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.args(["--measure", measurement.as_str(), "--folder"]).arg(folder).kill_on_drop(true);
    let output = command.stderr(std::process::Stdio::inherit()).output().await.context("starting a process")?;
    if !output.status.success() {
        bail!("measuring {} ended with {}", measurement.as_str(), output.status);
    }
    serde_json::from_slice(&output.stdout).context("reading what was measured")
}

/// Measures in this process, and writes the answer to the standard output.
pub(crate) async fn answer(measurement: Measurement, folder: &Path) -> anyhow::Result<()> {
    match measurement {
        Measurement::Collection => print(&collection::collect(folder).await?),
    }
}

fn print(answer: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(std::io::stdout(), answer).context("writing what was measured")
}

/// The most memory that this process has had resident so far, in bytes.
pub(crate) fn peak_memory() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("finding the peak of memory")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().context("reading the peak of memory")?;
    Ok(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_held() {
        let before = peak_memory().unwrap();
        let held = vec![1_u8; 64 << 20];
        assert!(peak_memory().unwrap() >= before.max(64 << 20), "{}", held.len());
    }
}
