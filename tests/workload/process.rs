//! A workload's process, ended with the test.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program that writes nothing worth reading.
    pub(crate) fn start(command: &mut Command, package: &str) -> Self {
        Self::with_output(command.stdout(Stdio::null()), package)
    }

    /// Starts a program whose output the caller has arranged for.
    pub(crate) fn with_output(command: &mut Command, package: &str) -> Self {
        let child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}: {package} has it")))
    }

    /// The process.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("it can be watched").is_none()
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of the loopback interface that nothing listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free").port()
}
