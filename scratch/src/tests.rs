//! Tests of the temporary folder that takes with it what stands on it.

use std::{fs, path::Path};

use super::{Loop, Mount, Scratch, parse_mount, standing_on, unescape};

#[test]
fn a_mount_line_is_read_with_its_escapes() {
    let line = br"36 35 98:0 /mnt1 /mnt/with\040space rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
    let mount = Mount { device: "98:0".into(), point: "/mnt/with space".into(), source: "/dev/root".into() };
    assert_eq!(parse_mount(line), Some(mount));
    assert_eq!(parse_mount(b""), None);
    assert_eq!(unescape(br"a\134b\0"), Path::new(r"a\b\0"));
}

#[test]
fn what_stands_on_a_folder_is_found_through_every_layer_and_nothing_else_is() {
    let mount = |device: &str, point: &str, source: &str| Mount {
        device: device.into(),
        point: point.into(),
        source: source.into(),
    };
    let device = |name: &str, number: &str, backing: &str| Loop {
        name: name.into(),
        device: number.into(),
        backing: backing.into(),
    };
    let mounts = [
        mount("8:1", "/", "/dev/vda"),
        mount("7:9", "/other", "/dev/loop9"),
        mount("0:40", "/run/pools/a", "/dev/loop0"),
        mount("7:1", "/tmp/demo/staging", "/dev/loop1"),
        mount("7:1", "/elsewhere/target", "/dev/loop1"),
    ];
    let loops = [
        device("loop9", "7:9", "/tmp/demonstration/pool.img"),
        device("loop1", "7:1", "/run/pools/a/volumes/v/data/image"),
        device("loop0", "7:0", "/tmp/demo/pool.img"),
    ];
    let (found, devices) = standing_on(Path::new("/tmp/demo"), &mounts, &loops);
    let points: Vec<_> = found.iter().map(|mount| mount.point.to_str().expect("it is text")).collect();
    assert_eq!(points, ["/run/pools/a", "/tmp/demo/staging", "/elsewhere/target"]);
    let names: Vec<_> = devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["loop0", "loop1"]);
}

#[test]
fn the_folder_is_gone_when_dropped() {
    let scratch = Scratch::new("varve-scratch-").expect("a folder can be made");
    let path = scratch.path().to_owned();
    fs::write(path.join("file"), "content").expect("a file can be written");
    assert_eq!(scratch.standing().expect("the kernel's tables can be read"), Vec::<String>::new());
    drop(scratch);
    assert!(!path.exists());
}
