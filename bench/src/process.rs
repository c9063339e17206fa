//! What a process took: memory and CPU time; and measuring in a process of its own, so that its peak memory is that of
//! what is measured and of nothing before it.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Serialize, de::DeserializeOwned};
use tokio::process::Command;

use crate::figures::{collection, engine};

/// What such a process measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Measurement {
    /// A collection of the repository in a folder.
    Collection,
    /// An offload of the image in a folder into a new repository there.
    Offload,
    /// A restore of what the repository in a folder holds.
    Restore,
}

impl Measurement {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Collection => "collection",
            Self::Offload => "offload",
            Self::Restore => "restore",
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
        Measurement::Offload => print(&engine::offload(folder).await?),
        Measurement::Restore => print(&engine::restore(folder).await?),
    }
}

fn print(answer: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(std::io::stdout(), answer).context("writing what was measured")
}

/// The most memory that this process has had resident so far, in bytes.
pub(crate) fn peak_memory() -> anyhow::Result<u64> {
    peak_memory_of(std::process::id())
}

/// The most memory that a process has had resident since it started, or since that was forgotten, in bytes.
pub(crate) fn peak_memory_of(process: u32) -> anyhow::Result<u64> {
    let file = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("finding the peak of memory")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().context("reading the peak of memory")?;
    Ok(kibibytes << 10)
}

/// The processor time that all threads of this process have taken so far.
pub(crate) fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Forgets the peak of a process's memory: from now on it is what the process has resident now (proc_pid_clear_refs(5)).
pub(crate) fn forget_peak_memory_of(process: u32) -> anyhow::Result<()> {
    std::fs::write(format!("/proc/{process}/clear_refs"), "5").context("forgetting the peak of a process's memory")
}

/// The CPU time that a process has taken so far, in user space and in the kernel, by all of its threads and by the
/// children that it waited for.
pub(crate) fn cpu_of(process: u32) -> anyhow::Result<Duration> {
    let cpu = cpu(process)?;
    Ok(cpu.own + cpu.children)
}

/// The CPU time of all children that this process has waited for so far.
pub(crate) fn cpu_of_children() -> anyhow::Result<Duration> {
    Ok(cpu(std::process::id())?.children)
}

/// CPU time, to a hundredth of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cpu {
    own: Duration,
    children: Duration,
}

fn cpu(process: u32) -> anyhow::Result<Cpu> {
    let file = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    parse_cpu(&stat).with_context(|| format!("understanding {file}"))
}

/// Finds user and system time, and those of children, in a line of `/proc/PID/stat` (proc_pid_stat(5)).
fn parse_cpu(stat: &str) -> Option<Cpu> {
    /// Milliseconds of a tick: what user space is told in is a hundred to the second wherever Linux runs today.
    const TICK: u64 = 10;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    let mut both = || Some(Duration::from_millis(TICK * (times.next()?? + times.next()??)));
    Some(Cpu { own: both()?, children: both()? })
}

/// Kills the programs that this process started and that still run.
pub(crate) fn kill_children() {
    let this = Some(std::process::id());
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for id in ids.filter(|id| parent_of(*id) == this) {
        if let Some(id) = Pid::from_raw(id) {
            // It may have ended by now.
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

fn parent_of(process: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
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

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let cpu = parse_cpu("7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99").unwrap();
        assert_eq!((cpu.own, cpu.children), (Duration::from_millis(1200), Duration::from_millis(70)));
        assert_eq!(parse_cpu("7 (a) S 1"), None);
        assert_eq!(parse_cpu("nothing"), None);
    }
}
