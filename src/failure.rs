//! How a command fails: what is said on the standard error stream, and the exit status.

use std::process::ExitCode;

/// The arguments, configuration or environment cannot be used as they are; nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// The command did its work and has said what it found, which is not what was hoped for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Found(pub(crate) String);

/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// Exit status of a command whose arguments were not usable.
const BAD_USAGE: u8 = 2;

/// Says why the command failed, on one line, and picks the exit status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("varve: {}", chain(error));
    ExitCode::from(if is_usage(error) { BAD_USAGE } else { FAILED })
}

/// Joins an error and its causes into one line, without saying anything twice.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Tells whether the failure is one of the arguments: of this program's own checks, the repository's of its location and
/// key, or a cluster's of what is asked of it.
fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause.downcast_ref::<varve_kubernetes::cluster::Error>().is_some_and(|error| error.is_usage())
            || cause
                .downcast_ref::<varve_repository::Error>()
                .is_some_and(|error| error.kind() == varve_repository::ErrorKind::Invalid)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn causes_are_joined_and_nothing_is_said_twice() {
        let error = anyhow::anyhow!("inner").context("outer: inner").context("outermost");
        assert_eq!(chain(&error), "outermost: outer: inner");
    }

    #[test]
    fn a_bad_argument_is_recognised_below_its_context() {
        let error = Err::<(), _>(Usage("--pool-size is 0".into())).context("reading the arguments").unwrap_err();
        assert!(is_usage(&error));
        assert!(!is_usage(&anyhow::anyhow!("the store is down")));
    }
}
