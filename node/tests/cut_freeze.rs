//! The freeze on a real, mounted file system. Needs root.
//!
//! The pool's file system is a fake where the watchdog is tested: one that takes too long to clone, since it writes to the
//! file system that it is to clone while that is frozen. Only the watchdog can end that.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
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
    pool::{IMAGE, Kind, Location, Pool, PoolFilesystem, Xfs},
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

    fn reclaim(&self, _: &Path) -> io::Result<()> {
        Ok(())
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

/// XFS that compares the cut with the image, byte by byte, while writers are still held.
#[derive(Debug)]
struct Compared {
    xfs: Xfs,
    /// How often a cut was made from what was written alone.
    from_written: AtomicUsize,
}

impl PoolFilesystem for Compared {
    fn kind(&self) -> Kind {
        self.xfs.kind()
    }

    fn create(&self, data: &Path, bytes: u64) -> io::Result<()> {
        self.xfs.create(data, bytes)
    }

    fn prepare(&self, data: &Path, into: &Path) -> io::Result<()> {
        self.xfs.prepare(data, into)
    }

    fn prepare_in_steps(
        &self,
        data: &Path,
        into: &Path,
        between: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        self.xfs.prepare_in_steps(data, into, between)
    }

    fn renew(&self, data: &Path, into: &Path, written: &[Range<u64>]) -> io::Result<()> {
        self.xfs.renew(data, into, written)
    }

    fn cut_written(&self, data: &Path, into: &Path, written: &[Range<u64>]) -> io::Result<()> {
        self.xfs.cut_written(data, into, written)?;
        self.from_written.fetch_add(1, Ordering::Relaxed);
        let (image, cut) = (fs::read(data.join(IMAGE))?, fs::read(into.join(IMAGE))?);
        if image == cut { Ok(()) } else { Err(io::Error::other("the cut is not what its image is")) }
    }

    fn walks_extents(&self) -> bool {
        self.xfs.walks_extents()
    }

    fn reclaim(&self, root: &Path) -> io::Result<()> {
        self.xfs.reclaim(root)
    }

    fn cut(&self, data: &Path, into: &Path) -> io::Result<()> {
        self.xfs.cut(data, into)
    }

    fn clone_writable(&self, data: &Path, into: &Path) -> io::Result<()> {
        self.xfs.clone_writable(data, into)
    }

    fn remove(&self, data: &Path) -> io::Result<()> {
        self.xfs.remove(data)
    }

    fn moving(&self) -> io::Result<bool> {
        self.xfs.moving()
    }
}

#[test]
fn invariant_1_a_cut_under_writes_is_the_image_as_it_was_while_they_were_held() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let location = Location::Image { file: folder.path().join("pool.img"), bytes: 512 << 20, filesystem: Kind::Xfs };
    let pool = Pool::open(&location).expect("a pool");
    let root = pool.root().join("test");
    fs::create_dir(&root).expect("made");
    let xfs = Compared { xfs: Xfs, from_written: AtomicUsize::new(0) };
    xfs.create(&root.join("data"), 64 << 20).expect("an image");
    let device = Attached::new(&root.join("data").join(IMAGE), Options::default()).expect("attached");
    filesystem::make(&device.path(), Filesystem::Ext4).expect("formatted");
    let target = folder.path().join("mount");
    fs::create_dir(&target).expect("a mount point");
    filesystem::mount(&device.path(), &target, Filesystem::Ext4, &[], false).expect("mounted");
    let mounted = Mounted { target, _device: device };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::create(mounted.target.join("file")).expect("a file");
            let mut random = 1_u64;
            while !over.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let block = (random >> 33) % 8192;
                file.write_all_at(&random.to_ne_bytes().repeat(512), block * 4096).expect("written");
                if block.is_multiple_of(16) {
                    file.sync_data().expect("synced");
                }
            }
        });
        for round in 0..8 {
            let into = root.join(format!("making-{round}"));
            fs::create_dir(&into).expect("made");
            let hold = making::Hold { limit: Duration::from_secs(60), sentinel: None };
            let clock = Seams { clock: std::sync::Arc::new(System), ..Seams::system() }.clock;
            let made = making::make(&xfs, into, vec![member(&root)], &hold, &*clock);
            if made.is_err() {
                over.store(true, Ordering::Relaxed);
            }
            let made = made.expect("cut");
            xfs.remove(&made.data(SnapshotId::from_bytes([1; 16]))).expect("removed");
        }
        over.store(true, Ordering::Relaxed);
    });
    // Where the kernel tells nothing the whole image is cloned: not on the machines that run this.
    assert_eq!(xfs.from_written.load(Ordering::Relaxed), 8);
    drop(mounted);
    pool.close().expect("put away");
}
