//! Tests of the temporary folder that takes with it what stands on it.

use std::{ffi::OsStr, fs, path::Path, process::Command};

use super::{Loop, Mount, Scratch, backing, parse_mount, standing_on, unescape};

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

#[test]
fn a_device_on_a_file_of_a_mount_below_goes_with_the_folder() {
    let scratch = Scratch::new("varve-scratch-").expect("a folder can be made");
    let (pool, mount) = (scratch.path().join("pool.img"), scratch.path().join("pool"));
    let image = mount.join("data/image-of-this-test");
    let file = |path: &Path, bytes| fs::File::create(path).and_then(|file| file.set_len(bytes)).expect("a file");
    file(&pool, 64 << 20);
    fs::create_dir(&mount).expect("a folder");
    run("mkfs.ext4", &["-q".as_ref(), pool.as_ref()]);
    let below = run("losetup", &["--find".as_ref(), "--show".as_ref(), pool.as_ref()]);
    run("mount", &[below.as_ref(), mount.as_ref()]);
    fs::create_dir(mount.join("data")).expect("a folder");
    file(&image, 1 << 20);
    let above = run("losetup", &["--find".as_ref(), "--show".as_ref(), image.as_ref()]);
    assert_eq!(scratch.standing().expect("the kernel's tables can be read").len(), 3);
    scratch.remove().expect("it can be removed");
    // Somebody else may have the numbers by now, but not these files.
    for device in [below, above] {
        let name = Path::new(&device).file_name().and_then(OsStr::to_str).expect("a name");
        let backing = backing(name).unwrap_or_default().display().to_string();
        assert!(!backing.contains(&pool.display().to_string()), "{name}: {backing}");
        assert!(!backing.contains("image-of-this-test"), "{name}: {backing}");
    }
}

/// Runs a tool and returns what it printed.
fn run(tool: &str, arguments: &[&OsStr]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(tool).args(arguments).env("PATH", path).output().expect("it can be started");
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
