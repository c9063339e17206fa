//! What happened when: as a hash, which tells whether two runs of a seed were the same, and as lines for people.

use std::{fmt, sync::Mutex};

use tokio::time::Instant;

/// Takes down what happens.
pub(crate) struct Trace {
    started: Instant,
    /// Whether lines are printed as they come.
    printed: bool,
    state: Mutex<(blake3::Hasher, u64)>,
}

impl Trace {
    pub(crate) fn new(printed: bool) -> Self {
        Self { started: Instant::now(), printed, state: Mutex::default() }
    }

    /// Takes down one event.
    pub(crate) fn note(&self, who: &str, what: fmt::Arguments<'_>) {
        let line = format!("{:>12} {who:<6} {what}\n", self.started.elapsed().as_millis());
        let mut state = self.state.lock().unwrap();
        state.0.update(line.as_bytes());
        state.1 += 1;
        if self.printed {
            print!("{line}");
        }
    }

    /// The hash of everything so far, and how many events it was.
    pub(crate) fn result(&self) -> (blake3::Hash, u64) {
        let state = self.state.lock().unwrap();
        (state.0.finalize(), state.1)
    }
}
