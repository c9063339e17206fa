//! Pools on real file systems: one conformance suite for every kind, and what opening refuses. Needs root.

mod fixtures;

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use fixtures::{BLOCK, Disk, GIB, MIB, TestPool, allocated, contents, folder, open_direct, write_direct};
use varve_node::{
    device::{self, Attached, Options},
    filesystem::{self, Filesystem},
    pool::{IMAGE, Kind, Location, Pool, PoolError, PoolErrorKind},
};

macro_rules! conformance {
    ($($test:ident)*) => {
        mod xfs {
            $(#[test] fn $test() { super::$test(super::Kind::Xfs); })*
        }
        mod btrfs {
            $(#[test] fn $test() { super::$test(super::Kind::Btrfs); })*
        }
    };
}

conformance! {
    an_image_is_made_sparse_and_once
    a_cut_is_the_image_at_one_instant_and_immutable
    a_prepared_cut_is_the_same
    a_writable_clone_is_independent
    removing_frees_space_and_may_be_repeated
    a_cut_takes_no_longer_for_a_huge_sparse_image
    folders_are_committed_whole_and_removed_whole
    unfinished_work_is_removed_at_the_next_start
    a_pool_is_used_by_one_process
    a_killed_process_leaves_a_pool_that_is_found_again
    a_pool_with_attached_volumes_stays_mounted
    a_folder_can_be_a_pool
}

fn an_image_is_made_sparse_and_once(kind: Kind) {
    let pool = TestPool::new(kind);
    assert_eq!(pool.filesystem().kind(), kind);
    let data = pool.volume("a", 100 * GIB);
    let image = fs::metadata(data.join(IMAGE)).unwrap();
    assert_eq!(image.len(), 100 * GIB);
    assert!(image.blocks() * 512 < MIB, "{} sectors", image.blocks());
    assert_eq!(image.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
    assert_eq!(pool.filesystem().create(&data, GIB).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::metadata(data.join(IMAGE)).unwrap().len(), 100 * GIB);
}

/// Fills an image through a loop device.
fn fill(data: &Path, byte: u8, first: u64, count: u64) {
    let attached = Attached::new(&data.join(IMAGE), Options::default()).unwrap();
    assert!(attached.device().is_direct().unwrap(), "the pool allows direct I/O");
    let device = open_direct(&attached.path()).unwrap();
    write_direct(&device, &vec![byte; usize::try_from(count * BLOCK).unwrap()], first * BLOCK);
    device.sync_all().unwrap();
}

fn a_cut_is_the_image_at_one_instant_and_immutable(kind: Kind) {
    let pool = TestPool::new(kind);
    let data = pool.volume("a", 32 * MIB);
    fill(&data, 1, 0, 64);
    fill(&data, 2, 5000, 10);
    let before = contents(&data);
    let cut = pool.cut(&data, "s");
    assert!(contents(&cut) == before);
    fill(&data, 3, 10, 20);
    assert!(contents(&cut) == before, "a later write shows in the cut");
    assert!(contents(&data) != before);
    let error = File::options().write(true).open(cut.join(IMAGE)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem), "{error}");
    assert!(fs::remove_file(cut.join(IMAGE)).is_err(), "a cut is removed by the pool alone");
    // Its place is taken.
    assert!(pool.filesystem().cut(&data, &cut).is_err());
    assert!(contents(&cut) == before);
}

fn a_prepared_cut_is_the_same(kind: Kind) {
    let pool = TestPool::new(kind);
    let data = pool.volume("a", 64 * MIB);
    for index in 0..200 {
        fill(&data, 1, index * 80, 1);
    }
    let into = pool.place("s");
    pool.filesystem().prepare(&data, &into).unwrap();
    fill(&data, 2, 80, 3);
    fill(&data, 2, 16000, 3);
    let attached = Attached::new(&data.join(IMAGE), Options::default()).unwrap();
    let device = File::options().write(true).open(attached.path()).unwrap();
    varve_node::sys::block::discard(&device, 160 * BLOCK, BLOCK).unwrap();
    drop((device, attached));
    pool.filesystem().cut(&data, &into).unwrap();
    assert!(contents(&into) == contents(&data));
    assert!(File::options().write(true).open(into.join(IMAGE)).is_err());
}

fn a_writable_clone_is_independent(kind: Kind) {
    let pool = TestPool::new(kind);
    let data = pool.volume("a", 16 * MIB);
    fill(&data, 1, 0, 100);
    let cut = pool.cut(&data, "s");
    for (name, source) in [("from-volume", &data), ("from-cut", &cut)] {
        let clone = pool.place(name);
        pool.filesystem().clone_writable(source, &clone).unwrap();
        let before = contents(source);
        assert!(contents(&clone) == before);
        fill(&clone, 9, 50, 10);
        assert!(contents(source) == before, "a write to the clone shows in its source");
        let image = File::options().write(true).open(clone.join(IMAGE)).unwrap();
        image.set_len(17 * MIB).unwrap();
        assert_eq!(pool.filesystem().clone_writable(source, &clone).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::metadata(clone.join(IMAGE)).unwrap().len(), 17 * MIB);
    }
}

fn removing_frees_space_and_may_be_repeated(kind: Kind) {
    let pool = TestPool::new(kind);
    let empty = pool.pool().usage().unwrap();
    assert!(empty.capacity > GIB && empty.capacity <= 2 * GIB, "{empty:?}");
    let data = pool.volume("a", GIB);
    let blocks: Vec<u8> = (0..=250).cycle().take(256 << 20).collect();
    let image = open_direct(&data.join(IMAGE)).unwrap();
    write_direct(&image, &blocks, 0);
    image.sync_all().unwrap();
    drop(image);
    let cut = pool.cut(&data, "s");
    settle(&pool);
    let full = pool.pool().usage().unwrap();
    assert!(empty.free - full.free > 200 * MIB, "{empty:?} {full:?}");
    for data in [&data, &cut] {
        pool.filesystem().remove(data).unwrap();
        assert!(!data.exists());
        pool.filesystem().remove(data).unwrap();
    }
    // btrfs frees blocks in the background, and nothing tells when it has.
    let deadline = Instant::now() + Duration::from_secs(60);
    while empty.free - pool.pool().usage().unwrap().free.min(empty.free) > 32 * MIB {
        assert!(Instant::now() < deadline, "{empty:?} {:?}", pool.pool().usage());
        settle(&pool);
        thread::sleep(Duration::from_millis(100));
    }
}

fn settle(pool: &TestPool) {
    rustix::fs::syncfs(File::open(pool.pool().root()).unwrap()).unwrap();
}

fn a_cut_takes_no_longer_for_a_huge_sparse_image(kind: Kind) {
    let pool = TestPool::new(kind);
    let data = pool.volume("a", 100 * GIB);
    let image = File::options().write(true).open(data.join(IMAGE)).unwrap();
    for index in 0..100 {
        image.write_all_at(&[1; 4096], index * GIB).unwrap();
    }
    image.sync_all().unwrap();
    let started = Instant::now();
    let into = pool.place("s");
    pool.filesystem().prepare(&data, &into).unwrap();
    pool.filesystem().cut(&data, &into).unwrap();
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    println!("{kind:?}: a cut of 100 GiB with 100 blocks written took {elapsed:?}");
    assert_eq!(fs::metadata(into.join(IMAGE)).unwrap().len(), 100 * GIB);
    let mut block = [0; 4096];
    File::open(into.join(IMAGE)).unwrap().read_exact_at(&mut block, 99 * GIB).unwrap();
    assert_eq!(block, [1; 4096]);
}

fn folders_are_committed_whole_and_removed_whole(kind: Kind) {
    let test = TestPool::new(kind);
    let pool = test.pool();
    let volume = test.volume("a", 16 * MIB);
    fill(&volume, 7, 0, 10);
    let make = || {
        let making = pool.make_folder("cut").unwrap();
        assert_eq!(making.parent(), Some(&*pool.making_dir()));
        test.filesystem().cut(&volume, &making.join("data")).unwrap();
        fs::write(making.join("record.json"), "{}").unwrap();
        making
    };
    let to = pool.cuts_dir().join("s");
    pool.commit_folder(&make(), &to).unwrap();
    assert!(contents(&to.join("data")) == contents(&volume));
    let second = make();
    assert_eq!(pool.commit_folder(&second, &to).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(second.join("data").exists(), "what could not be committed is still there");
    pool.remove_folder(&second).unwrap();
    pool.remove_folder(&to).unwrap();
    pool.remove_folder(&to).unwrap();
    assert!(!to.exists());
    assert_eq!(fs::read_dir(pool.making_dir()).unwrap().count(), 0);
}

fn unfinished_work_is_removed_at_the_next_start(kind: Kind) {
    let mut test = TestPool::new(kind);
    let volume = test.volume("a", 16 * MIB);
    fill(&volume, 7, 0, 10);
    let uuid = test.pool().uuid();
    let making = test.pool().make_folder("cut").unwrap();
    test.filesystem().cut(&volume, &making.join("data")).unwrap();
    fs::create_dir(making.join("member")).unwrap();
    test.filesystem().clone_writable(&volume, &making.join("member/data")).unwrap();
    fs::write(making.join("record.json.new"), "{").unwrap();
    std::os::unix::fs::symlink(test.folder(), making.join("link")).unwrap();
    test.close();
    test.reopen();
    assert_eq!(fs::read_dir(test.pool().making_dir()).unwrap().count(), 0);
    assert_eq!(test.pool().uuid(), uuid);
    assert_eq!(contents(&volume)[..4096], [7; 4096]);
    assert!(test.folder().exists());
}

fn a_pool_is_used_by_one_process(kind: Kind) {
    let mut test = TestPool::new(kind);
    let error = Pool::open(&test.location).unwrap_err();
    assert_eq!(error.kind(), PoolErrorKind::InUse);
    assert!(error.to_string().contains("pool.img"), "{error}");
    let folder = Location::Folder(test.pool().root().to_owned());
    assert_eq!(Pool::open(&folder).unwrap_err().kind(), PoolErrorKind::InUse);
    test.close();
    test.reopen();
}

fn a_killed_process_leaves_a_pool_that_is_found_again(kind: Kind) {
    let mut test = TestPool::new(kind);
    let volume = test.volume("a", 16 * MIB);
    fill(&volume, 7, 0, 10);
    let (root, uuid) = (test.pool().root().to_owned(), test.pool().uuid());
    test.kill();
    assert!(filesystem::is_mount(&root).unwrap());
    test.reopen();
    assert_eq!((test.pool().root(), test.pool().uuid()), (&*root, uuid));
    assert_eq!(device::all_below(test.folder()).unwrap().len(), 1);
    assert_eq!(filesystem::mounts().unwrap().iter().filter(|mount| mount.target == root).count(), 1);
    assert_eq!(contents(&volume)[..4096], [7; 4096]);
    test.close();
    assert!(!filesystem::is_mount(&root).unwrap());
    assert_eq!(device::all_below(test.folder()).unwrap(), []);
}

fn a_pool_with_attached_volumes_stays_mounted(kind: Kind) {
    let mut test = TestPool::new(kind);
    let volume = test.volume("a", 16 * MIB);
    let root = test.pool().root().to_owned();
    let attached = Attached::new(&volume.join(IMAGE), Options::default()).unwrap();
    test.close();
    assert!(filesystem::is_mount(&root).unwrap());
    let device = open_direct(&attached.path()).unwrap();
    write_direct(&device, &[5; 4096], 0);
    drop(device);
    test.reopen();
    let below = device::all_below(test.pool().root()).unwrap();
    assert_eq!(below, [(attached.device(), volume.join(IMAGE))]);
    drop(attached);
    test.close();
    assert!(!filesystem::is_mount(&root).unwrap());
}

fn a_folder_can_be_a_pool(kind: Kind) {
    let mut test = TestPool::new(kind);
    let root = test.pool().root().to_owned();
    let own = root.join("volumes/folder");
    fs::create_dir(&own).unwrap();
    let pool = Pool::open(&Location::Folder(own.clone())).unwrap();
    assert_eq!(pool.filesystem().kind(), kind);
    assert_ne!(pool.uuid(), test.pool().uuid());
    let text = fs::read_to_string(own.join("pool.json")).unwrap();
    assert!(text.contains(&pool.uuid().to_string()), "{text}");
    let uuid = pool.uuid();
    pool.close().unwrap();
    pool.close().unwrap();
    let pool = Pool::open(&Location::Folder(own.clone())).unwrap();
    assert_eq!(pool.uuid(), uuid);
    drop(pool);
    fs::write(own.join("pool.json"), "{\"version\": 99, \"record\": {}}").unwrap();
    let error = Pool::open(&Location::Folder(own)).unwrap_err();
    assert_eq!(error.kind(), PoolErrorKind::Unusable);
    assert!(error.to_string().contains("version 99"), "{error}");
    test.close();
}

// What opening refuses.

fn refusal(location: &Location) -> String {
    let error = Pool::open(location).unwrap_err();
    assert_eq!(error.kind(), PoolErrorKind::Unusable, "{error}");
    error.to_string()
}

fn image(file: &Path, filesystem: Kind) -> Location {
    Location::Image { file: file.to_owned(), bytes: GIB, filesystem }
}

fn digest(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_folder_without_reflink_is_refused_with_advice() {
    let ext4 = Disk::formatted(64 * MIB, Filesystem::Ext4);
    let mounted = ext4.mount(Filesystem::Ext4, "m");
    let text = refusal(&Location::Folder(mounted.0.clone()));
    assert!(text.contains("it lies on ext4") && text.contains("mkfs.xfs -m reflink=1"), "{text}");
    drop(mounted);

    let xfs = Disk::new(512 * MIB);
    let made = Command::new("mkfs.xfs").args(["-q", "-m", "reflink=0"]).arg(xfs.path()).status().unwrap();
    assert!(made.success());
    let mounted = xfs.mount(Filesystem::Xfs, "m");
    let text = refusal(&Location::Folder(mounted.0.clone()));
    assert!(text.contains("xfs without reflink"), "{text}");
    assert_eq!(fs::read_dir(&mounted.0).unwrap().count(), 0, "a refused folder is left as it was");
}

#[test]
fn a_folder_with_other_things_in_it_is_refused_and_left_alone() {
    let xfs = Disk::formatted(512 * MIB, Filesystem::Xfs);
    let mounted = xfs.mount(Filesystem::Xfs, "m");
    fs::write(mounted.0.join("letter"), "dear").unwrap();
    let text = refusal(&Location::Folder(mounted.0.clone()));
    assert!(text.contains("letter"), "{text}");
    assert_eq!(fs::read_dir(&mounted.0).unwrap().count(), 1);
}

#[test]
fn a_folder_that_is_absent_or_a_file_is_refused() {
    let folder = folder();
    refusal(&Location::Folder(folder.path().join("absent")));
    fs::write(folder.path().join("file"), "").unwrap();
    refusal(&Location::Folder(folder.path().join("file")));
    refusal(&image(&folder.path().join("absent/pool.img"), Kind::Xfs));
    refusal(&image(folder.path(), Kind::Xfs));
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_was() {
    let folder = folder();
    let make = |name: &str, program: &str, options: &[&str]| {
        let path = folder.path().join(name);
        File::create_new(&path).unwrap().set_len(320 * MIB).unwrap();
        assert!(Command::new(program).args(options).arg(&path).status().unwrap().success());
        path
    };
    let text = folder.path().join("text");
    fs::write(&text, "not a pool at all").unwrap();
    let blank = folder.path().join("blank");
    File::create_new(&blank).unwrap().set_len(64 * MIB).unwrap();
    let cases = [
        (make("ext4", "mkfs.ext4", &["-q"]), "it holds ext4"),
        (make("xfs", "mkfs.xfs", &["-q", "-L", "mine"]), "it holds xfs labelled \"mine\""),
        (make("btrfs", "mkfs.btrfs", &["-q"]), "it holds btrfs, and xfs is asked for"),
        (text, "something unknown"),
        (blank, "it is there and blank"),
    ];
    for (path, reason) in cases {
        let before = digest(&path);
        let text = refusal(&image(&path, Kind::Xfs));
        assert!(text.contains(reason), "{text}");
        assert_eq!(digest(&path), before);
        assert_eq!(device::all_below(folder.path()).unwrap(), []);
    }
    let mounts = filesystem::mounts().unwrap();
    assert!(mounts.iter().all(|mount| !mount.target.starts_with(folder.path())));
}

#[test]
fn a_labelled_file_that_is_no_pool_is_refused_and_detached() {
    let folder = folder();
    let path = folder.path().join("xfs");
    File::create_new(&path).unwrap().set_len(512 * MIB).unwrap();
    assert!(
        Command::new("mkfs.xfs")
            .args(["-q", "-s", "size=4096", "-L", "varve-pool"])
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    let mount_point = folder.path().join("m");
    fs::create_dir(&mount_point).unwrap();
    let attached = Attached::new(&path, Options::default()).unwrap();
    filesystem::mount(&attached.path(), &mount_point, Filesystem::Xfs, &[], false).unwrap();
    fs::write(mount_point.join("letter"), "dear").unwrap();
    filesystem::unmount(&mount_point).unwrap();
    drop(attached);
    let text = refusal(&image(&path, Kind::Xfs));
    assert!(text.contains("letter"), "{text}");
    assert_eq!(device::all_below(folder.path()).unwrap(), []);
}

#[test]
fn an_image_whose_making_was_cut_short_is_made_anew() {
    let folder = folder();
    let file = folder.path().join("pool.img");
    let left = folder.path().join("pool.img.making");
    File::create_new(&left).unwrap().write_all(&[1; 100_000]).unwrap();
    let pool = Pool::open(&image(&file, Kind::Xfs)).unwrap();
    assert!(!left.exists());
    assert_eq!(fs::metadata(&file).unwrap().len(), GIB);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert!(allocated(&file) < 100 * MIB, "{}", allocated(&file));
    pool.close().unwrap();
    // Another size is asked for: it is opened as it is.
    let pool = Pool::open(&Location::Image { file: file.clone(), bytes: 2 * GIB, filesystem: Kind::Xfs }).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), GIB);
    pool.close().unwrap();
    let text = refusal(&image(&file, Kind::Btrfs));
    assert!(text.contains("it holds xfs, and btrfs is asked for"), "{text}");
}

#[test]
fn of_many_that_make_one_image_at_once_one_gets_it() {
    let folder = folder();
    let location = image(&folder.path().join("pool.img"), Kind::Btrfs);
    let opened: Vec<Result<Pool, PoolError>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| Pool::open(&location))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    for error in lost {
        assert_eq!(error.unwrap_err().kind(), PoolErrorKind::InUse);
    }
    assert_eq!(won.len(), 1);
    won.into_iter().for_each(|pool| pool.unwrap().close().unwrap());
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["pool.img"]);
}

#[test]
fn an_image_too_small_says_so_and_leaves_nothing() {
    let folder = folder();
    let location = Location::Image { file: folder.path().join("pool.img"), bytes: MIB, filesystem: Kind::Xfs };
    let error = Pool::open(&location).unwrap_err();
    assert!(error.to_string().contains("at least 314572800 bytes"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
