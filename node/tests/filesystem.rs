//! File systems on real loop devices. Needs root.

mod fixtures;

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
};

use fixtures::{Disk, GIB, MIB, Mounted};
use varve_node::filesystem::{
    self, Checked, Content, Error, Filesystem, bind, check, grow, is_mount, make, mount, mounts_of, probe, unmount,
    usage,
};

const BOTH: [Filesystem; 2] = [Filesystem::Ext4, Filesystem::Xfs];

#[test]
fn a_blank_device_is_formatted_once() {
    for filesystem in BOTH {
        let disk = Disk::new(512 * MIB);
        assert_eq!(probe(&disk.path()).unwrap(), Content::Blank);
        make(&disk.path(), filesystem).unwrap();
        assert_eq!(probe(&disk.path()).unwrap(), Content::Filesystem(filesystem));
        assert_eq!(probe(&disk.file).unwrap(), Content::Filesystem(filesystem));
        assert!(matches!(make(&disk.path(), Filesystem::Ext4), Err(Error::NotBlank { .. })));
        assert!(matches!(make(&disk.path(), Filesystem::Xfs), Err(Error::NotBlank { .. })));
    }
}

#[test]
fn the_smallest_device_is_large_enough() {
    for filesystem in BOTH {
        let disk = Disk::formatted(filesystem::minimum_bytes(filesystem), filesystem);
        let mounted = disk.mount(filesystem, "m");
        fs::write(mounted.0.join("file"), "text").unwrap();
    }
}

#[test]
fn a_device_with_unknown_content_is_not_formatted() {
    let disk = Disk::new(64 * MIB);
    let device = File::options().write(true).open(disk.path()).unwrap();
    device.write_all_at(b"precious", MIB - 8).unwrap();
    device.sync_all().unwrap();
    assert!(matches!(make(&disk.path(), Filesystem::Ext4), Err(Error::Unrecognised { .. })));
    assert_eq!(&fs::read(&disk.file).unwrap()[1_048_568..1_048_576], b"precious");
}

#[test]
fn a_huge_file_system_allocates_little_and_stays_idle() {
    for filesystem in BOTH {
        let disk = Disk::formatted(100 * GIB, filesystem);
        let mounted = disk.mount(filesystem, "m");
        let folder = File::open(&mounted.0).unwrap();
        rustix::fs::syncfs(&folder).unwrap();
        let first = disk.allocated();
        assert!(first < 100 * MIB, "{filesystem:?}: {first}");
        drop(folder);
        drop(mounted);
        // A second life finds nothing left to initialise.
        let before = disk.allocated();
        let mounted = disk.mount(filesystem, "again");
        rustix::fs::syncfs(File::open(&mounted.0).unwrap()).unwrap();
        drop(mounted);
        let grown = disk.allocated().saturating_sub(before);
        assert!(grown < MIB, "{filesystem:?}: {grown}");
    }
}

#[test]
fn a_mounted_file_system_grows_with_its_device() {
    for filesystem in BOTH {
        let disk = Disk::formatted(512 * MIB, filesystem);
        let mounted = disk.mount(filesystem, "m");
        fs::write(mounted.0.join("file"), "text").unwrap();
        let before = usage(&mounted.0).unwrap();
        grow(&disk.path(), &mounted.0, filesystem).unwrap();
        assert_eq!(usage(&mounted.0).unwrap().total_bytes, before.total_bytes, "nothing to grow into");
        File::options().write(true).open(&disk.file).unwrap().set_len(2 * GIB).unwrap();
        disk.attached.device().refresh_size().unwrap();
        grow(&disk.path(), &mounted.0, filesystem).unwrap();
        let after = usage(&mounted.0).unwrap();
        assert!(after.total_bytes > before.total_bytes + GIB, "{before:?} {after:?}");
        assert!(after.available_bytes > before.available_bytes + GIB);
        assert!(after.total_inodes > before.total_inodes);
        assert_eq!(after.used_inodes, before.used_inodes);
        assert_eq!(fs::read_to_string(mounted.0.join("file")).unwrap(), "text");
    }
}

/// What the kernel forbids this process is asked of it here, so that the test means the same everywhere.
fn may_grow_a_mounted_ext4() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(line.trim(), 16).unwrap();
    effective & (1 << 24) != 0
}

#[test]
fn an_ext4_in_use_grows_or_says_what_it_takes() {
    let disk = Disk::formatted(512 * MIB, Filesystem::Ext4);
    let target = disk.target("staged");
    mount(&disk.path(), &target, Filesystem::Ext4, &["noatime,discard".to_owned()], false).unwrap();
    let staged = Mounted(target);
    fs::create_dir(staged.0.join("folder")).unwrap();
    let published = Mounted(disk.target("published"));
    bind(&staged.0.join("folder"), &published.0, true).unwrap();
    let mut open = File::create(staged.0.join("file")).unwrap();
    File::options().write(true).open(&disk.file).unwrap().set_len(GIB).unwrap();
    disk.attached.device().refresh_size().unwrap();
    let options = || -> Vec<_> {
        let all = mounts_of(&disk.path()).unwrap();
        all.into_iter().map(|mount| (mount.target, mount.options, mount.super_options)).collect()
    };
    let before = options();
    let small = usage(&staged.0).unwrap().total_bytes;
    let result = grow(&disk.path(), &staged.0, Filesystem::Ext4);
    if !may_grow_a_mounted_ext4() {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::CannotGrow { .. }), "{error}");
        assert!(error.to_string().contains("SYS_RESOURCE"), "{error}");
        assert_eq!(options(), before);
        writeln!(open, "it is still writable").unwrap();
        drop(open);
        grow(&disk.path(), &staged.0, Filesystem::Ext4).unwrap();
    }
    assert!(usage(&staged.0).unwrap().total_bytes > small + 256 * MIB);
    assert_eq!(options(), before);
    assert!(staged.0.join("file").exists());
}

#[test]
fn only_an_ext4_that_needs_it_is_repaired() {
    let disk = Disk::formatted(64 * MIB, Filesystem::Ext4);
    let mounted = disk.mount(Filesystem::Ext4, "m");
    fs::write(mounted.0.join("file"), "text").unwrap();
    drop(mounted);
    assert_eq!(check(&disk.path(), Filesystem::Ext4).unwrap(), Checked::Clean);
    let mark = Command::new("debugfs").args(["-w", "-R", "set_super_value state 2"]).arg(disk.path()).output().unwrap();
    assert!(mark.status.success());
    assert_eq!(check(&disk.path(), Filesystem::Ext4).unwrap(), Checked::Repaired);
    assert_eq!(check(&disk.path(), Filesystem::Ext4).unwrap(), Checked::Clean);
    assert_eq!(fs::read_to_string(disk.mount(Filesystem::Ext4, "again").0.join("file")).unwrap(), "text");
}

#[test]
fn damage_is_told_as_damage() {
    let disk = Disk::formatted(512 * MIB, Filesystem::Xfs);
    let device = File::options().write(true).open(disk.path()).unwrap();
    device.write_all_at(&[0xff; 32], 64).unwrap();
    device.sync_all().unwrap();
    let target = disk.target("m");
    let error = mount(&disk.path(), &target, Filesystem::Xfs, &[], false).unwrap_err();
    assert!(matches!(error, Error::Damaged { filesystem: Filesystem::Xfs, .. }), "{error}");
    assert!(!is_mount(&target).unwrap());

    let disk = Disk::formatted(64 * MIB, Filesystem::Ext4);
    let device = File::options().write(true).open(disk.path()).unwrap();
    // Both bitmaps' places and more: beyond what is repaired without being asked.
    let mark = Command::new("debugfs").args(["-w", "-R", "set_super_value state 2"]).arg(disk.path()).output().unwrap();
    assert!(mark.status.success());
    device.write_all_at(&[0xff; 65536], 4096).unwrap();
    device.sync_all().unwrap();
    let error = check(&disk.path(), Filesystem::Ext4).unwrap_err();
    assert!(matches!(error, Error::Damaged { filesystem: Filesystem::Ext4, .. }), "{error}");
}

#[test]
fn options_reach_the_mount() {
    for filesystem in BOTH {
        let disk = Disk::formatted(512 * MIB, filesystem);
        let target = disk.target("m");
        let flags = ["noatime,nodev".to_owned(), "discard".to_owned()];
        mount(&disk.path(), &target, filesystem, &flags, false).unwrap();
        let mounted = Mounted(target.clone());
        let found = filesystem::mount_at(&target).unwrap().unwrap();
        assert!(found.options.contains("noatime") && found.options.contains("nodev"), "{found:?}");
        assert!(found.super_options.contains("discard"), "{found:?}");
        assert!(!found.is_read_only());
        drop(mounted);
        mount(&disk.path(), &target, filesystem, &[], true).unwrap();
        let _mounted = Mounted(target.clone());
        assert!(filesystem::mount_at(&target).unwrap().unwrap().is_read_only());
        let error = mount(&disk.path(), &target, filesystem, &["remount".to_owned()], false).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        let error = mount(&disk.path(), &target, filesystem, &["no-such-option".to_owned()], false).unwrap_err();
        assert!(matches!(error, Error::System { .. }), "{error}");
    }
}

#[test]
fn two_clones_of_one_xfs_mount_side_by_side() {
    let one = Disk::formatted(512 * MIB, Filesystem::Xfs);
    let other = Disk::new(512 * MIB);
    fs::write(&other.file, fs::read(&one.file).unwrap()).unwrap();
    let _one = one.mount(Filesystem::Xfs, "m");
    let _other = other.mount(Filesystem::Xfs, "m");
}

#[test]
fn a_bind_may_be_read_only_and_keeps_the_other_options() {
    let disk = Disk::formatted(64 * MIB, Filesystem::Ext4);
    let target = disk.target("staged");
    mount(&disk.path(), &target, Filesystem::Ext4, &["noexec".to_owned()], false).unwrap();
    let staged = Mounted(target);
    fs::write(staged.0.join("file"), "text").unwrap();
    let published = Mounted(disk.target("published"));
    bind(&staged.0, &published.0, true).unwrap();
    assert_eq!(fs::read_to_string(published.0.join("file")).unwrap(), "text");
    assert_eq!(fs::write(published.0.join("file"), "x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    fs::write(staged.0.join("file"), "the other is still writable").unwrap();
    let found = filesystem::mount_at(&published.0).unwrap().unwrap();
    assert!(found.is_read_only() && found.options.contains("noexec"), "{found:?}");
    let targets: Vec<_> = mounts_of(&disk.path()).unwrap().into_iter().map(|mount| mount.target).collect();
    assert_eq!(targets, [staged.0.clone(), published.0.clone()]);
}

#[test]
fn a_device_node_is_bound_and_found() {
    let disk = Disk::new(16 * MIB);
    let target = disk.target("block").join("device");
    File::create_new(&target).unwrap();
    bind(&disk.path(), &target, false).unwrap();
    let _published = Mounted(target.clone());
    let targets: Vec<_> = mounts_of(&disk.path()).unwrap().into_iter().map(|mount| mount.target).collect();
    assert_eq!(targets, std::slice::from_ref(&target));
    File::options().write(true).open(&target).unwrap().write_all_at(b"raw", 0).unwrap();
    assert_eq!(&fs::read(disk.path()).unwrap()[..3], b"raw");
    assert!(mounts_of(Path::new("/dev/loop-control")).unwrap().is_empty());
}

#[test]
fn unmounting_takes_all_layers_and_may_be_repeated() {
    let disk = Disk::formatted(64 * MIB, Filesystem::Ext4);
    let target = disk.target("m");
    unmount(&target).unwrap();
    unmount(&target.join("absent")).unwrap();
    mount(&disk.path(), &target, Filesystem::Ext4, &[], false).unwrap();
    bind(&target, &target, false).unwrap();
    let open = File::create(target.join("file")).unwrap();
    let error = unmount(&target).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    drop(open);
    unmount(&target).unwrap();
    assert!(!is_mount(&target).unwrap());
    unmount(&target).unwrap();
}
