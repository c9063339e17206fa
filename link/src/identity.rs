//! This process's own certificate.
//!
//! It is looked at whenever a connection is made, and renewed there and then once two thirds of its life are over; making
//! one takes less than the handshake that it is for. So there is no timer that could be late, nothing happens while
//! nobody calls, and connections that stand are not touched: each goes on with what was shown when it was made.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::UnixTime,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};
use varve_repository::seam::{Clock, Seams};

use crate::{
    LIFE, Role, Trust,
    authority::{Authority, Error},
};

/// A role, and the certificate that shows it.
pub(crate) struct Identity {
    role: Role,
    authority: Arc<Authority>,
    seams: Seams,
    current: Mutex<Option<Current>>,
}

struct Current {
    key: Arc<CertifiedKey>,
    /// In seconds since 1970.
    renew_at: i64,
    made: i64,
}

impl Identity {
    /// Takes a role on; the certificate is made when it is first shown.
    pub(crate) fn new(trust: &Trust, role: Role) -> Self {
        let (authority, seams) = (Arc::clone(&trust.authority), trust.seams.clone());
        Self { role, authority, seams, current: Mutex::new(None) }
    }

    /// Returns a certificate that holds for another third of its life at least.
    fn certificate(&self) -> Option<Arc<CertifiedKey>> {
        let now = self.seams.clock.now().as_second();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &*current
            // A clock that was set back would otherwise leave a certificate of the future in use.
            && (current.made..current.renew_at).contains(&now)
        {
            return Some(Arc::clone(&current.key));
        }
        match self.make(LIFE) {
            Ok(made) => Some(Arc::clone(&current.insert(made).key)),
            Err(error) => {
                tracing::error!(role = %self.role, error = &error as &dyn std::error::Error, "no certificate could be made");
                current.as_ref().map(|current| Arc::clone(&current.key))
            }
        }
    }

    fn make(&self, life: Duration) -> Result<Current, Error> {
        let issued = self.authority.issue(&self.role, life, &self.seams)?;
        tracing::info!(role = %self.role, ends = %issued.ends, "made a certificate");
        let (made, ends) = (issued.made.as_second(), issued.ends.as_second());
        Ok(Current { key: Arc::new(issued.key), renew_at: made + (ends - made) / 3 * 2, made })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("role", &self.role).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if schemes.contains(&SignatureScheme::ED25519) { self.certificate() } else { None }
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The repository's clock, for judging certificates.
pub(crate) struct Time(pub(crate) Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}
