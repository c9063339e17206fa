use proptest::{collection::vec, option::of, prelude::*};
use tonic::Code;
use varve_proto::csi::volume_capability as wire;

use super::*;

fn capability(access_type: wire::AccessType, mode: Mode) -> csi::VolumeCapability {
    csi::VolumeCapability { access_mode: Some(wire::AccessMode { mode: mode.into() }), access_type: Some(access_type) }
}

fn block() -> csi::VolumeCapability {
    capability(wire::AccessType::Block(wire::BlockVolume {}), Mode::SingleNodeWriter)
}

fn mount(fs_type: &str, flags: &[&str], group: &str) -> csi::VolumeCapability {
    let mount = wire::MountVolume {
        fs_type: fs_type.into(),
        mount_flags: flags.iter().map(ToString::to_string).collect(),
        volume_mount_group: group.into(),
    };
    capability(wire::AccessType::Mount(mount), Mode::SingleNodeWriter)
}

fn with_mode(mode: i32) -> csi::VolumeCapability {
    csi::VolumeCapability { access_mode: Some(wire::AccessMode { mode }), ..block() }
}

fn check(capability: &csi::VolumeCapability) -> Result<Capability, Refusal> {
    Capability::check("volume_capability", Some(capability))
}

fn flags(flags: &[&str]) -> Result<Vec<String>, Refusal> {
    check(&mount("", flags, "")).map(|capability| capability.mount().unwrap().flags.clone())
}

fn is_malformed<T: std::fmt::Debug>(result: &Result<T, Refusal>) -> bool {
    matches!(result, Err(Refusal::Malformed(_)))
}

fn is_unsupported<T: std::fmt::Debug>(result: &Result<T, Refusal>) -> bool {
    matches!(result, Err(Refusal::Unsupported(_)))
}

#[test]
fn modes_of_one_node_are_taken() {
    for (mode, expected) in [
        (Mode::SingleNodeWriter, AccessMode::Writer),
        (Mode::SingleNodeReaderOnly, AccessMode::ReaderOnly),
        (Mode::SingleNodeSingleWriter, AccessMode::SingleWriter),
        (Mode::SingleNodeMultiWriter, AccessMode::MultiWriter),
    ] {
        let parsed = check(&with_mode(mode.into())).unwrap();
        assert_eq!(parsed, Capability { access_type: AccessType::Block, access_mode: expected });
        assert_eq!(parsed.access_mode.is_read_only(), mode == Mode::SingleNodeReaderOnly);
    }
}

#[test]
fn modes_of_many_nodes_and_of_the_future_are_unsupported() {
    for mode in [Mode::MultiNodeReaderOnly, Mode::MultiNodeSingleWriter, Mode::MultiNodeMultiWriter] {
        let refused = check(&with_mode(mode.into())).unwrap_err();
        assert!(refused.is_unsupported());
        assert!(refused.to_string().contains("a volume lives on one node"), "{refused}");
        assert!(refused.to_string().contains(mode.as_str_name()), "{refused}");
        assert_eq!(Status::from(refused).code(), Code::InvalidArgument);
    }
    assert!(is_unsupported(&check(&with_mode(8))));
    assert!(is_unsupported(&check(&with_mode(-1))));
}

#[test]
fn missing_parts_are_malformed() {
    assert!(is_malformed(&Capability::check("volume_capability", None)));
    assert!(is_malformed(&check(&with_mode(0))));
    assert!(is_malformed(&check(&csi::VolumeCapability { access_mode: None, ..block() })));
    assert!(is_malformed(&check(&csi::VolumeCapability { access_type: None, ..block() })));
    let status = Capability::parse("volume_capability", None).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "volume_capability is missing"));
    let status = Capability::parse_all("volume_capabilities", &[]).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "volume_capabilities is missing"));
}

#[test]
fn file_systems_are_ext4_and_xfs() {
    for (text, expected) in [("", None), ("ext4", Some(Filesystem::Ext4)), ("xfs", Some(Filesystem::Xfs))] {
        assert_eq!(check(&mount(text, &[], "")).unwrap().mount().unwrap().filesystem, expected);
        assert_eq!(Filesystem::named(text), expected);
        assert!(expected.is_none_or(|filesystem| filesystem.to_string() == text));
    }
    let refused = check(&mount("ntfs", &[], "")).unwrap_err();
    assert!(refused.is_unsupported());
    let message = "volume_capability.mount.fs_type is \"ntfs\": expected ext4, xfs or nothing";
    assert_eq!(refused.to_string(), message);
    for other in ["EXT4", "ext4 ", "btrfs", "ext3"] {
        assert!(is_unsupported(&check(&mount(other, &[], ""))), "{other}");
    }
}

#[test]
fn groups_are_numbers() {
    for (text, gid) in [("", None), ("0", Some(0)), ("2000", Some(2000)), ("4294967294", Some(u32::MAX - 1))] {
        assert_eq!(check(&mount("", &[], text)).unwrap().mount().unwrap().group, gid, "{text}");
    }
    for bad in ["-1", "+1", "wheel", "4294967295", "4294967296", " 1", "0x10"] {
        assert!(is_malformed(&check(&mount("", &[], bad))), "{bad}");
    }
}

#[test]
fn options_are_taken_apart() {
    assert_eq!(flags(&["noatime", "data=ordered"]).unwrap(), ["noatime", "data=ordered"]);
    assert_eq!(flags(&["noatime,nodev", "defaults"]).unwrap(), ["noatime", "nodev"]);
    let label = "context=\"system_u:object_r:container_file_t:s0:c1,c2\"";
    assert_eq!(flags(&[label, "ro"]).unwrap(), [label, "ro"]);
}

#[test]
fn options_of_the_driver_and_dangerous_ones_are_refused() {
    for option in [
        "bind",
        "rbind",
        "remount",
        "move",
        "loop",
        "loop=/dev/loop0",
        "offset=0",
        "sizelimit=1",
        "shared",
        "rprivate",
        "x-systemd.automount",
        "X-mount.mkdir",
        "user",
        "_netdev",
        "logdev=/dev/sda",
        "journal_path=/dev/sda",
        "norecovery",
        "noload",
        "sb=32768",
        "errors=panic",
        "abort",
        "noatime,bind",
        "context=\"a,b\",bind",
    ] {
        assert!(is_unsupported(&flags(&[option])), "{option}");
    }
    assert_eq!(flags(&["errors=remount-ro", "nouuid"]).unwrap(), ["errors=remount-ro", "nouuid"]);
}

#[test]
fn options_that_are_no_options_are_malformed() {
    let quote = "context=\"a,bind";
    for option in ["", ",", "a,", ",a", "=1", "a b", "a\0", "a\n", "context=x\u{7f}", quote, "noatime\u{e9}", "/etc=1"]
    {
        assert!(is_malformed(&flags(&[option])), "{option:?}");
    }
    let large = "a".repeat(2049);
    assert!(is_malformed(&flags(&[&large, &large])));
    let whole = "a".repeat(2048);
    assert!(flags(&[&whole, &whole]).is_ok());
}

#[test]
fn values_of_options_are_repeated_nowhere() {
    let taken = check(&mount("", &["password=hunter2"], "")).unwrap();
    assert!(!format!("{taken:?}").contains("hunter2"));
    assert!(format!("{taken:?}").contains("password"));
    for refused in [flags(&["offset=hunter2"]), flags(&["password=hunter2\0"]), flags(&["password=\"hunter2"])] {
        assert!(!refused.unwrap_err().to_string().contains("hunter2"));
    }
}

#[test]
fn a_list_agrees_with_itself() {
    let check_all = |list: &[csi::VolumeCapability]| Capability::check_all("volume_capabilities", list);
    assert_eq!(check_all(&[block(), block()]).unwrap().len(), 2);
    assert_eq!(check_all(&[mount("", &[], ""), mount("xfs", &[], "")]).unwrap().len(), 2);
    assert!(is_unsupported(&check_all(&[block(), mount("", &[], "")])));
    let refused = check_all(&[mount("ext4", &[], ""), mount("", &[], ""), mount("xfs", &[], "")]).unwrap_err();
    assert_eq!(refused.to_string(), "volume_capabilities asks for ext4 and for xfs: a volume has one file system");
    // The second is malformed, which no volume could satisfy; the first could be, by another driver.
    let refused = check_all(&[mount("ntfs", &[], ""), with_mode(0)]).unwrap_err();
    assert!(refused.to_string().starts_with("volume_capabilities[1].access_mode is UNKNOWN"), "{refused}");
    let status = Capability::parse_all("volume_capabilities", &[block(), mount("", &[], "")]).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

fn any_option() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z,=\"]{0,12}", ".{0,8}", "(ro|bind|noatime|loop=1|defaults)(,(ro|bind|noatime))?"]
}

proptest! {
    #[test]
    fn no_capability_panics_and_none_taken_is_dangerous(
        mode in of(-2..10_i32),
        fs_type in "(ext4|xfs||.{0,5})",
        flags in vec(any_option(), 0..5),
        group in "([0-9]{0,11}|.{0,5})",
    ) {
        let mount = wire::MountVolume { fs_type, mount_flags: flags, volume_mount_group: group };
        let request = csi::VolumeCapability {
            access_mode: mode.map(|mode| wire::AccessMode { mode }),
            access_type: Some(wire::AccessType::Mount(mount)),
        };
        if let Ok(taken) = check(&request) {
            for option in &taken.mount().unwrap().flags {
                prop_assert!(!option.is_empty() && !option.chars().any(char::is_control));
                prop_assert!(!["bind", "loop", "defaults"].contains(&option::name(option)));
                // Taking an option apart again changes nothing.
                prop_assert_eq!(option::split("flag", option).unwrap(), [option.clone()]);
            }
        }
    }
}
