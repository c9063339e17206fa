//! Locations, fuzzed: what people type, and what they should not.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

const SECRET: &str = "hunter2";

/// Everything that is said of a text that is to be a location.
fn said_of(text: &str) -> Vec<String> {
    match fuzz::bounded(64 * text.len() + 4096, || parse(text)) {
        Ok(location) => vec![location.to_string()],
        Err(reason) => vec![Error::Location { url: without_credentials(text), reason }.to_string()],
    }
}

proptest! {
    #![proptest_config(fuzz::config())]

    #[test]
    fn fuzzed(
        arbitrary in ".{0,200}",
        likely in "(file|s3|az|gs)(://|:/|:|///)[a-z0-9.@%:/?#\\[\\]-]{0,60}",
        damages in fuzz::damages(),
    ) {
        let damaged = fuzz::damaged(b"s3://my.bucket-1/a/prefix", &damages);
        for text in [arbitrary, likely, String::from_utf8_lossy(&damaged).into_owned()] {
            said_of(&text);
        }
    }

    #[test]
    fn credentials_are_never_repeated(
        before in "(s3|az|gs|https?|)(://|:/|:|)",
        // Secret keys may hold slashes.
        user in "[a-zA-Z0-9+%]{0,20}|[a-zA-Z0-9]{1,10}:[a-zA-Z0-9+/]{0,10}",
        after in "[a-z0-9./:?#%-]{0,30}",
    ) {
        let text = format!("{before}{user}{SECRET}@{after}");
        for said in said_of(&text) {
            prop_assert!(!said.contains(SECRET), "{text:?}: {said}");
        }
    }
}
