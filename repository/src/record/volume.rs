//! The record of one volume: the claim on its name and what every node must know of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{SnapshotId, VolumeId};

/// What a volume is presented as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presentation {
    /// A mounted ext4.
    Ext4,
    /// A mounted XFS.
    Xfs,
    /// The raw device.
    Block,
}

impl Presentation {
    /// The name used in records, parameters and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Block => "block",
        }
    }
}

/// What a new volume is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The image as a snapshot holds it.
    Snapshot(SnapshotId),
    /// The image of another volume, as it was at one instant.
    Volume(VolumeId),
}

/// How the offload of a volume's snapshots is to be done; every field may be changed while the volume lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadParameters {
    /// zstd level 1 to 19; 0 stores chunks as they are; absent takes the driver's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<u8>,
    /// Most bytes a second to send to the store; absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// The volume's share of its node's offloads beside that of others, 1 to 100; absent takes the driver's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    /// Most bytes a second to read of the volume's cuts; absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_bandwidth: Option<u64>,
}

/// How many workloads of a node may use a volume at once, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessMode {
    /// CSI's `SINGLE_NODE_WRITER`.
    SingleNodeWriter,
    /// CSI's `SINGLE_NODE_READER_ONLY`.
    SingleNodeReaderOnly,
    /// CSI's `SINGLE_NODE_SINGLE_WRITER`.
    SingleNodeSingleWriter,
    /// CSI's `SINGLE_NODE_MULTI_WRITER`.
    SingleNodeMultiWriter,
}

/// That a volume was given to a node by the controller (CSI, ControllerPublishVolume).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// The node.
    pub node: String,
    /// How it may be used there. Block or mount is not said: the presentation tells.
    pub mode: AccessMode,
    /// Whether no workload may write to it.
    pub read_only: bool,
}

/// `volumes/<volume>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The volume's id, derived from `name`.
    pub id: VolumeId,
    /// The name it was asked for by.
    pub name: String,
    /// Distinguishes this volume from an earlier one of the same name; random.
    pub incarnation: Uuid,
    /// Size presented to the workload, in bytes; a multiple of the block size.
    pub capacity_bytes: u64,
    /// What it is presented as, fixed at its creation: ext4 where a file system is wanted and none is named.
    pub presentation: Presentation,
    /// The node that holds its image.
    pub home_node: String,
    /// What it was filled with at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// How its snapshots are offloaded.
    #[serde(default)]
    pub offload: OffloadParameters,
    /// The class parameters it was created with, without secrets.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// When it was claimed, by the claimer's clock; for people.
    pub created_at: Timestamp,
    /// Whether its image was once complete on its home node. Until then the record is a claim alone: the home may still
    /// change, and a missing image is no loss.
    #[serde(default)]
    pub complete: bool,
    /// The node that the controller published it to, and how; absent where it is published to none, as it always is where
    /// the orchestrator does not publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Publication>,
}
