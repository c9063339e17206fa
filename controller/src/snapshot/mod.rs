//! Snapshots: a cut on a node until its offload ends, a root in the repository from then on.
//!
//! A cut that is to be kept on its node alone (`durability: node`) never becomes a root.
//!
//! # Concurrency
//! A cut is listed by its node until its root is committed, and for a moment longer. Whoever looks in both places and
//! wants to be sure looks for the cut first and for the root afterwards: what was committed in between is then found as a
//! root, where the opposite order would find it nowhere.

mod create;
mod delete;
mod find;
mod list;
#[cfg(test)]
mod tests;

use prost_types::Timestamp;
use tonic::Status;
use varve_csi::capacity::wire;
use varve_proto::{
    agent::{self, cut},
    csi,
};
use varve_repository::{
    id::{GroupId, SnapshotId, VolumeId},
    record::snapshot::Root,
};

pub(crate) use self::find::{Filter, Found};
use crate::{parameters::Durability, topology};

/// The key that calls on a snapshot are serialised by.
fn exclusively(id: SnapshotId) -> String {
    format!("snapshot {id}")
}

/// How far a snapshot has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Cut; its changed blocks are on their way.
    Offloading {
        /// Logical bytes offloaded.
        done: u64,
        /// Logical bytes to offload; 0 while unknown.
        total: u64,
    },
    /// Volumes can be made of it.
    Ready,
    /// Its offload cannot succeed without a person.
    Failed(String),
}

/// A snapshot, wherever it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) id: SnapshotId,
    pub(crate) volume: VolumeId,
    pub(crate) group: Option<GroupId>,
    pub(crate) created_at: Timestamp,
    /// Size of the volume at the cut, in bytes.
    pub(crate) bytes: u64,
    pub(crate) stage: Stage,
    pub(crate) durability: Durability,
    /// The node that made the cut.
    pub(crate) node: String,
}

impl Snapshot {
    /// Reads what a node says of a cut.
    ///
    /// # Errors
    /// `INTERNAL` where the answer is malformed.
    pub(crate) fn of_cut(node: &str, cut: &agent::Cut) -> Result<Self, Status> {
        let malformed = |what: &str| {
            Status::internal(format!("node {node:?} lists a cut {:?} with a malformed {what}", cut.snapshot_id))
        };
        let group = match cut.group_id.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| malformed("group_id"))?),
        };
        let stage = match cut.state() {
            cut::State::Ready => Stage::Ready,
            cut::State::Failed => Stage::Failed(cut.message.clone()),
            cut::State::Pending | cut::State::Offloading | cut::State::Unspecified => {
                Stage::Offloading { done: cut.done_bytes, total: cut.total_bytes }
            }
        };
        Ok(Self {
            id: cut.snapshot_id.parse().map_err(|_| malformed("snapshot_id"))?,
            volume: cut.volume_id.parse().map_err(|_| malformed("volume_id"))?,
            group,
            created_at: cut.created_at.ok_or_else(|| malformed("created_at"))?,
            bytes: cut.size_bytes,
            stage,
            durability: match cut.durability() {
                agent::Durability::Node => Durability::Node,
                agent::Durability::Bucket | agent::Durability::Unspecified => Durability::Bucket,
            },
            node: node.to_owned(),
        })
    }

    /// Takes what matters here from a root.
    pub(crate) fn of_root(root: &Root) -> Self {
        let description = &root.description;
        Self {
            id: description.id,
            volume: description.volume,
            group: description.group,
            created_at: Timestamp {
                seconds: description.created_at.as_second(),
                nanos: description.created_at.subsec_nanosecond(),
            },
            bytes: description.capacity_bytes,
            stage: Stage::Ready,
            durability: Durability::Bucket,
            node: description.node.clone(),
        }
    }

    /// Whether volumes can be made of it.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Describes it as CSI does. One in the repository is usable from everywhere, and names no topology.
    pub(crate) fn described(&self) -> csi::Snapshot {
        csi::Snapshot {
            size_bytes: wire(self.bytes),
            snapshot_id: self.id.to_string(),
            source_volume_id: self.volume.to_string(),
            creation_time: Some(self.created_at),
            ready_to_use: self.is_ready(),
            group_snapshot_id: self.group.map(|group| group.to_string()).unwrap_or_default(),
            accessible_topology: match self.durability {
                Durability::Bucket => Vec::new(),
                Durability::Node => vec![topology::of(&self.node)],
            },
        }
    }

    /// Says why it will not become ready. `FAILED_PRECONDITION`, since the call is right and it is the store, the
    /// key or the image that a person has to put right; orchestrators show the message with the snapshot, and ask again.
    pub(crate) fn failure(&self) -> Status {
        let why = match &self.stage {
            Stage::Failed(why) => why.as_str(),
            Stage::Offloading { .. } | Stage::Ready => "unknown",
        };
        Status::failed_precondition(format!(
            "snapshot {} of volume {} is cut on node {:?} and cannot be offloaded: {why}; put that right, or delete the \
             snapshot",
            self.id, self.volume, self.node
        ))
    }

    /// Answers with the snapshot, or with why it failed.
    pub(crate) fn settled(self) -> Result<Self, Status> {
        if matches!(self.stage, Stage::Failed(_)) { Err(self.failure()) } else { Ok(self) }
    }
}
