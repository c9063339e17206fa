//! What stands in `cuts/<snapshot>/record.json`.

use serde::{Deserialize, Serialize};
use varve_repository::{
    id::SnapshotId,
    record::{snapshot::SnapshotDescription, volume::OffloadParameters},
};

/// What the node knows of a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was cut; it becomes part of the snapshot's root.
    pub description: SnapshotDescription,
    /// What becomes of it.
    pub state: State,
    /// The snapshot whose blocks the volume started with, as its record said at the cut: the cut may outlive the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<SnapshotId>,
    /// How it is offloaded once its volume is gone; the volume's own parameters count while it is there.
    #[serde(default)]
    pub offload: OffloadParameters,
}

/// What becomes of a cut, as far as that is to survive a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is to be offloaded.
    Pending,
    /// Its root is committed; it is kept for the next cut's changed extents to be computed against.
    Base,
    /// It is never offloaded: the node is where it is kept (`durability: node`).
    NodeOnly,
    /// It was not in the repository yet when the pool ran full, and its image went so that no volume's write fails. Its
    /// record stays: the same snapshot cannot be had again, since that would be another instant.
    GivenUp {
        /// What happened and what to do.
        message: String,
    },
    /// Its offload cannot succeed without a person. It is tried once more after a restart.
    Failed {
        /// What went wrong and what to do.
        message: String,
    },
}

impl State {
    /// Tells whether the cut still has something that the repository lacks and is to have.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        matches!(self, Self::Pending | Self::Failed { .. })
    }
}
