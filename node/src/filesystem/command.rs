//! Running the programs that make, check and grow file systems: bounded in time, their output kept for the error.

use std::{
    ffi::OsStr,
    io::{self, ErrorKind, PipeReader, Read},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{Error, Result};

/// Most of a program's output that is kept, in bytes: its end.
const KEPT: usize = 4096;

/// A program of the distribution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// What it is called.
    pub(crate) name: &'static str,
    /// The Debian package that has it.
    pub(crate) package: &'static str,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// The end of what it wrote, on standard output and standard error together.
    pub(crate) output: String,
}

impl Tool {
    /// Runs it to its end.
    ///
    /// # Errors
    /// `ToolMissing`, `ToolTimedOut` (it is killed then), `System`; a failure of the program itself is no error here.
    pub(crate) fn run<S: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = S>) -> Result<Outcome> {
        let system = |action| move |source| Error::System { action, path: self.name.into(), source };
        let (reader, writer) = io::pipe().map_err(system("make a pipe for"))?;
        let mut command = Command::new(self.name);
        command
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(system("make a pipe for"))?)
            .stderr(writer);
        let spawned = command.spawn();
        // It holds the pipe's other end: with it open, no end of output would ever be seen.
        drop(command);
        let mut child = Reaped(match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::ToolMissing { tool: self.name, package: self.package });
            }
            Err(error) => return Err(system("run")(error)),
        });
        let mut output = Tail { reader, bytes: Vec::new(), open: true };
        if !child.wait(&mut output, Instant::now() + self.limit).map_err(system("wait for"))? {
            return Err(Error::ToolTimedOut { tool: self.name, limit: self.limit });
        }
        let status = child.0.wait().map_err(system("wait for"))?;
        Ok(Outcome { status, output: output.text() })
    }

    /// Runs it to its end and expects success.
    ///
    /// # Errors
    /// As [`Tool::run`], and `ToolFailed`.
    pub(crate) fn succeed<S: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = S>) -> Result<()> {
        let outcome = self.run(arguments)?;
        if outcome.status.success() { Ok(()) } else { Err(self.failed(outcome)) }
    }

    /// Makes the error that tells of a failed run.
    pub(crate) fn failed(self, outcome: Outcome) -> Error {
        Error::ToolFailed { tool: self.name, status: outcome.status.to_string(), stderr: outcome.output }
    }
}

/// Names a path as an argument.
pub(crate) fn path(path: &Path) -> &OsStr {
    path.as_os_str()
}

/// A child that is killed and reaped unless it has ended.
struct Reaped(Child);

impl Reaped {
    /// Waits for the end, collecting output; `false` where the deadline comes first.
    fn wait(&mut self, output: &mut Tail, deadline: Instant) -> io::Result<bool> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).ok_or(ErrorKind::InvalidData)?;
        let end: OwnedFd = pidfd_open(pid, PidfdFlags::empty())?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut waited = vec![PollFd::new(&end, PollFlags::IN)];
            if output.open {
                waited.push(PollFd::new(&output.reader, PollFlags::IN));
            }
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut waited, Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let ended = !waited[0].revents().is_empty();
            // Output first: what was written before the end is in the pipe by now.
            if waited.get(1).is_some_and(|pipe| !pipe.revents().is_empty()) {
                output.take()?;
            } else if ended {
                return Ok(true);
            }
        }
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) && self.0.kill().is_ok() {
            let _ = self.0.wait();
        }
    }
}

/// The end of what comes through a pipe.
struct Tail {
    reader: PipeReader,
    bytes: Vec<u8>,
    open: bool,
}

impl Tail {
    fn take(&mut self) -> io::Result<()> {
        let mut buffer = [0; KEPT];
        let count = self.reader.read(&mut buffer)?;
        self.open = count > 0;
        self.bytes.extend_from_slice(&buffer[..count]);
        let surplus = self.bytes.len().saturating_sub(KEPT);
        self.bytes.drain(..surplus);
        Ok(())
    }

    fn text(self) -> String {
        String::from_utf8_lossy(&self.bytes).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(limit: Duration) -> Tool {
        Tool { name: "sh", package: "dash", limit }
    }

    #[test]
    fn a_failure_tells_what_the_program_wrote() {
        let error = shell(Duration::from_secs(30)).succeed(["-c", "echo out; echo bad >&2; exit 3"]).unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): out\nbad");
    }

    #[test]
    fn much_output_is_drained_and_its_end_kept() {
        let outcome = shell(Duration::from_secs(60)).run(["-c", "head -c 300000 /dev/zero; echo end"]).unwrap();
        assert!(outcome.status.success());
        assert!(outcome.output.len() < KEPT && outcome.output.ends_with("end"), "{:?}", outcome.output.len());
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let started = Instant::now();
        let error = shell(Duration::from_millis(100)).run(["-c", "exec sleep 60"]).unwrap_err();
        assert!(matches!(error, Error::ToolTimedOut { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_missing_program_comes_with_the_command_that_installs_it() {
        let tool = Tool { name: "varve-no-such-tool", package: "some-package", limit: Duration::from_secs(1) };
        let error = tool.succeed::<&str>([]).unwrap_err();
        assert_eq!(error.to_string(), "varve-no-such-tool is not installed: apt-get install -y some-package");
    }
}
