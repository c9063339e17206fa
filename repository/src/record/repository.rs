//! What stands at `repository` and, once more, at `repository.copy`: what identifies a repository, and who may open it.
//! The only record that is not sealed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::crypto::KeySlot;

/// `repository`, and its copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepositoryRecord {
    /// The format version of everything in the repository.
    pub format: u16,
    /// The repository's identity; random.
    pub uuid: Uuid,
    /// When it was made, by its maker's clock; for people.
    pub created_at: Timestamp,
    /// How often the slots changed, and once for the beginning; of two copies that differ, the later one counts.
    #[serde(default)]
    pub generation: u64,
    /// The data key, sealed once under each master key.
    pub slots: Vec<KeySlot>,
}
