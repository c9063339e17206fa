//! Pages of a listing: `max_entries` and `starting_token`.

use tonic::Status;

/// Cuts one page out of a listing that is ordered by `key`. The token is the key of the last entry given, so that a
/// listing goes on rightly when entries come and go between two pages.
///
/// # Errors
/// `INVALID_ARGUMENT` for a negative `max_entries`, `ABORTED` for a token that no page was given with (CSI, ListVolumes).
pub fn page<T>(
    entries: Vec<T>,
    key: impl Fn(&T) -> String,
    max_entries: i32,
    starting_token: &str,
) -> Result<(Vec<T>, String), Status> {
    let _ = (entries, key, max_entries, starting_token);
    unimplemented!()
}
