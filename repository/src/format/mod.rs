//! The bytes that every object begins with, and the envelope of the small ones.
//!
//! `docs/format.md` describes format version 1 in full. Packs and runs share the [header] and lay out the rest
//! themselves; records (repository, volume, intent, root, tombstone) stand in an [envelope].

pub mod envelope;
pub mod header;

pub(crate) use header::{HEADER_LEN, Kind, put_header};
