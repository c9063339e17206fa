//! The small records: what a volume, an intent, a root, a tombstone and a relocation say.
//!
//! Each is a JSON object inside a sealed [envelope](crate::format::envelope). Unknown fields are kept out of
//! the reader's way, so that a later minor addition stays readable; a field's meaning never changes within a
//! format version.

pub mod intent;
pub(crate) mod relocation;
pub mod repacking;
pub(crate) mod repository;
pub mod snapshot;
pub mod volume;
