//! How long to go on trying: longer after each failure, by a random part, so that rivals do not meet again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::seam::Entropy;

/// Most attempts at one conditional put.
const ATTEMPTS: u32 = 6;

/// Longest to go on, whatever the attempts took: the client below has patience of its own.
const LIMIT: Duration = Duration::from_secs(10);

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// What is left of the attempts at one conditional put.
#[derive(Debug)]
pub(super) struct Patience {
    failures: u32,
    start: Instant,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { failures: 0, start: Instant::now() }
    }

    /// Waits after a failure, between half and all of a time that doubles; tells whether to try again.
    pub(super) async fn waits(&mut self, entropy: &dyn Entropy) -> bool {
        self.failures += 1;
        if self.failures == ATTEMPTS || self.start.elapsed() > LIMIT {
            return false;
        }
        let ceiling = FIRST.saturating_mul(1 << (self.failures - 1)).min(LONGEST);
        let mut random = [0; 2];
        entropy.fill(&mut random);
        let fraction = f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX);
        sleep(ceiling.mul_f64(fraction.midpoint(1.0))).await;
        true
    }
}
