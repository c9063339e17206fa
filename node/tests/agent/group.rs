//! Snapshots of several volumes at one instant, with writers at work.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use rustix::fs::IFlags;
use varve_node::{
    cut::{
        self, Cut, State, Stranded,
        making::{self, Member},
    },
    pool::{Kind, Pool},
};
use varve_repository::{
    id::SnapshotId,
    record::{snapshot::SnapshotDescription, volume::Presentation},
    seam::System,
};

use crate::fixture::{MIB, Site, write};

crate::on_both_pools!(
    invariant_1_a_group_is_of_one_instant,
    a_group_that_is_half_in_place_is_completed_by_asking_again
);

/// Writes the same number to one volume and then to the other, over and over, each before the next begins.
fn count(one: &Path, two: &Path, stop: &AtomicBool, reached: &AtomicU64) {
    let open = |folder: &Path| File::create(folder.join("counter")).expect("created");
    let (one, two) = (open(one), open(two));
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        for file in [&one, &two] {
            file.write_all_at(&u64::to_le_bytes(number), 0).expect("written");
            // Into the image, not only into memory.
            file.sync_data().expect("synced");
        }
        reached.store(number, Ordering::Relaxed);
    }
}

fn read(folder: &Path) -> u64 {
    u64::from_le_bytes(fs::read(folder.join("counter")).expect("read").try_into().expect("eight bytes"))
}

async fn invariant_1_a_group_is_of_one_instant(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    for name in ["one", "two"] {
        node.create(site.wanted(name, 64 * MIB)).await.expect("made");
    }
    let (one, two) = (node.stage(site.volume("one")), node.stage(site.volume("two")));
    let (stop, reached) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = std::thread::scope(|scope| {
        scope.spawn(|| count(&one.target, &two.target, &stop, &reached));
        while reached.load(Ordering::Relaxed) < 10 {
            std::thread::yield_now();
        }
        let before = reached.load(Ordering::Relaxed);
        let cut = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current()
                .block_on(node.back_up(site.wanted_cuts(&[("s1", "one"), ("s2", "two")], 0)))
        });
        stop.store(true, Ordering::Relaxed);
        assert_eq!(cut[0].created_at, cut[1].created_at, "one instant");
        before
    });
    for (name, volume) in [("s1", "one"), ("s2", "two")] {
        let description = site.root(name).await.description;
        assert_eq!(description.parameters, [("of".to_owned(), volume.to_owned())].into(), "each has its own");
        assert!(description.frozen && description.pause_nanos > 0, "{description:?}");
        assert_eq!(description.group, Some(site.repository.group_id("group")));
    }
    node.create(site.wanted_from("three", 64 * MIB, "s1")).await.expect("cloned");
    node.create(site.wanted_from("four", 64 * MIB, "s2")).await.expect("cloned");
    let (three, four) = (node.stage(site.volume("three")), node.stage(site.volume("four")));
    let (first, second) = (read(&three.target), read(&four.target));
    assert!(second >= before, "the cut is of an instant after the call: {second} and {before}");
    assert!(first == second || first == second + 1, "{first} and {second} were never there together");
    assert!(reached.load(Ordering::Relaxed) >= first, "and the writer went on");
    drop((one, two, three, four));
}

/// A cut of the image in `data`, to be made.
fn member(site: &Site, name: &str, data: PathBuf) -> Member {
    let description = SnapshotDescription {
        id: site.snapshot(name),
        name: name.into(),
        volume: site.volume(name),
        volume_name: name.into(),
        incarnation: "0190e5c4-0000-4000-8000-000000000001".parse().expect("a uuid"),
        capacity_bytes: MIB,
        presentation: Presentation::Block,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        node: "a".into(),
        group: Some(site.repository.group_id("group")),
        frozen: false,
        pause_nanos: 0,
        parameters: [].into(),
    };
    let record = cut::Record { description, state: State::NodeOnly, origin: None, offload: Default::default() };
    Member { data, record }
}

/// Allows or forbids that a folder is moved or changed.
fn forbid(folder: &Path, forbidden: bool) {
    let folder = File::open(folder).expect("opened");
    let flags = rustix::fs::ioctl_getflags(&folder).expect("flags");
    let flags = if forbidden { flags | IFlags::IMMUTABLE } else { flags - IFlags::IMMUTABLE };
    rustix::fs::ioctl_setflags(&folder, flags).expect("flags are set");
}

async fn a_group_that_is_half_in_place_is_completed_by_asking_again(kind: Kind) {
    let site = Site::new(kind).await;
    let pool = Pool::open(&site.location("a")).expect("a pool");
    let names = ["s1", "s2", "s3"];
    let members = names.map(|name| {
        let data = pool.make_folder(name).expect("made").join("data");
        pool.filesystem().create(&data, MIB).expect("made");
        write(&data.join("image"), 0, 1, 4096);
        member(&site, name, data)
    });
    let folder = pool.make_folder("group").expect("made");
    let group = pool.cuts_dir().join(folder.file_name().expect("named")).with_extension("group");
    let hold = making::Hold { limit: Duration::from_secs(20), sentinel: None };
    let made = making::make(&**pool.filesystem(), folder, members.into(), &hold, &System).expect("made");
    let ids = names.map(|name| site.snapshot(name));
    let held = group.join(ids[1].to_string());

    let committed = making::commit(&pool, &made).expect("committed");
    forbid(&held, true);
    let stranded = Stranded::default();
    let mut known: Vec<SnapshotId> = Vec::new();
    stranded.take_up(&pool, committed, |cut| known.push(cut.id())).expect_err("one cannot be moved");
    assert!(!stranded.is_empty());
    let retry = |known: &mut Vec<SnapshotId>, asked: SnapshotId| {
        let (taken, outcome) = stranded.retry(&pool, |id| *id == asked, |cut| known.push(cut.id()));
        (taken.iter().map(Cut::id).collect::<Vec<_>>(), outcome.is_ok())
    };
    assert_eq!(retry(&mut known, ids[0]), (vec![], false), "nothing is known of them until all are there");
    assert_eq!(retry(&mut known, site.snapshot("other")), (vec![], true), "and that is nobody else's concern");
    assert_eq!(known, []);
    forbid(&held, false);
    assert_eq!(retry(&mut known, ids[0]), (ids.to_vec(), true));
    assert_eq!(known, ids);
    assert!(stranded.is_empty() && !group.exists());
    for id in ids {
        assert!(pool.cut_dir(id).join("data/image").exists());
    }
    pool.close().expect("put away");
}
