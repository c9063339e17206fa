//! Volume capabilities: how a volume is to be accessed.
//!
//! A capability that makes no sense is told apart from one that does and is not offered ([`Refusal`]): most calls
//! answer `INVALID_ARGUMENT` for both, ValidateVolumeCapabilities only for the first and an unconfirmed answer for the
//! second.

mod option;

use std::fmt;

use tonic::Status;
use varve_proto::csi::{self, volume_capability::access_mode::Mode};

/// Most that the mount flags of one capability add up to, in bytes (CSI, VolumeCapability, `mount_flags`).
pub const LARGEST_FLAGS: usize = 4096;

/// How a workload sees the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessType {
    /// The raw device.
    Block,
    /// A mounted file system.
    Mount(Mount),
}

/// A mounted file system.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// `ext4` or `xfs`; `None` where the caller leaves it to the driver.
    pub filesystem: Option<Filesystem>,
    /// Mount options, one an entry, each checked to be one that the kernel reads and the driver does not own.
    /// A value may stand in double quotes, which is how SELinux labels with commas are given.
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

/// Why a capability is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A required part is missing, or a value cannot mean anything: the request is wrong.
    #[error("{0}")]
    Malformed(String),
    /// The capability is understood, and volumes do not have it.
    #[error("{0}")]
    Unsupported(String),
}

impl Capability {
    /// Validates one capability; `field` names it in messages.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming what is missing, unknown or unsupported.
    pub fn parse(field: &str, capability: Option<&csi::VolumeCapability>) -> Result<Self, Status> {
        Ok(Self::check(field, capability)?)
    }

    /// Validates the list of a request: not empty, and either all block or all mount with one file system.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming what is missing, unknown, unsupported or contradictory.
    pub fn parse_all(field: &str, capabilities: &[csi::VolumeCapability]) -> Result<Vec<Self>, Status> {
        Ok(Self::check_all(field, capabilities)?)
    }

    /// Does what [`Capability::parse`] does, and tells a malformed capability from an unsupported one.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn check(field: &str, capability: Option<&csi::VolumeCapability>) -> Result<Self, Refusal> {
        let capability = capability.ok_or_else(|| malformed(format_args!("{field} is missing")))?;
        let mode = capability.access_mode.as_ref().map(|access| access.mode);
        let access_type = match &capability.access_type {
            None => return Err(malformed(format_args!("{field}.access_type is missing: expected block or mount"))),
            Some(csi::volume_capability::AccessType::Block(_)) => AccessType::Block,
            Some(csi::volume_capability::AccessType::Mount(mount)) => {
                AccessType::Mount(Mount::check(&format!("{field}.mount"), mount)?)
            }
        };
        Ok(Self { access_type, access_mode: AccessMode::check(&format!("{field}.access_mode"), mode)? })
    }

    /// Does what [`Capability::parse_all`] does, and tells malformed capabilities from unsupported ones. A malformed
    /// one anywhere in the list outweighs an unsupported one before it.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn check_all(field: &str, capabilities: &[csi::VolumeCapability]) -> Result<Vec<Self>, Refusal> {
        if capabilities.is_empty() {
            return Err(malformed(format_args!("{field} is missing")));
        }
        let mut taken = Vec::with_capacity(capabilities.len());
        let mut unsupported = None;
        for (index, capability) in capabilities.iter().enumerate() {
            match Self::check(&format!("{field}[{index}]"), Some(capability)) {
                Ok(capability) => taken.push(capability),
                Err(refusal @ Refusal::Malformed(_)) => return Err(refusal),
                Err(refusal @ Refusal::Unsupported(_)) => {
                    unsupported.get_or_insert(refusal);
                }
            }
        }
        match unsupported.or_else(|| contradiction(field, &taken)) {
            Some(refusal) => Err(refusal),
            None => Ok(taken),
        }
    }

    /// Returns what is to be mounted, or `None` for a raw device.
    #[must_use]
    pub fn mount(&self) -> Option<&Mount> {
        match &self.access_type {
            AccessType::Block => None,
            AccessType::Mount(mount) => Some(mount),
        }
    }
}

impl Mount {
    fn check(field: &str, mount: &csi::volume_capability::MountVolume) -> Result<Self, Refusal> {
        let filesystem = match mount.fs_type.as_str() {
            "" => None,
            name => Some(Filesystem::named(name).ok_or_else(|| {
                unsupported(format_args!("{field}.fs_type is {:?}: expected ext4, xfs or nothing", shorten(name)))
            })?),
        };
        let bytes = mount.mount_flags.iter().fold(0_usize, |sum, flag| sum.saturating_add(flag.len()));
        if bytes > LARGEST_FLAGS {
            return Err(malformed(format_args!(
                "{field}.mount_flags is {bytes} bytes large: expected at most {LARGEST_FLAGS}"
            )));
        }
        let mut flags = Vec::with_capacity(mount.mount_flags.len());
        for (index, flag) in mount.mount_flags.iter().enumerate() {
            flags.extend(option::split(&format!("{field}.mount_flags[{index}]"), flag)?);
        }
        let group = match mount.volume_mount_group.as_str() {
            "" => None,
            text => Some(gid(text).ok_or_else(|| {
                malformed(format_args!(
                    "{field}.volume_mount_group is {:?}: expected a group's number, 0 to 4294967294",
                    shorten(text)
                ))
            })?),
        };
        Ok(Self { filesystem, flags, group })
    }
}

impl fmt::Debug for Mount {
    /// Leaves out the options' values, which may be sensitive (CSI, VolumeCapability, `mount_flags`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags: Vec<&str> = self.flags.iter().map(|flag| option::name(flag)).collect();
        f.debug_struct("Mount")
            .field("filesystem", &self.filesystem)
            .field("flags", &flags)
            .field("group", &self.group)
            .finish()
    }
}

impl Filesystem {
    /// Finds a file system by the name that `fs_type`, mount and mkfs know it by.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "ext4" => Some(Self::Ext4),
            "xfs" => Some(Self::Xfs),
            _ => None,
        }
    }

    /// Returns the name that `fs_type`, mount and mkfs know it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl AccessMode {
    fn check(field: &str, mode: Option<i32>) -> Result<Self, Refusal> {
        let Some(mode) = mode else {
            return Err(malformed(format_args!("{field} is missing")));
        };
        let mode = Mode::try_from(mode)
            .map_err(|_| unsupported(format_args!("{field} is {mode}: CSI 1.13 has no such access mode")))?;
        match mode {
            Mode::Unknown => Err(malformed(format_args!("{field} is UNKNOWN: expected one of the SINGLE_NODE modes"))),
            Mode::SingleNodeWriter => Ok(Self::Writer),
            Mode::SingleNodeReaderOnly => Ok(Self::ReaderOnly),
            Mode::SingleNodeSingleWriter => Ok(Self::SingleWriter),
            Mode::SingleNodeMultiWriter => Ok(Self::MultiWriter),
            Mode::MultiNodeReaderOnly | Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter => {
                Err(unsupported(format_args!(
                    "{field} is {}: a volume lives on one node; expected one of the SINGLE_NODE modes",
                    mode.as_str_name()
                )))
            }
        }
    }

    /// Tells whether the mode rules out every write.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        self == Self::ReaderOnly
    }
}

impl Refusal {
    /// Tells whether the capability is understood and not offered.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported(_))
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::invalid_argument(refusal.to_string())
    }
}

/// Finds two capabilities that one volume cannot have at once.
fn contradiction(field: &str, capabilities: &[Capability]) -> Option<Refusal> {
    let block = capabilities.iter().any(|capability| capability.mount().is_none());
    if block && capabilities.iter().any(|capability| capability.mount().is_some()) {
        return Some(unsupported(format_args!("{field} asks for block and for mount: a volume is one or the other")));
    }
    let mut filesystems = capabilities.iter().filter_map(|capability| capability.mount()?.filesystem);
    let first = filesystems.next()?;
    let other = filesystems.find(|other| *other != first)?;
    Some(unsupported(format_args!("{field} asks for {first} and for {other}: a volume has one file system")))
}

/// Reads a gid in decimal. The largest number means "no change" to chown(2) and is nobody's.
fn gid(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|gid| digits && *gid != u32::MAX)
}

/// Cuts a value from a request to a length that a message can bear.
fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

fn malformed(message: fmt::Arguments<'_>) -> Refusal {
    Refusal::Malformed(message.to_string())
}

fn unsupported(message: fmt::Arguments<'_>) -> Refusal {
    Refusal::Unsupported(message.to_string())
}

#[cfg(test)]
mod tests;
