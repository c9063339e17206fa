//! Logging: for people on a terminal, one JSON object a line anywhere else; always on the standard error stream.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Environment variable with a filter in the syntax of `tracing`, as in `varve_node=trace`; wins over `--verbose`.
const FILTER: &str = "VARVE_LOG";

/// How much is logged where the environment does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Only what a person must look into; for commands whose result is what counts.
    Quiet,
    /// What a service did.
    Normal,
    /// Also how it did it.
    Verbose,
}

/// Starts logging for the rest of the process.
pub(crate) fn start(level: Level) {
    let directive = match level {
        Level::Quiet => "warn",
        Level::Normal => "info,object_store=warn",
        Level::Verbose => {
            "info,object_store=warn,varve=debug,varve_csi=debug,varve_controller=debug,varve_link=debug,varve_node=debug,varve_repository=debug"
        }
    };
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(directive));
    let registry = tracing_subscriber::registry().with(filter);
    if io::stderr().is_terminal() {
        registry.with(fmt::layer().with_writer(io::stderr).with_target(false)).init();
    } else {
        registry.with(fmt::layer().with_writer(io::stderr).json().flatten_event(true)).init();
    }
}
