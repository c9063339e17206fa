//! Who repacks, or repairs: the one record that protects new packs until something else refers to them.
//!
//! It stands at a fixed key, and whoever wants to repack takes it over, at any moment, from whoever has it: that one has
//! wasted a copy and nothing else, as long as it looks again before it lets the old place go (decision 0011).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::UploadId;

/// `repacking`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repacking {
    /// First half of the ids of all packs and runs that are being written; fresh at each taking over.
    pub upload: UploadId,
    /// Who writes; for people.
    pub node: String,
    /// Since when, by the writer's clock; for people.
    pub started_at: Timestamp,
}
