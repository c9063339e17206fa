//! What is asked of the other side's certificate: issued by this repository's authority, valid now, for the role and the
//! name that are expected. A listener expects a controller, a dialler the node it dialled.
//!
//! # Invariants
//! TLS 1.3 alone, and no session is ever resumed: a certificate is looked at on every connection.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    Role, Trust,
    identity::{Identity, Time},
};

/// The protocol inside: HTTP/2, which gRPC is.
const PROTOCOL: &[u8] = b"h2";

/// A certificate that is this authority's and another's than the one that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is for {found:?} and not for {expected:?}")]
pub(crate) struct Mistaken {
    expected: String,
    found: Vec<String>,
}

/// Takes the certificates of one role.
#[derive(Debug)]
struct Verifier {
    anchor: TrustAnchor<'static>,
    provider: Arc<CryptoProvider>,
    expected: Role,
}

/// What a node listens with: it shows itself as that node, and takes controllers alone.
///
/// # Errors
/// Those of the library, where it lacks what is asked for.
pub(crate) fn listening(trust: &Trust, identity: Arc<Identity>) -> Result<ServerConfig, Error> {
    let verifier = Verifier::new(trust, Role::Controller);
    let mut config = ServerConfig::builder_with_details(Arc::clone(&verifier.provider), time(trust))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What a controller dials a node with: it takes that node alone.
///
/// # Errors
/// Those of the library, where it lacks what is asked for.
pub(crate) fn dialling(trust: &Trust, identity: Arc<Identity>, node: &str) -> Result<ClientConfig, Error> {
    let verifier = Verifier::new(trust, Role::Node(node.to_owned()));
    let mut config = ClientConfig::builder_with_details(Arc::clone(&verifier.provider), time(trust))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(identity);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    // Names are in certificates; the one on the wire is the same for all and means nothing.
    config.enable_sni = false;
    Ok(config)
}

fn time(trust: &Trust) -> Arc<Time> {
    Arc::new(Time(Arc::clone(&trust.seams.clock)))
}

impl Verifier {
    fn new(trust: &Trust, expected: Role) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Self { anchor: trust.authority.anchor().clone(), provider, expected }
    }

    fn verify(&self, certificate: &CertificateDer<'_>, now: UnixTime, usage: KeyUsage) -> Result<(), Error> {
        let certificate = EndEntityCert::try_from(certificate).map_err(refuse)?;
        let anchors = std::slice::from_ref(&self.anchor);
        let algorithms = self.provider.signature_verification_algorithms.all;
        // Whatever else was sent along is not looked at: the authority signs each certificate itself.
        certificate.verify_for_usage(algorithms, anchors, &[], now, usage, None, None).map_err(refuse)?;
        let expected = self.expected.to_string();
        let found: Vec<String> = certificate.valid_uri_names().map(str::to_owned).collect();
        if found == [expected.as_str()] {
            Ok(())
        } else {
            Err(CertificateError::Other(OtherError(Arc::new(Mistaken { expected, found }))).into())
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
}

/// Tells in the TLS library's terms why a certificate is not taken, so that the other side is told as well.
fn refuse(error: webpki::Error) -> Error {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        // One that signed itself is taken for an authority, and is none of ours.
        E::UnknownIssuer | E::CaUsedAsEndEntity => CertificateError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
    .into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(certificate, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(certificate, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests;
