//! The freeze on a real, mounted file system. Needs root.
//!
//! The pool's file system is a fake: one that takes too long to clone, since it writes to the file system that it is to
//! clone while that is frozen. Only the watchdog can end that.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use varve_csi::capability::Filesystem;
use varve_node::{
    cut::{
        Record, State,
        freeze::FreezeError,
        making::{self, Error, Member},
    },
    device::{Attached, Options},
    filesystem,
    pool::{IMAGE, Kind, PoolFilesystem},
};
use varve_repository::{
    id::{SnapshotId, VolumeId},
    record::{snapshot::SnapshotDescription, volume::Presentation},
    seam::{Seams, System},
};

/// Clones by copying, after a write to what is frozen.
#[derive(Debug)]
struct Slow {
    frozen: Option<PathBuf>,
}

impl PoolFilesystem for Slow {
    fn kind(&self) -> Kind {
        Kind::Xfs
    }

    fn create(&self, _: &Path, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn prepare(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn cut(&self, data: &Path, into: &Path) -> io::Result<()> {
        if let Some(frozen) = &self.frozen {
            fs::write(frozen.join("blocked"), "until the watchdog thaws")?;
        }
        fs::create_dir(into)?;
        fs::copy(data.join(IMAGE), into.join(IMAGE)).map(|_| ())
    }

    fn clone_writable(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn moving(&self) -> io::Result<bool> {
        Ok(false)
    }
}

/// A mounted ext4 on an image; unmounted on drop, before its device goes.
struct Mounted {
    target: PathBuf,
    _device: Attached,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = filesystem::unmount(&self.target) {
            eprintln!("{} is not unmounted: {error:?}", self.target.display());
        }
    }
}

fn mounted(folder: &Path) -> Mounted {
    let image = folder.join("data").join(IMAGE);
    fs::create_dir(folder.join("data")).expect("made");
    File::create(&image).and_then(|file| file.set_len(32 << 20)).expect("an image");
    let device = Attached::new(&image, Options { direct_io: false, ..Options::default() }).expect("attached");
    filesystem::make(&device.path(), Filesystem::Ext4).expect("formatted");
    let target = folder.join("mount");
    fs::create_dir(&target).expect("a mount point");
    filesystem::mount(&device.path(), &target, Filesystem::Ext4, &[], false).expect("mounted");
    Mounted { target, _device: device }
}

fn member(folder: &Path) -> Member {
    let description = SnapshotDescription {
        id: SnapshotId::from_bytes([1; 16]),
        name: "snapshot".into(),
        volume: VolumeId::from_bytes([2; 16]),
        volume_name: "volume".into(),
        incarnation: Default::default(),
        capacity_bytes: 0,
        presentation: Presentation::Ext4,
        created_at: Default::default(),
        node: "node".into(),
        group: None,
        frozen: false,
        pause_nanos: 0,
        parameters: Default::default(),
    };
    let record = Record { description, state: State::Pending, origin: None, offload: Default::default() };
    Member { data: folder.join("data"), record }
}

fn make(folder: &Path, slow: &Slow, limit: Duration) -> Result<making::Made, Error> {
    let into = folder.join("making");
    fs::create_dir(&into).expect("made");
    making::make(
        slow,
        into,
        vec![member(folder)],
        &making::Hold { limit, sentinel: None },
        &*Seams { clock: std::sync::Arc::new(System), ..Seams::system() }.clock,
    )
}

#[test]
fn invariant_4_the_watchdog_thaws_and_nothing_is_cut() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mounted = mounted(folder.path());
    let limit = Duration::from_millis(300);
    let error = make(folder.path(), &Slow { frozen: Some(mounted.target.clone()) }, limit).expect_err("too slow");
    assert!(matches!(error, Error::Freeze(FreezeError::Expired(after)) if after == limit), "{error:?}");
    fs::write(mounted.target.join("after"), "thawed").expect("written");
}

#[test]
fn a_cut_freezes_flushes_and_thaws() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mounted = mounted(folder.path());
    fs::write(mounted.target.join("file"), "not synced").expect("written");
    let made = make(folder.path(), &Slow { frozen: None }, Duration::from_secs(60)).expect("cut");
    assert!(made.pause() > Duration::ZERO);
    fs::write(mounted.target.join("after"), "thawed").expect("written");

    // What was cut needs no repair: its journal is empty, since the file system was frozen.
    let image = made.data(SnapshotId::from_bytes([1; 16])).join(IMAGE);
    let check = std::process::Command::new("e2fsck").arg("-fn").arg(&image).output();
    let check = check.expect("e2fsck runs: apt-get install -y e2fsprogs");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let listing = std::process::Command::new("debugfs").args(["-R", "cat /file"]).arg(&image).output();
    assert_eq!(listing.expect("debugfs runs: apt-get install -y e2fsprogs").stdout, b"not synced");
}
