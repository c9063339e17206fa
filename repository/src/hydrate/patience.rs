//! How long a read that failed is tried again: what is fetched already is worth more than a wait of some seconds.
//!
//! The store's own client has tried before; this is for what outlasts its patience, such as a server that starts anew.

use std::time::Duration;

use tokio::time::sleep;

use crate::{Error, Repository};

/// Most attempts at one read.
const ATTEMPTS: u32 = 4;

const FIRST: Duration = Duration::from_millis(250);

/// What is left of the attempts at one read.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    failures: u32,
}

impl Patience {
    /// Waits after a failure that may pass, between half and all of a time that doubles: some 2 s in all, the store.s own patience aside. Tells whether
    /// to try again; not where the failure is of another kind, or has come too often.
    pub(crate) async fn outlasts(&mut self, repository: &Repository, error: &Error) -> bool {
        let may_pass = matches!(error, Error::Store { .. }) && error.is_transient();
        self.failures += 1;
        if !may_pass || self.failures == ATTEMPTS {
            return false;
        }
        let ceiling = FIRST.saturating_mul(1 << (self.failures - 1));
        let fraction = f64::from(u16::from_le_bytes(repository.seams().random())) / f64::from(u16::MAX);
        tracing::debug!(%error, failures = self.failures, "a read failed and is tried again");
        sleep(ceiling.mul_f64(fraction.midpoint(1.0))).await;
        true
    }
}
