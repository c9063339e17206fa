//! Failures as gRPC status codes, in one place.

use tonic::{Code, Status};
use varve_repository::{Error, ErrorKind};

/// Says that a field's value is not usable: `INVALID_ARGUMENT`, naming field, value and what would be right.
pub fn invalid(field: &str, value: impl std::fmt::Debug, expected: &str) -> Status {
    Status::invalid_argument(format!("{field} is {value:?}: expected {expected}"))
}

/// Says that a required field is missing.
pub fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is missing"))
}

/// Maps a failure of the repository to the code that CSI prescribes, with its whole chain of causes as the message.
#[must_use]
pub fn repository(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Full => Code::ResourceExhausted,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Cancelled | ErrorKind::Unsupported | ErrorKind::WrongKey => Code::FailedPrecondition,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Local => Code::Internal,
    };
    Status::new(code, chain(error))
}

/// Joins an error and its causes into one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
