//! What a capability asks of a volume, and whether the volume has it.

use varve_csi::capability::{AccessMode, AccessType, Capability};
use varve_repository::record::volume::Presentation;

use super::error::{Error, Result};
use crate::{
    filesystem::Filesystem,
    volume::{Access, Publication, Volume},
};

/// Option that makes a mount read-only, see mount(8).
const READ_ONLY: &str = "ro";

/// Tells which file system a presentation stands for; `None` for a raw device.
pub(super) fn filesystem(presentation: Presentation) -> Option<Filesystem> {
    match presentation {
        Presentation::Ext4 => Some(Filesystem::Ext4),
        Presentation::Xfs => Some(Filesystem::Xfs),
        Presentation::Block => None,
    }
}

/// Holds a capability against what the volume is presented as, and returns how it is to be staged.
pub(super) fn wanted(volume: &Volume, capability: &Capability) -> Result<Access> {
    let presentation = volume.record().presentation;
    let refuse = |reason| Err(Error::Capability { id: volume.id(), presentation, reason });
    match (filesystem(presentation), &capability.access_type) {
        (None, AccessType::Block) => Ok(Access::Block),
        (None, AccessType::Mount(_)) => refuse("it cannot be mounted"),
        (Some(_), AccessType::Block) => refuse("it cannot be used as a raw device"),
        (Some(own), AccessType::Mount(mount)) if mount.filesystem.is_some_and(|asked| asked != own) => {
            refuse("it cannot be mounted as another file system")
        }
        (Some(_), AccessType::Mount(mount)) => Ok(Access::Mount { flags: mount.flags.clone(), group: mount.group }),
    }
}

/// Tells whether a publication with this capability takes no writes.
pub(super) fn is_read_only(capability: &Capability, read_only: bool) -> bool {
    read_only
        || capability.access_mode.is_read_only()
        || capability.mount().is_some_and(|mount| mount.flags.iter().any(|flag| flag == READ_ONLY))
}

/// Finds a mount flag that a publication asks for and that the volume was not staged with. Flags belong to the file
/// system as a whole, so that a bind cannot add any but `ro`.
pub(super) fn missing_flag<'a>(staged: &Access, wanted: &'a Access) -> Option<&'a str> {
    let (Access::Mount { flags: staged, .. }, Access::Mount { flags: wanted, .. }) = (staged, wanted) else {
        return None;
    };
    wanted.iter().map(String::as_str).find(|flag| *flag != READ_ONLY && !staged.iter().any(|own| own == flag))
}

/// Says why a publication cannot be beside another one, if it cannot.
///
/// As CSI's second table for NodePublishVolume has it: of the modes of one node, only `SINGLE_NODE_MULTI_WRITER` allows
/// two targets, and a second capability should not be mixed with the first.
pub(super) fn rules_out(access: &Access, wanted: &Publication, other: &Publication) -> Option<&'static str> {
    if wanted.mode == AccessMode::SingleWriter || other.mode == AccessMode::SingleWriter {
        return Some("SINGLE_NODE_SINGLE_WRITER allows one target at a time");
    }
    if wanted.mode != AccessMode::MultiWriter || other.mode != AccessMode::MultiWriter {
        return Some("only SINGLE_NODE_MULTI_WRITER allows a second target");
    }
    if *access == Access::Block && wanted.read_only != other.read_only {
        // A device is read-only for everybody or for nobody: its node's mount has no say in that.
        return Some("a raw device cannot be read-only at one target and writable at another");
    }
    None
}

#[cfg(test)]
mod tests {
    use varve_csi::capability::Mount;

    use super::*;

    fn publication(mode: AccessMode, read_only: bool) -> Publication {
        Publication { target: "/t".into(), read_only, mode }
    }

    fn mount(flags: &[&str]) -> Access {
        Access::Mount { flags: flags.iter().map(ToString::to_string).collect(), group: None }
    }

    #[test]
    fn two_targets_need_many_writers_on_both_sides() {
        use AccessMode::{MultiWriter, ReaderOnly, SingleWriter, Writer};
        for wanted in [Writer, ReaderOnly, SingleWriter, MultiWriter] {
            for other in [Writer, ReaderOnly, SingleWriter, MultiWriter] {
                let refused = rules_out(&mount(&[]), &publication(wanted, false), &publication(other, true));
                let both = wanted == MultiWriter && other == MultiWriter;
                assert_eq!(refused.is_none(), both, "{wanted:?} beside {other:?}");
            }
        }
    }

    #[test]
    fn a_device_is_not_read_only_for_one_alone() {
        let (a, b) = (publication(AccessMode::MultiWriter, true), publication(AccessMode::MultiWriter, false));
        assert!(rules_out(&Access::Block, &a, &b).is_some());
        assert!(rules_out(&Access::Block, &a, &a).is_none());
        assert!(rules_out(&mount(&[]), &a, &b).is_none());
    }

    #[test]
    fn a_publication_adds_no_flag_but_ro() {
        let staged = mount(&["noatime"]);
        assert_eq!(missing_flag(&staged, &mount(&["noatime", "ro"])), None);
        assert_eq!(missing_flag(&staged, &mount(&[])), None);
        assert_eq!(missing_flag(&staged, &mount(&["noatime", "discard"])), Some("discard"));
    }

    #[test]
    fn a_reader_a_flag_and_a_request_make_it_read_only() {
        let capability = |access_mode, flags: &[&str]| Capability {
            access_type: AccessType::Mount(Mount {
                flags: flags.iter().map(ToString::to_string).collect(),
                ..Mount::default()
            }),
            access_mode,
        };
        assert!(is_read_only(&capability(AccessMode::ReaderOnly, &[]), false));
        assert!(is_read_only(&capability(AccessMode::Writer, &["noatime", "ro"]), false));
        assert!(is_read_only(&capability(AccessMode::Writer, &[]), true));
        assert!(!is_read_only(&capability(AccessMode::Writer, &["noatime"]), false));
    }
}
