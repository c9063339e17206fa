//! Snapshots of several volumes at one instant, with writers at work.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use varve_node::pool::Kind;

use crate::fixture::{MIB, Site};

crate::on_both_pools!(invariant_1_a_group_is_of_one_instant);

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
    for name in ["s1", "s2"] {
        let description = site.root(name).await.description;
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
