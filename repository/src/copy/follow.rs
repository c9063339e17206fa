//! Keeping a copy current: rounds for ever, with pauses.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Copier, Report, snapshot::chain};
use crate::{Error, ErrorKind, Result, progress::Progress};

/// The pause after the first round that failed; it doubles with each that follows.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after a round that failed, unless the interval is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Copier {
    /// Copies what is missing, again and again, until the token is cancelled.
    ///
    /// A store that does not answer, refuses or is full is tried again after a pause: whatever ails it may be put right
    /// meanwhile. A snapshot that is damaged is tried again only once a repair changed its root.
    ///
    /// `told` is given what each round came to.
    ///
    /// # Errors
    /// Those of [`Repository::copy_to`](crate::Repository::copy_to) that do not pass.
    ///
    /// # Cancellation
    /// By the token, which is no error.
    pub async fn follow(
        &mut self,
        interval: Duration,
        progress: &Progress,
        cancel: &CancellationToken,
        mut told: impl FnMut(&Result<Report>),
    ) -> Result<()> {
        let mut failures = 0;
        while !cancel.is_cancelled() {
            let round = self.round(progress, cancel).await;
            if cancel.is_cancelled() {
                break;
            }
            told(&round);
            let pause = match round {
                Ok(_) => {
                    failures = 0;
                    interval
                }
                Err(error) if passes(&error) => {
                    let pause = pause_after(failures, interval);
                    failures += 1;
                    tracing::warn!(error = chain(&error), ?pause, "a store cannot be used: trying again after a pause");
                    pause
                }
                Err(error) => return Err(error),
            };
            cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        Ok(())
    }
}

/// Tells whether a failure may be gone by the next round.
fn passes(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::Full)
}

/// How long to wait after a round that failed, behind so many others that did.
fn pause_after(failures: u32, interval: Duration) -> Duration {
    let doubled = SHORTEST_PAUSE.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
    doubled.min(LONGEST_PAUSE.max(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_or_the_interval() {
        let pauses: Vec<u64> = (0..8).map(|n| pause_after(n, Duration::from_secs(5)).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause_after(200, Duration::from_secs(300)).as_secs(), 300);
    }
}
