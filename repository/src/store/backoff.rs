//! Waiting longer after each failure, by a random part, so that rivals do not meet again.

use std::time::Duration;

use rand::RngExt;

/// Attempts in all at one conditional put.
pub(super) const ATTEMPTS: u32 = 6;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Waits after the `attempt`th failure, counted from 0: between half and all of a time that doubles.
pub(super) async fn wait(attempt: u32) {
    let ceiling = FIRST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
    let fraction = rand::rng().random_range(0.5..1.0);
    tokio::time::sleep(ceiling.mul_f64(fraction)).await;
}
