//! Loop devices: attached without races, found again, detached for good. Needs root.

mod fixtures;

use std::{
    collections::HashSet,
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::{FileExt, MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use fixtures::{BLOCK, Disk, MIB, TestPool, folder};
use varve_node::{
    device::{Attached, LoopDevice, Options, all_below},
    filesystem::Filesystem,
    pool::Kind,
};

fn sparse(folder: &Path, name: &str, bytes: u64) -> PathBuf {
    let file = folder.join(name);
    File::create_new(&file).and_then(|file| file.set_len(bytes)).unwrap();
    file
}

#[test]
fn many_images_attached_at_once_get_a_device_each() {
    let folder = folder();
    let images: Vec<PathBuf> = (0..16).map(|index| sparse(folder.path(), &format!("{index}"), MIB)).collect();
    let attached: Vec<Attached> = thread::scope(|scope| {
        let threads: Vec<_> =
            images.iter().map(|image| scope.spawn(|| Attached::new(image, Options::default()).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let devices: HashSet<LoopDevice> = attached.iter().map(Attached::device).collect();
    assert_eq!(devices.len(), 16);
    for (image, attached) in images.iter().zip(&attached) {
        assert_eq!(LoopDevice::find(image).unwrap(), Some(attached.device()));
        assert_eq!(attached.device().size().unwrap(), MIB);
    }
    assert_eq!(all_below(folder.path()).unwrap().len(), 16);
    drop(attached);
    assert_eq!(all_below(folder.path()).unwrap(), []);
}

/// A container that is started anew has another mount namespace, and the kernel shows paths of the first one no more.
#[test]
fn an_image_is_found_after_the_mount_namespace_that_attached_it() {
    let folder = folder();
    let volume = folder.path().join("volumes/a/data");
    fs::create_dir_all(&volume).unwrap();
    let image = sparse(&volume, "image", MIB);
    let script = "mount --bind \"$1\" \"$1\" && losetup --find \"$1/volumes/a/data/image\"";
    let attached = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"])
        .arg(folder.path())
        .status()
        .expect("unshare is there: `apt-get install -y util-linux` installs it");
    assert!(attached.success(), "{attached}");

    let device = LoopDevice::find(&image).unwrap().expect("it is attached");
    let path = image.canonicalize().unwrap();
    let (there, above) = (all_below(&volume), all_below(folder.path()));
    let elsewhere = all_below(Path::new("/dev"));
    fs::remove_file(&image).unwrap();
    let removed = all_below(folder.path());
    device.detach().unwrap();
    assert_eq!(there.unwrap(), [(device, path.clone())]);
    assert_eq!(above.unwrap(), [(device, path.clone())]);
    assert!(!elsewhere.unwrap().iter().any(|(other, _)| *other == device));
    assert_eq!(removed.unwrap(), [(device, path)]);
}

#[test]
fn an_image_is_found_whatever_it_is_called() {
    let folder = folder();
    let image = sparse(folder.path(), "image", MIB);
    assert_eq!(LoopDevice::find(&image).unwrap(), None);
    let device = LoopDevice::attach_or_find(&image, Options::default()).unwrap();
    assert_eq!(LoopDevice::attach_or_find(&image, Options::default()).unwrap(), device);
    symlink(&image, folder.path().join("link")).unwrap();
    fs::hard_link(&image, folder.path().join("other name")).unwrap();
    assert_eq!(LoopDevice::find(&folder.path().join("link")).unwrap(), Some(device));
    assert_eq!(LoopDevice::find(&folder.path().join("other name")).unwrap(), Some(device));
    let renamed = folder.path().join("renamed");
    fs::rename(&image, &renamed).unwrap();
    assert_eq!(LoopDevice::find(&renamed).unwrap(), Some(device));
    assert_eq!(all_below(folder.path()).unwrap(), [(device, renamed.canonicalize().unwrap())]);
    fs::remove_file(&renamed).unwrap();
    assert_eq!(LoopDevice::find(&folder.path().join("other name")).unwrap(), Some(device));
    assert_eq!(LoopDevice::find(&image).unwrap_err().kind(), ErrorKind::NotFound);
    device.detach().unwrap();
    assert!(!device.is_attached().unwrap());
}

#[test]
fn on_xfs_what_is_written_through_a_device_does_not_touch_the_times_of_its_image() {
    let pool = TestPool::new(Kind::Xfs);
    let image = sparse(pool.pool().root(), "image", MIB);
    let times = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())]
    };
    let before = times(&image);
    let attached = Attached::new(&image, Options::default()).unwrap();
    assert_eq!(all_below(pool.pool().root()).unwrap(), [(attached.device(), image.canonicalize().unwrap())]);
    let device = File::options().write(true).open(attached.device().path()).unwrap();
    device.write_all_at(&[7; 4096], BLOCK).unwrap();
    device.sync_all().unwrap();
    drop(device);
    drop(attached);
    assert_eq!(times(&image), before);
    assert_eq!(fs::read(&image).unwrap()[4096..8192], [7; 4096]);
    File::options().write(true).open(&image).unwrap().write_all_at(&[8], 0).unwrap();
    assert_ne!(times(&image), before, "the times of a file do change by themselves");
}

#[test]
fn detaching_is_idempotent_and_never_hits_another_image() {
    let folder = folder();
    let first = sparse(folder.path(), "first", MIB);
    let stale = LoopDevice::attach(&first, Options::default()).unwrap();
    stale.detach().unwrap();
    stale.detach().unwrap();
    // Take numbers until the stale one is given out again.
    let mut others = Vec::new();
    while !others.iter().any(|other: &Attached| other.path() == stale.path()) {
        assert!(others.len() < 64, "the number does not come back");
        let image = sparse(folder.path(), &format!("other-{}", others.len()), MIB);
        others.push(Attached::new(&image, Options::default()).unwrap());
    }
    stale.detach().unwrap();
    assert!(!stale.is_attached().unwrap());
    assert!(others.iter().all(|other| other.device().is_attached().unwrap()));
    assert_eq!(stale.refresh_size().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_device_in_use_says_so_and_goes_when_it_is_let_go() {
    let disk = Disk::formatted(64 * MIB, Filesystem::Ext4);
    let device = disk.attached.device();
    let mounted = disk.mount(Filesystem::Ext4, "m");
    assert_eq!(device.detach().unwrap_err().kind(), ErrorKind::ResourceBusy);
    fs::write(mounted.0.join("file"), "still writable").unwrap();
    drop(mounted);
    device.detach().unwrap();
    assert!(!device.is_attached().unwrap());
    assert_eq!(LoopDevice::find(&disk.file).unwrap(), None);
}

#[test]
fn the_size_follows_the_image() {
    let disk = Disk::new(16 * MIB);
    let device = disk.attached.device();
    File::options().write(true).open(&disk.file).unwrap().set_len(24 * MIB).unwrap();
    assert_eq!(device.size().unwrap(), 16 * MIB);
    device.refresh_size().unwrap();
    assert_eq!(device.size().unwrap(), 24 * MIB);
    assert_eq!(varve_node::sys::block::size(&File::open(device.path()).unwrap()).unwrap(), 24 * MIB);
}

#[test]
fn a_read_only_device_refuses_writes_and_blocks_have_4096_bytes() {
    let folder = folder();
    let image = sparse(folder.path(), "image", MIB);
    let attached = Attached::new(&image, Options { read_only: true, ..Options::default() }).unwrap();
    let device = File::open(attached.path()).unwrap();
    assert_eq!(u64::from(rustix::fs::ioctl_blksszget(&device).unwrap()), BLOCK);
    let error = match File::options().write(true).open(attached.path()) {
        Ok(device) => device.write_at(&[1; 4096], 0).unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem), "{error}");
}
