//! The publish context: what the controller tells the node by way of the orchestrator
//! (CSI, ControllerPublishVolumeResponse, `publish_context`).
//!
//! Where the orchestrator does not publish, there is no context, and nothing is told.

use std::{collections::HashMap, hash::BuildHasher};

use tonic::Status;

use crate::status;

/// Key that says whether no workload may write to the volume: `true` or `false`.
const READ_ONLY: &str = "varve.io/read-only";

/// Makes the context of a publication.
#[must_use]
pub fn of(read_only: bool) -> HashMap<String, String> {
    if read_only { [(READ_ONLY.to_owned(), "true".to_owned())].into() } else { HashMap::new() }
}

/// Tells whether a context rules out every write. Keys of others are passed over.
///
/// # Errors
/// `INVALID_ARGUMENT` where it does not say clearly: what was to be read-only must not become writable by a misreading.
pub fn is_read_only<S: BuildHasher>(field: &str, context: &HashMap<String, String, S>) -> Result<bool, Status> {
    match context.get(READ_ONLY).map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(status::invalid(&format!("{field}[{READ_ONLY:?}]"), other, "true or false")),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_is_made_is_read() {
        for read_only in [false, true] {
            assert_eq!(is_read_only("publish_context", &of(read_only)).unwrap(), read_only);
        }
    }

    #[test]
    fn only_two_words_are_understood() {
        let context = |key: &str, value: &str| HashMap::from([(key.to_owned(), value.to_owned())]);
        assert!(!is_read_only("publish_context", &context(READ_ONLY, "false")).unwrap());
        assert!(!is_read_only("publish_context", &context("example.com/attached", "yes")).unwrap());
        for value in ["", "True", "yes", "0"] {
            let status = is_read_only("publish_context", &context(READ_ONLY, value)).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{value:?}");
            assert!(status.message().contains("publish_context[\"varve.io/read-only\"]"), "{}", status.message());
        }
    }
}
