//! The check of the check: with any step of the protocol broken, some schedule must fail.

use varve_repository::mutation::Mutation::{self, *};

use crate::first_failure;

/// Every way to break the protocol.
pub(crate) const ALL: [Mutation; 14] = [
    RootBeforePacks,
    NoIntent,
    IntentRemovedEarly,
    TakeoverForgets,
    NoPinCheck,
    DeadChunksReused,
    JournalBeforePack,
    TrustsAlreadyExists,
    TombstoneLast,
    ListsLast,
    NoRecheck,
    PinsIgnored,
    DeletesBeforeRelocation,
    NoRepackCheck,
];

/// Schedules that are tried until one fails.
const SCHEDULES: u64 = 3000;

/// The mutation of that name.
pub(crate) fn named(name: &str) -> Mutation {
    let found = ALL.into_iter().find(|mutation| format!("{mutation:?}") == name);
    found.unwrap_or_else(|| panic!("there is no mutation {name}; there are {ALL:?}"))
}

#[test]
fn every_way_to_break_the_protocol_is_found() {
    let only = std::env::var("VARVE_MUTATION").ok().map(|name| named(&name));
    let mut unnoticed = Vec::new();
    for mutation in ALL.into_iter().filter(|mutation| only.is_none_or(|only| *mutation == only)) {
        let started = std::time::Instant::now();
        match first_failure(0, SCHEDULES, Some(mutation)) {
            Some((_, failure)) => println!("{mutation:?} in {:.1} s: {failure}", started.elapsed().as_secs_f64()),
            None => unnoticed.push(mutation),
        }
    }
    assert_eq!(unnoticed, [], "the simulation does not notice these");
}
