//! The backup engine: everything that reads or writes a repository, and nothing else.
//!
//! It needs no root, no gRPC and no Kubernetes: a [`Repository`] is opened on an object store with a
//! master key, volumes and snapshots are records in it, [`offload`] moves the changed blocks of a
//! [`BlockSource`](block::BlockSource) into it and [`hydrate`] moves them back out.
//!
//! # Layout of a bucket prefix
//!
//! ```text
//! repository            format version, repository uuid, key slots
//! volumes/<volume>      one sealed record a volume            create-if-absent, then conditional update
//! uploads/<snapshot>    the intent of one offload             before the first pack
//! packs/<pack>          chunks and their sealed table         never changed, id never reused
//! runs/<run>            extents, in sealed pages              never changed, id never reused
//! snapshots/<snapshot>  a root, or a tombstone                create-if-absent: the only commit point
//! ```
//!
//! Every byte is described in `docs/format.md`.
//!
//! # Invariants
//!
//! The eight numbered invariants of `docs/architecture.md`; those that this crate alone can keep are
//! 1 (a root restores byte for byte), 2 (nothing reachable is deleted), 3 (crash safety of the commit),
//! 6 (a flipped bit is detected before it reaches a volume) and 8 (bounded memory).

pub mod bandwidth;
pub mod block;
mod buffer;
pub mod check;
pub mod collect;
pub mod copy;
pub mod crypto;
pub mod difference;
pub mod error;
mod fault;
pub mod format;
#[cfg(test)]
mod fuzz;
pub mod hydrate;
pub mod id;
pub mod memory;
pub mod mutation;
pub mod offload;
pub mod pack;
pub mod progress;
pub mod record;
pub mod repair;
mod repository;
pub mod run;
pub mod seam;
pub mod stages;
pub mod stats;
pub mod store;
mod work;

pub use error::{Error, ErrorKind, Result};
pub use repository::{Claim, DamagedRoot, Deletion, Readable, Repository, Slot, SnapshotState, Versioned};
