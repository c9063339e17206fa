//! Pages of a listing: `max_entries` and `starting_token`.
//!
//! A token is `v1-` and the key of the last entry given, in hexadecimal: it needs no memory on this side, survives a
//! restart, and text that no page was given with is told apart.

use tonic::Status;

use crate::status;

const PREFIX: &str = "v1-";

/// Cuts one page out of a listing that is ordered by `key`. The token is the key of the last entry given, so that a
/// listing goes on rightly when entries come and go between two pages. The token is empty at the end.
///
/// # Errors
/// `INVALID_ARGUMENT` for a negative `max_entries`, `ABORTED` for a token that no page was given with (CSI, ListVolumes).
pub fn page<T>(
    mut entries: Vec<T>,
    key: impl Fn(&T) -> String,
    max_entries: i32,
    starting_token: &str,
) -> Result<(Vec<T>, String), Status> {
    let Ok(max_entries) = usize::try_from(max_entries) else {
        return Err(status::invalid("max_entries", max_entries, "0 for all, or how many at the most"));
    };
    debug_assert!(entries.is_sorted_by_key(&key), "a listing is ordered by its key");
    if !starting_token.is_empty() {
        let last = decode(starting_token)?;
        let given = entries.partition_point(|entry| key(entry) <= last);
        entries.drain(..given);
    }
    if max_entries == 0 || entries.len() <= max_entries {
        return Ok((entries, String::new()));
    }
    entries.truncate(max_entries);
    let token = entries.last().map(|entry| encode(&key(entry))).unwrap_or_default();
    Ok((entries, token))
}

fn encode(key: &str) -> String {
    format!("{PREFIX}{}", hex::encode(key))
}

fn decode(token: &str) -> Result<String, Status> {
    token
        .strip_prefix(PREFIX)
        .and_then(|digits| hex::decode(digits).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Status::aborted("starting_token was not given by this driver: list again from the start"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::btree_set, prelude::*};
    use tonic::Code;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_listing_goes_on_where_it_ended() {
        let all = names(&["a", "b", "c"]);
        let (first, token) = page(all.clone(), String::clone, 2, "").unwrap();
        assert_eq!((first, token.as_str()), (names(&["a", "b"]), "v1-62"));
        let (rest, end) = page(all, String::clone, 2, &token).unwrap();
        assert_eq!((rest, end), (names(&["c"]), String::new()));
    }

    #[test]
    fn entries_may_come_and_go_between_pages() {
        let (_, token) = page(names(&["a", "b", "c"]), String::clone, 2, "").unwrap();
        let (rest, end) = page(names(&["aa", "bb", "d"]), String::clone, 0, &token).unwrap();
        assert_eq!((rest, end), (names(&["bb", "d"]), String::new()));
    }

    #[test]
    fn the_last_page_has_no_token() {
        assert_eq!(page(names(&["a", "b"]), String::clone, 2, "").unwrap().1, "");
        assert_eq!(page(names(&[]), String::clone, 1, "").unwrap(), (names(&[]), String::new()));
        assert_eq!(page(names(&["a"]), String::clone, 0, "").unwrap(), (names(&["a"]), String::new()));
    }

    #[test]
    fn foreign_tokens_are_aborted_and_negative_counts_invalid() {
        for token in ["invalid-token", "v1-6", "v1-zz", "v2-62", "62", "v1-ff"] {
            assert_eq!(page(names(&["a"]), String::clone, 1, token).unwrap_err().code(), Code::Aborted, "{token}");
        }
        assert_eq!(page(names(&["a"]), String::clone, -1, "").unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(page(names(&["a"]), String::clone, i32::MIN, "").unwrap_err().code(), Code::InvalidArgument);
    }

    proptest! {
        #[test]
        fn pages_add_up_to_the_listing(all in btree_set(".{0,12}", 0..40), size in 1..10_i32) {
            let all: Vec<String> = all.into_iter().collect();
            let mut seen = Vec::new();
            let mut token = String::new();
            loop {
                let (entries, next) = page(all.clone(), String::clone, size, &token).unwrap();
                prop_assert!(entries.len() <= usize::try_from(size).unwrap());
                seen.extend(entries);
                if next.is_empty() {
                    break;
                }
                token = next;
            }
            prop_assert_eq!(seen, all);
        }

        #[test]
        fn whatever_stays_is_given_once(
            before in btree_set("[a-z]{1,3}", 1..40),
            after in btree_set("[a-z]{1,3}", 0..40),
            size in 1..10_i32,
        ) {
            let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
            let (mut seen, token) = page(list(&before), String::clone, size, "").unwrap();
            if !token.is_empty() {
                seen.extend(page(list(&after), String::clone, 0, &token).unwrap().0);
            }
            for name in before.intersection(&after) {
                prop_assert_eq!(seen.iter().filter(|given| *given == name).count(), 1);
            }
        }

        #[test]
        fn no_token_panics(token in ".*") {
            let _ = page(names(&["a", "b"]), String::clone, 1, &token);
            let _ = page(names(&["a", "b"]), String::clone, 1, &format!("v1-{token}"));
        }
    }
}
