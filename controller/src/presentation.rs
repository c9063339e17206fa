//! What a volume is asked to be presented as, and what follows for its size.

use varve_csi::capability::{AccessType, Capability, Filesystem};
use varve_repository::{block::BLOCK_SIZE, record::volume::Presentation};

const MIB: u64 = 1024 * 1024;

/// Sizes are multiples of this, in bytes: the unit of tracking, and the logical block of the loop devices.
pub(crate) const GRANULE: u64 = BLOCK_SIZE;

/// Size of a volume where the caller asks for none, in bytes.
pub(crate) const DEFAULT_BYTES: u64 = 1024 * MIB;

/// What the capabilities of a request ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The raw device.
    Block,
    /// A mounted file system; `None` where the caller leaves it to the driver.
    Mount(Option<Filesystem>),
}

impl Wanted {
    /// Sums up validated capabilities, of which all are block or all are mount with one file system.
    pub(crate) fn of(capabilities: &[Capability]) -> Self {
        let mut filesystem = None;
        for capability in capabilities {
            match &capability.access_type {
                AccessType::Block => return Self::Block,
                AccessType::Mount(mount) => filesystem = filesystem.or(mount.filesystem),
            }
        }
        Self::Mount(filesystem)
    }

    /// Tells whether a volume that is presented so can be used as wanted.
    pub(crate) fn admits(self, presentation: Presentation) -> bool {
        match self {
            Self::Block => presentation == Presentation::Block,
            Self::Mount(None) => presentation != Presentation::Block,
            Self::Mount(Some(Filesystem::Ext4)) => presentation == Presentation::Ext4,
            Self::Mount(Some(Filesystem::Xfs)) => presentation == Presentation::Xfs,
        }
    }

    /// Settles what a new volume is presented as; a source's presentation decides what the caller leaves open.
    pub(crate) fn settle(self, source: Option<Presentation>) -> Presentation {
        match (self, source) {
            (Self::Block, _) => Presentation::Block,
            (Self::Mount(None), Some(Presentation::Xfs)) | (Self::Mount(Some(Filesystem::Xfs)), _) => Presentation::Xfs,
            (Self::Mount(_), _) => Presentation::Ext4,
        }
    }

    /// The text used in messages.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Mount(None) => "a mounted file system",
            Self::Mount(Some(Filesystem::Ext4)) => "ext4",
            Self::Mount(Some(Filesystem::Xfs)) => "xfs",
        }
    }
}

/// The smallest volume that can be presented so, in bytes: mkfs.xfs refuses less than 300 MiB, and an ext4 below 16 MiB
/// has no room for a journal.
pub(crate) const fn smallest(presentation: Presentation) -> u64 {
    match presentation {
        Presentation::Ext4 => 16 * MIB,
        Presentation::Xfs => 300 * MIB,
        Presentation::Block => MIB,
    }
}

#[cfg(test)]
mod tests {
    use Presentation::{Block, Ext4, Xfs};

    use super::*;

    #[test]
    fn admission_follows_what_was_named() {
        let table = [
            (Wanted::Block, [true, false, false]),
            (Wanted::Mount(None), [false, true, true]),
            (Wanted::Mount(Some(Filesystem::Ext4)), [false, true, false]),
            (Wanted::Mount(Some(Filesystem::Xfs)), [false, false, true]),
        ];
        for (wanted, expected) in table {
            assert_eq!([Block, Ext4, Xfs].map(|presentation| wanted.admits(presentation)), expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_source_decides_what_is_left_open() {
        assert_eq!(Wanted::Mount(None).settle(None), Ext4);
        assert_eq!(Wanted::Mount(None).settle(Some(Xfs)), Xfs);
        assert_eq!(Wanted::Mount(Some(Filesystem::Xfs)).settle(None), Xfs);
        assert_eq!(Wanted::Block.settle(None), Block);
    }
}
