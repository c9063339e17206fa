//! Failures as gRPC status codes, in one place.

use std::error::Error as StdError;

use tonic::{Code, Status};
use varve_repository::{Error, ErrorKind};

/// Longest message that a status carries, in bytes. It travels in a header, escaped to up to three times its length,
/// and clients take headers of 16 KiB at the most.
const LONGEST_MESSAGE: usize = 4096;

/// Says that a field's value is not usable: `INVALID_ARGUMENT`, naming field, value and what would be right.
pub fn invalid(field: &str, value: impl std::fmt::Debug, expected: &str) -> Status {
    bounded(Code::InvalidArgument, format!("{field} is {value:?}: expected {expected}"))
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
    of(code, error)
}

/// Makes a status of a code and an error with its causes, cut to a length that fits a header.
#[must_use]
pub fn of(code: Code, error: &dyn StdError) -> Status {
    bounded(code, chain(error))
}

/// Joins an error and its causes into one line. A cause that the text before it ends with is not repeated.
#[must_use]
pub fn chain(error: &dyn StdError) -> String {
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

fn bounded(code: Code, mut message: String) -> Status {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE - '…'.len_utf8()));
        message.push('…');
    }
    Status::new(code, message)
}

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::prelude::*;

    use varve_repository::store::Cause;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (text, rest) = texts.split_first().expect("a text");
        let source = (!rest.is_empty()).then(|| Box::new(layers(rest)));
        Layer { text, source }
    }

    #[test]
    fn causes_are_joined_and_not_repeated() {
        assert_eq!(
            chain(&layers(&["staging", "mount failed", "no such device"])),
            "staging: mount failed: no such device"
        );
        assert_eq!(
            chain(&layers(&["staging: no such device", "no such device", "ENODEV"])),
            "staging: no such device: ENODEV"
        );
    }

    #[test]
    fn kinds_become_the_codes_that_csi_prescribes() {
        let url = || "s3://bucket/prefix".to_owned();
        let local = || io::Error::from(io::ErrorKind::StorageFull);
        let store = |kind| Error::Store {
            operation: "writing",
            object: "packs/00".into(),
            kind,
            source: Cause::new("the store answered 503 Slow Down"),
        };
        for (error, code) in [
            (Error::Location { url: url(), reason: "no scheme".into() }, Code::InvalidArgument),
            (Error::NoRepository { url: url() }, Code::NotFound),
            (Error::WrongKey { slots: Vec::new() }, Code::FailedPrecondition),
            (Error::UnfitStore { url: url(), reason: "no create-if-absent".into() }, Code::FailedPrecondition),
            (Error::Corrupt { object: "runs/00".into(), reason: "checksum".into() }, Code::DataLoss),
            (Error::Conflict { object: "volumes/vol-1".into() }, Code::Aborted),
            (Error::Local { what: "reading the image".into(), source: local() }, Code::Internal),
            (store(ErrorKind::Unavailable), Code::Unavailable),
            (store(ErrorKind::Denied), Code::PermissionDenied),
            (store(ErrorKind::Full), Code::ResourceExhausted),
            (store(ErrorKind::Cancelled), Code::FailedPrecondition),
        ] {
            let status = repository(&error);
            assert_eq!(status.code(), code, "{error}");
            assert!(status.message().starts_with(&error.to_string()), "{}", status.message());
            assert!(status.details().is_empty(), "CSI wants no details");
        }
        let error = Error::Local { what: "reading the image".into(), source: local() };
        assert_eq!(repository(&error).message(), format!("reading the image: {}", local()));
    }

    #[test]
    fn fields_are_named() {
        assert_eq!(missing("volume_id").message(), "volume_id is missing");
        assert_eq!(invalid("max_entries", -1, "0 or more").message(), "max_entries is -1: expected 0 or more");
    }

    proptest! {
        #[test]
        fn a_message_fits_its_header(text in ".{0,6000}") {
            let status = of(Code::Internal, &io::Error::other(text.clone()));
            prop_assert!(status.message().len() <= LONGEST_MESSAGE);
            prop_assert!(status.message() == text || status.message().ends_with('…'));
        }
    }
}
