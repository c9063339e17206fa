//! Ways to break the protocol on purpose.
//!
//! A test that cannot fail shows nothing. The simulation runs with each of these once, and must find every one; the
//! switch exists only where the crate is built with the feature `mutation`, as its own tests build it.

/// One step of the protocol left out or done at the wrong time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// The root is committed before the last pack is put.
    RootBeforePacks,
    /// No intent is put.
    NoIntent,
    /// The intent is removed before the root is committed.
    IntentRemovedEarly,
    /// An attempt that takes over forgets the attempts before it.
    TakeoverForgets,
    /// Pinned roots are not looked at again behind the intent.
    NoPinCheck,
    /// What is found by hash may be a chunk that no pinned snapshot refers to.
    DeadChunksReused,
    /// The journal speaks of a pack before it is stored.
    JournalBeforePack,
    /// "Already exists" is taken for a verdict.
    TrustsAlreadyExists,
    /// A deletion deletes objects first and puts its tombstone last.
    TombstoneLast,
    /// The collector lists what there is after it has looked at who refers to it.
    ListsLast,
    /// The collector does not look at the roots again behind the intents.
    NoRecheck,
    /// The collector does not keep what intents pin.
    PinsIgnored,
    /// A repacked pack is deleted before the record says where its chunks are.
    DeletesBeforeRelocation,
    /// A repacked pack is deleted without looking whether the repacking is still its own.
    NoRepackCheck,
}
