//! Why a backup or a restore does not come to its end, as users are told: one word, one sentence, and what to do.
//!
//! The words are those of `docs/operations.md`, which lists them.

use varve_repository::ErrorKind;

/// What a kind of failure is to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trouble {
    /// One CamelCase word.
    pub reason: &'static str,
    /// What is the matter; what the system says of it may follow.
    pub what: &'static str,
    /// What to do.
    pub advice: &'static str,
}

impl Trouble {
    /// The driver itself has failed.
    pub const DRIVER: Self =
        Self { reason: "DriverFailure", what: "the driver failed", advice: "the log of the node's driver says more" };

    /// All that there are.
    pub const ALL: [Self; 7] = [
        Self::of(ErrorKind::Unavailable),
        Self::of(ErrorKind::Denied),
        Self::of(ErrorKind::Full),
        Self::of(ErrorKind::Corrupt),
        Self::of(ErrorKind::Local),
        Self::of(ErrorKind::Unsupported),
        Self::DRIVER,
    ];

    /// What a failure of the repository is to users.
    #[must_use]
    pub const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Unavailable => Self {
                reason: "RepositoryUnreachable",
                what: "the store does not answer",
                advice: "it is tried again by itself; if it lasts, see to the store, and to the network between",
            },
            ErrorKind::Denied => Self {
                reason: "RepositoryAccessDenied",
                what: "the store refuses",
                advice: "give the driver's credentials the permission that is missing",
            },
            ErrorKind::Full => Self {
                reason: "RepositoryFull",
                what: "the store is full",
                advice: "delete snapshots and collect, or give the bucket more room",
            },
            ErrorKind::Corrupt => Self {
                reason: "RepositoryDamaged",
                what: "the repository is damaged",
                advice: "`varve repository check --level content` says what is hurt, and `varve repository repair` mends it \
                         where it can; other snapshots restore",
            },
            ErrorKind::Local => Self {
                reason: "NodeStorageFailed",
                what: "the node cannot read or write its pool",
                advice: "see to the node's disk, and to the room that its pool has",
            },
            ErrorKind::Invalid
            | ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::Cancelled
            | ErrorKind::Unsupported
            | ErrorKind::WrongKey => Self {
                reason: "RepositoryUnusable",
                what: "the repository cannot be used as it is",
                advice: "see to its location, its key and the bucket; `varve repository check` says more",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_is_one_of_those_that_are_documented() {
        let documentation = include_str!("../../docs/operations.md");
        for trouble in ErrorKind::ALL.map(Trouble::of).into_iter().chain([Trouble::DRIVER]) {
            assert!(Trouble::ALL.contains(&trouble), "{trouble:?}");
            assert!(documentation.contains(&format!("`{}`", trouble.reason)), "docs/operations.md lacks {trouble:?}");
        }
        let reasons: BTreeSet<_> = Trouble::ALL.iter().map(|trouble| trouble.reason).collect();
        assert_eq!(reasons.len(), Trouble::ALL.len());
    }

    #[test]
    fn a_store_that_does_not_answer_is_said_to_be_tried_again() {
        let trouble = Trouble::of(ErrorKind::Unavailable);
        assert!(trouble.what.contains("does not answer") && trouble.advice.contains("tried again"), "{trouble:?}");
    }
}
