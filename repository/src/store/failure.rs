//! Sorting a store's failures by what a caller can do about them.
//!
//! The stores say the same thing in different places: a variant of the client's error, an HTTP status, a code in a
//! response's body, or an operating-system error somewhere down the chain of causes.

use std::{error::Error as StdError, io};

use object_store::{
    Error as StoreError,
    client::{HttpError, HttpErrorKind},
};

use crate::ErrorKind;

/// How the client begins its message for a response that is no success; the status follows in digits.
const STATUS_PREFIX: &str = "Server returned non-2xx status code: ";

/// What the stores call a bucket or container that is not there.
const BUCKET_MISSING: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"];

/// Tells whether the object is not there. A missing bucket is not a missing object.
pub(super) fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. }) && missing_bucket(error).is_none()
}

/// Says what is wrong where it is the bucket that is missing.
pub(super) fn missing_bucket(error: &StoreError) -> Option<&'static str> {
    causes(error)
        .any(|cause| {
            let text = cause.to_string();
            BUCKET_MISSING.iter().any(|code| text.contains(code))
        })
        .then_some("there is no such bucket: create it, or check the spelling")
}

/// Sorts a failure.
pub(super) fn kind(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::NotFound { .. } => ErrorKind::NotFound,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } | StoreError::NotModified { .. } => {
            ErrorKind::Conflict
        }
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::Denied,
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } => ErrorKind::Unsupported,
        StoreError::InvalidPath { .. } | StoreError::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        _ => causes(error).find_map(kind_of_cause).unwrap_or(ErrorKind::Unavailable),
    }
}

/// Sorts by one cause; `None` where it does not tell.
fn kind_of_cause(cause: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return kind_of_io(error);
    }
    if let Some(error) = cause.downcast_ref::<HttpError>() {
        return match error.kind() {
            HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Timeout | HttpErrorKind::Interrupted => {
                Some(ErrorKind::Unavailable)
            }
            _ => None,
        };
    }
    let text = cause.to_string();
    let status: u16 = text.strip_prefix(STATUS_PREFIX)?.get(..3)?.parse().ok()?;
    match status {
        401 | 403 => Some(ErrorKind::Denied),
        507 => Some(ErrorKind::Full),
        408 | 429 | 500..=599 => Some(ErrorKind::Unavailable),
        400..=499 => Some(ErrorKind::Invalid),
        _ => None,
    }
}

fn kind_of_io(error: &io::Error) -> Option<ErrorKind> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(ErrorKind::Full),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some(ErrorKind::Denied),
        io::ErrorKind::NotFound => Some(ErrorKind::NotFound),
        _ => None,
    }
}

/// The error and the chain of its causes.
fn causes(error: &StoreError) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let first: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(first), |cause| (*cause).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operating-system error as it arrives: inside a store's error, below one that names the file.
    fn local(errno: i32) -> StoreError {
        #[derive(Debug, thiserror::Error)]
        #[error("writing a file")]
        struct Failure(#[source] io::Error);
        StoreError::Generic { store: "test", source: Box::new(Failure(io::Error::from_raw_os_error(errno))) }
    }

    #[test]
    fn system_errors_are_sorted() {
        use rustix::io::Errno;
        for (errno, expected) in [
            (Errno::NOSPC, ErrorKind::Full),
            (Errno::DQUOT, ErrorKind::Full),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::PERM, ErrorKind::Denied),
            (Errno::ROFS, ErrorKind::Denied),
            (Errno::IO, ErrorKind::Unavailable),
            (Errno::STALE, ErrorKind::Unavailable),
        ] {
            assert_eq!(kind(&local(errno.raw_os_error())), expected, "{errno:?}");
        }
    }

    #[test]
    fn what_nobody_knows_is_unavailable() {
        assert_eq!(kind(&StoreError::Generic { store: "test", source: "odd".into() }), ErrorKind::Unavailable);
    }

    #[test]
    fn a_missing_bucket_is_no_missing_object() {
        let missing = |text: &str| StoreError::NotFound { path: "a".into(), source: text.into() };
        assert!(is_missing(&missing("<Code>NoSuchKey</Code>")));
        for text in ["<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>"] {
            assert!(!is_missing(&missing(text)) && missing_bucket(&missing(text)).is_some());
        }
    }
}
