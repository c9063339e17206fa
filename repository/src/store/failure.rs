//! Sorting a store's failures by what a caller can do about them.
//!
//! The stores say the same thing in different places: a variant of the client's error, an HTTP status, a code in a
//! response's body, or an operating-system error somewhere down the chain of causes.
//!
//! A response's body is not for people or logs: S3 answers a wrong signature with the access key, the signature and the
//! whole request that it was made for. So what is kept of an error is a [`Cause`], which has the status and the code.

use std::{error::Error as StdError, io};

use object_store::{
    Error as StoreError,
    client::{HttpError, HttpErrorKind},
};

use super::{code, credentials::Unusable};
use crate::ErrorKind;

/// How the client begins its message for a response that is no success; the status follows in digits.
const STATUS_PREFIX: &str = "Server returned non-2xx status code: ";

/// How the client begins its message for a success whose body says otherwise.
const RESPONSE_PREFIX: &str = "Server returned error response: ";

/// How the client begins its message for a redirection to nowhere: S3's answer in the wrong region.
const REDIRECTED: &str = "Received redirect without LOCATION";

/// Longest text taken from a store, in bytes.
const LONGEST_TEXT: usize = 300;

/// Why a store failed, without anything that would not be fit for a message or a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    /// Makes a cause of a text that is fit to be shown; for tests of what is done about failures.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Takes what may be shown of a store's error.
    pub(super) fn of(error: &StoreError) -> Self {
        let answered = causes(error).find_map(|cause| match cause.downcast_ref::<Unusable>() {
            Some(unusable) => Some(unusable.to_string()),
            None => answer(&cause.to_string()),
        });
        // Without an answer, the end of the chain says it best: `Connection refused`, `No space left on device`.
        let text = answered.or_else(|| causes(error).last().map(ToString::to_string)).unwrap_or_default();
        let mut end = text.len().min(LONGEST_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].to_owned())
    }
}

/// Takes the status and the code out of the client's message for an answer that is no success, and says what they mean.
fn answer(text: &str) -> Option<String> {
    let code = code::find(text);
    let status = match (text.split_once(STATUS_PREFIX), text.split_once(RESPONSE_PREFIX)) {
        (Some((_, answer)), _) => answer.split_once(": ").map_or(answer, |(status, _)| status),
        (None, Some(_)) => "an error",
        (None, None) => code.map(|_| "an error")?,
    };
    let mut answer = format!("the store answered {status}");
    if let Some(code) = code {
        answer = format!("{answer} ({code})");
        if let Some(meaning) = code::meaning(code).filter(|meaning| !meaning.advice.is_empty()) {
            answer = format!("{answer}: {}", meaning.advice);
        }
    }
    Some(answer)
}

/// What the stores call a bucket or container that is not there.
const BUCKET_MISSING: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"];

/// Tells whether the object is not there. A missing bucket is not a missing object.
pub(super) fn is_missing(error: &StoreError) -> bool {
    let no_such_key = || causes(error).any(|cause| code::find(&cause.to_string()) == Some("NoSuchKey"));
    (matches!(error, StoreError::NotFound { .. }) || no_such_key()) && missing_bucket(error).is_none()
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

/// Sorts a failure. What the store says in its own words counts for more than the status.
pub(super) fn kind(error: &StoreError) -> ErrorKind {
    let said = causes(error).find_map(|cause| match cause.downcast_ref::<Unusable>() {
        Some(unusable) => Some(unusable.kind),
        None => code::find(&cause.to_string()).and_then(code::meaning).map(|meaning| meaning.kind),
    });
    if let Some(kind) = said {
        return kind;
    }
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

/// Tells whether there was an answer at all, of whatever kind.
pub(super) fn is_answered(error: &StoreError) -> bool {
    causes(error).any(|cause| answer(&cause.to_string()).is_some())
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
    if text.starts_with(REDIRECTED) {
        return Some(ErrorKind::Invalid);
    }
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
    fn invariant_7_of_an_answer_only_status_and_code_are_kept() {
        let failed = |text: &str| StoreError::Generic { store: "test", source: text.into() };
        let body = "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId>\
                    <CanonicalRequest>GET /</CanonicalRequest></Error>";
        let cause = |text: &str| Cause::of(&failed(text)).to_string();
        assert_eq!(
            cause(&format!("Error performing GET in 1s - {STATUS_PREFIX}403 Forbidden: {body}")),
            "the store answered 403 Forbidden (SignatureDoesNotMatch): the secret key is not that of the access key"
        );
        assert_eq!(cause(&format!("{STATUS_PREFIX}500 Oops: secret")), "the store answered 500 Oops");
        assert_eq!(cause(&format!("{RESPONSE_PREFIX}<Code>SlowDown</Code>")), "the store answered an error (SlowDown)");
        assert_eq!(
            cause("DeleteObjects request failed for key a/b: no such luck (code: AccessDenied)"),
            "the store answered an error (AccessDenied): the credentials lack the permission, or the object \
             is under retention"
        );
        assert_eq!(
            Cause::of(&local(rustix::io::Errno::NOSPC.raw_os_error())).to_string(),
            "No space left on device (os error 28)"
        );
        assert_eq!(cause(&"ä".repeat(400)).len(), LONGEST_TEXT);
    }

    #[test]
    fn answers_are_sorted_by_code_and_then_by_status() {
        for (text, expected) in [
            (format!("{STATUS_PREFIX}400 Bad Request: <Code>ExpiredToken</Code>"), ErrorKind::Denied),
            (format!("{STATUS_PREFIX}400 Bad Request: <Code>RequestTimeout</Code>"), ErrorKind::Unavailable),
            (format!("{STATUS_PREFIX}400 Bad Request: <Code>InvalidArgument</Code>"), ErrorKind::Invalid),
            (format!("{STATUS_PREFIX}403 Forbidden: <Code>QuotaExceeded</Code>"), ErrorKind::Full),
            (format!("{STATUS_PREFIX}503 Slow Down: <Code>SlowDown</Code>"), ErrorKind::Unavailable),
            (format!("{REDIRECTED}, this normally …"), ErrorKind::Invalid),
            ("DeleteObjects request failed for key a: no (code: AccessDenied)".into(), ErrorKind::Denied),
        ] {
            let error = StoreError::Generic { store: "test", source: text.clone().into() };
            assert_eq!(kind(&error), expected, "{text}");
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
