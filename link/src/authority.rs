//! The certificate authority of one repository.
//!
//! Its key is derived from the repository's data key, so every process that opened the repository has the same authority
//! without having been given it, and it outlives changes of master keys. It exists in memory alone.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey, date_time_ymd,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_eddsa_type,
    pki_types::{PrivatePkcs8KeyDer, TrustAnchor},
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use varve_repository::{crypto::AuthoritySeed, seam::Seams};
use webpki::anchor_from_trusted_cert;
use zeroize::Zeroizing;

use crate::Role;

/// How far clocks of two machines may be apart for a certificate that was made a moment ago.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// What stands before the seed of an Ed25519 key in PKCS #8 (RFC 8410, section 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Why a certificate could not be made; a mistake in this program, since nothing of it depends on input.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be written down.
    #[error("a certificate cannot be written")]
    Certificate(#[from] rcgen::Error),
    /// Its key is not one.
    #[error("a key cannot be used")]
    Key(#[from] rustls::Error),
    /// The library refused a key.
    #[error("a key was refused: {0}")]
    Rejected(#[from] aws_lc_rs::error::KeyRejected),
    /// The clock is beyond what certificates can say.
    #[error("the time {0} does not fit into a certificate")]
    Time(Timestamp),
}

/// The authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, Key>,
    anchor: TrustAnchor<'static>,
}

/// A certificate with its key, and when it begins and ends to hold.
pub(crate) struct Issued {
    /// What is shown to others.
    pub(crate) key: CertifiedKey,
    /// When it was made.
    pub(crate) made: Timestamp,
    /// When it ends.
    pub(crate) ends: Timestamp,
}

impl Authority {
    /// Makes the authority of the repository that has this seed and uuid.
    pub(crate) fn new(seed: &AuthoritySeed, repository: impl std::fmt::Display) -> Self {
        let key = Key::new(seed.as_bytes()).expect("any 32 bytes are the seed of an Ed25519 key");
        let mut params = params(format!("varve agents of {repository}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(SerialNumber::from(1));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
        let certificate = params.self_signed(&key).expect("a certificate of nothing but constants can be made");
        let anchor = anchor_from_trusted_cert(certificate.der()).expect("a certificate made here can be read");
        Self { anchor: anchor.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// What certificates of this authority lead to.
    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    /// Makes a key, and a certificate for it that holds from now on.
    pub(crate) fn issue(&self, role: &Role, life: Duration, seams: &Seams) -> Result<Issued, Error> {
        let seed = Zeroizing::new(seams.random::<32>());
        let mut pkcs8 = Zeroizing::new([0; 48]);
        pkcs8[..16].copy_from_slice(&PKCS8);
        pkcs8[16..].copy_from_slice(&*seed);
        let made = seams.clock.now();
        let ends = made.saturating_add(life).map_err(|_| Error::Time(made))?;

        let mut params = params(role.to_string());
        params.not_before = date(made.saturating_sub(SKEW).map_err(|_| Error::Time(made))?)?;
        params.not_after = date(ends)?;
        params.serial_number = Some(serial(seams.random()));
        params.subject_alt_names = vec![SanType::URI(role.to_string().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![role.purpose()];
        let certificate = params.signed_by(&Key::new(&seed)?, &self.issuer)?;
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(&pkcs8[..]))?;
        Ok(Issued { key: CertifiedKey::new(vec![certificate.der().clone()], key), made, ends })
    }
}

fn params(name: String) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // There is one key of an authority, so nothing has to be told apart by it.
    params.key_identifier_method = KeyIdMethod::PreSpecified(Vec::new());
    params
}

fn date(at: Timestamp) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| Error::Time(at))
}

/// A serial number is positive, and its first byte not zero (RFC 5280, section 4.1.2.2).
fn serial(mut random: [u8; 16]) -> SerialNumber {
    random[0] = random[0] & 0x7f | 0x40;
    SerialNumber::from(random.to_vec())
}

/// An Ed25519 key. The library wipes it when it is dropped.
struct Key {
    pair: Ed25519KeyPair,
}

impl Key {
    fn new(seed: &[u8; 32]) -> Result<Self, aws_lc_rs::error::KeyRejected> {
        Ok(Self { pair: Ed25519KeyPair::from_seed_unchecked(seed)? })
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A controller's certificate that nobody but itself vouches for, as an authority or as none.
    pub(crate) fn self_signed(authority: bool) -> CertifiedKey {
        let seed = [7; 32];
        let role = Role::Controller;
        let mut params = params(role.to_string());
        params.serial_number = Some(SerialNumber::from(1));
        params.subject_alt_names = vec![SanType::URI(role.to_string().try_into().unwrap())];
        params.extended_key_usages = vec![role.purpose()];
        params.is_ca = if authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        let certificate = params.self_signed(&Key::new(&seed).unwrap()).unwrap();
        let pkcs8 = [PKCS8.as_slice(), &seed].concat();
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).unwrap();
        CertifiedKey::new(vec![certificate.der().clone()], key)
    }
}
