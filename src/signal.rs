//! Being told to end: SIGTERM and SIGINT.

use std::{io, process};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a second signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    /// It ends the process at once; whatever is under way is left to the next start.
    Exits,
    /// Nothing: what the first one started is to be finished.
    Ignored,
}

/// Watches for SIGTERM and SIGINT from now on; the first cancels the token that is returned.
///
/// # Errors
/// The system's, where a signal cannot be watched.
pub(crate) fn watch(second: Second) -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        loop {
            let number = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
                _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            };
            if first.is_cancelled() && second == Second::Exits {
                tracing::warn!("told to end a second time: ending at once");
                process::exit(128 + number);
            }
            first.cancel();
        }
    });
    Ok(token)
}
