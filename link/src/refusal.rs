//! Why a connection came to nothing, in words that say what to look into.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::verify::Mistaken;

/// Says why; the system's own words where it is not about who is who.
pub(crate) fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "the other side hung up".into(),
        None => error.to_string(),
    }
}

fn tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(reason) => certificate(reason),
        Error::NoCertificatesPresented => "the other side showed no certificate".into(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion)
        | Error::InvalidMessage(InvalidMessage::MessageTooLarge) => "the other side does not speak TLS".into(),
        Error::AlertReceived(alert) => refused(*alert),
        other => other.to_string(),
    }
}

fn certificate(reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the other side's certificate is not of this repository: does it have another repository's key?".into()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the other side's certificate expired {} s ago: is one of the clocks wrong?",
            time.as_secs().saturating_sub(not_after.as_secs())
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the other side's certificate begins to hold in {} s: is one of the clocks wrong?",
            not_before.as_secs().saturating_sub(time.as_secs())
        ),
        CertificateError::InvalidPurpose => "the other side's certificate is for another role".into(),
        CertificateError::Other(other) => match other.0.downcast_ref::<Mistaken>() {
            Some(mistaken) => format!("the other side's certificate is another's: {mistaken}"),
            None => format!("the other side's certificate is not taken: {}", other.0),
        },
        other => format!("the other side's certificate is not taken: {other}"),
    }
}

/// What the other side says of us.
fn refused(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "the other side refused our certificate: it has another repository's key".into()
        }
        AlertDescription::CertificateExpired => {
            "the other side refused our certificate as expired: is one of the clocks wrong?".into()
        }
        AlertDescription::CertificateRequired => "the other side asks for a certificate".into(),
        other => format!("the other side refused us: {other:?}"),
    }
}
