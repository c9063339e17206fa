//! Running a program to its end, and what it took: time, CPU time, memory.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::process;

/// How often the peak of a program's memory is looked at. The kernel keeps it, so what is missed is at most what it grew
/// by in the last such while.
const LOOK: Duration = Duration::from_millis(10);

/// How much of what a program complained about is shown.
const COMPLAINT_BYTES: usize = 4096;

/// What something took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub wall: Duration,
    /// In user space and in the kernel, by all threads; not what threads of the kernel do for it.
    pub cpu: Duration,
    /// The most memory that was resident, in bytes.
    pub peak_memory: u64,
}

/// Runs a program to its end, and returns what it took and what it wrote on its output stream.
///
/// # Cancellation
/// Dropping the future kills the program.
///
/// # Errors
/// That it could not be started or failed, with the end of what it complained about.
pub(crate) async fn run(mut command: Command) -> anyhow::Result<(Taken, Vec<u8>)> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let before = process::cpu_of_children()?;
    let started = Instant::now();
    let child = command.spawn().with_context(|| format!("starting {name}"))?;
    let pid = child.id().context("a program that was just started has an id")?;
    let mut looks = tokio::time::interval(LOOK);
    let mut peak_memory = 0;
    let mut ended = std::pin::pin!(child.wait_with_output());
    let output = loop {
        tokio::select! {
            biased;
            output = &mut ended => break output.with_context(|| format!("waiting for {name}"))?,
            // Once it has ended it has no memory to look at.
            _ = looks.tick() => peak_memory = process::peak_memory_of(pid).unwrap_or(0).max(peak_memory),
        }
    };
    let taken = Taken { wall: started.elapsed(), cpu: process::cpu_of_children()?.saturating_sub(before), peak_memory };
    if !output.status.success() {
        let complaint = &output.stderr[output.stderr.len().saturating_sub(COMPLAINT_BYTES)..];
        bail!("{name} ended with {}:\n{}", output.status, String::from_utf8_lossy(complaint));
    }
    Ok((taken, output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_took_is_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done"]);
        let (taken, output) = run(command).await.expect("it runs");
        assert_eq!(output, b"done\n");
        assert!(taken.cpu > Duration::ZERO && taken.wall >= taken.cpu / 2, "{taken:?}");
        assert!(taken.peak_memory > 100 << 10, "{taken:?}");
    }

    #[tokio::test]
    async fn what_a_program_complained_about_is_shown() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such thing >&2; exit 3"]);
        let error = run(command).await.expect_err("it fails").to_string();
        assert!(error.contains("no such thing"), "{error}");
    }
}
