//! The codes by which stores say why they refuse a request.
//!
//! An HTTP status alone misleads: S3 answers 400 to credentials that have expired and to a body that did not arrive
//! whole, and some stores answer 403 where a quota is used up.
//! See <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.

use crate::ErrorKind;

/// What a code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    /// How the failure is sorted, whatever the status.
    pub kind: ErrorKind,
    /// What is wrong and what to do, for people; empty where the code says it all.
    pub advice: &'static str,
}

/// Longest text that is taken for a code, in bytes.
const LONGEST: usize = 64;

/// How the client words one object's failure in a deletion of many; the code and a bracket end it.
const DELETION: (&str, &str) = ("DeleteObjects request failed for key ", "(code: ");

/// Finds the code in a response's body, or in what the client made of it.
pub(super) fn find(text: &str) -> Option<&str> {
    let in_body = || Some(text.split_once("<Code>")?.1.split_once("</Code>")?.0);
    let in_deletion = || text.contains(DELETION.0).then(|| text.rsplit_once(DELETION.1)?.1.strip_suffix(')')).flatten();
    let code = in_body().or_else(in_deletion)?;
    (code.len() <= LONGEST && !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(code)
}

/// Says what a code means, where the status alone would not do.
pub(super) fn meaning(code: &str) -> Option<Meaning> {
    let (kind, advice) = match code {
        "ExpiredToken"
        | "ExpiredTokenException"
        | "TokenRefreshRequired"
        | "RequestExpired"
        | "ExpiredAuthenticationToken" => (
            ErrorKind::Denied,
            "the credentials have expired: renew them where they come from. A file that AWS_SHARED_CREDENTIALS_FILE \
             names is read anew by itself; for keys given otherwise, start again",
        ),
        "InvalidToken" => (ErrorKind::Denied, "the session token is none of the store's: renew the credentials"),
        "InvalidAccessKeyId" => (ErrorKind::Denied, "the store does not know the access key: check it, or renew it"),
        "SignatureDoesNotMatch" => (ErrorKind::Denied, "the secret key is not that of the access key"),
        "AccessDenied" => (ErrorKind::Denied, "the credentials lack the permission, or the object is under retention"),
        "RequestTimeTooSkewed" => (ErrorKind::Denied, "this machine's clock is not right: set it"),
        "AuthorizationHeaderMalformed" => (ErrorKind::Invalid, "the bucket is in another region: set AWS_REGION"),
        "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => (ErrorKind::Full, ""),
        // What arrived was not what was sent: sending it again is the cure.
        "RequestTimeout" | "IncompleteBody" | "BadDigest" | "XAmzContentSHA256Mismatch" => (ErrorKind::Unavailable, ""),
        "SlowDown" | "ServiceUnavailable" | "InternalError" | "ServerBusy" => (ErrorKind::Unavailable, ""),
        _ => return None,
    };
    Some(Meaning { kind, advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_in_bodies_and_deletions() {
        assert_eq!(find("<Error><Code>SlowDown</Code></Error>"), Some("SlowDown"));
        assert_eq!(find("DeleteObjects request failed for key a: no (code: AccessDenied)"), Some("AccessDenied"));
        for none in ["", "(code: AccessDenied)", "<Code></Code>", "<Code>a b</Code>", "<Code>SlowDown"] {
            assert_eq!(find(none), None, "{none}");
        }
        assert_eq!(find(&format!("<Code>{}</Code>", "a".repeat(65))), None);
    }

    #[test]
    fn a_code_counts_for_more_than_a_status() {
        for (code, kind) in [
            ("ExpiredToken", ErrorKind::Denied),
            ("RequestTimeout", ErrorKind::Unavailable),
            ("QuotaExceeded", ErrorKind::Full),
            ("AuthorizationHeaderMalformed", ErrorKind::Invalid),
        ] {
            assert_eq!(meaning(code).map(|meaning| meaning.kind), Some(kind), "{code}");
        }
        assert_eq!(meaning("NoSuchKey"), None);
    }
}
