//! Volume capabilities: how a volume is to be accessed.

use tonic::Status;
use varve_proto::csi;

/// How a workload sees the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessType {
    /// The raw device.
    Block,
    /// A mounted file system.
    Mount(Mount),
}

/// A mounted file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `ext4` or `xfs`; `None` where the caller leaves it to the driver.
    pub filesystem: Option<Filesystem>,
    /// Mount options, each checked to be free of commas' abuse and of options that the driver owns.
    pub flags: Vec<String>,
    /// The group that is to own the volume (`VOLUME_MOUNT_GROUP`), as a gid.
    pub group: Option<u32>,
}

/// A file system that volumes can be formatted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// ext4, the default.
    Ext4,
    /// XFS.
    Xfs,
}

/// How many may access the volume, and how; only modes of one node are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// `SINGLE_NODE_WRITER`
    Writer,
    /// `SINGLE_NODE_READER_ONLY`
    ReaderOnly,
    /// `SINGLE_NODE_SINGLE_WRITER`: one target at a time.
    SingleWriter,
    /// `SINGLE_NODE_MULTI_WRITER`
    MultiWriter,
}

/// One validated `VolumeCapability`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Block or mount.
    pub access_type: AccessType,
    /// The access mode.
    pub access_mode: AccessMode,
}

impl Capability {
    /// Validates one capability; `field` names it in messages.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming what is missing, unknown or unsupported.
    pub fn parse(field: &str, capability: Option<&csi::VolumeCapability>) -> Result<Self, Status> {
        let _ = (field, capability);
        unimplemented!()
    }

    /// Validates the list of a request: not empty, and either all block or all mount with one file system.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming what is missing, unknown, unsupported or contradictory.
    pub fn parse_all(field: &str, capabilities: &[csi::VolumeCapability]) -> Result<Vec<Self>, Status> {
        let _ = (field, capabilities);
        unimplemented!()
    }
}
