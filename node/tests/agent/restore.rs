//! Filling images from snapshots.

use std::fs;

use tonic::Code;
use varve_node::pool::Kind;
use varve_repository::record::snapshot::Method;

use crate::{
    fixture::{BLOCK, MIB, Site, fails_with, write},
    gate::Position,
};

crate::on_both_pools!(
    invariant_1_a_snapshot_restores_byte_for_byte_on_another_pool,
    a_snapshot_that_is_here_is_cloned,
    a_restore_that_is_cancelled_leaves_nothing,
    an_origin_that_goes_while_it_is_compared_with_leaves_the_snapshot_right,
);

async fn invariant_1_a_snapshot_restores_byte_for_byte_on_another_pool(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    write(&image, 0, 1, 3 * MIB);
    write(&image, 50 * MIB, 2, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    write(&image, MIB, 3, MIB);
    node.back_up(site.wanted_cuts(&[("s2", "one")], 0)).await;
    let original = fs::read(&image).expect("read");
    node.stop().await;

    let other = site.node("b").await;
    fails_with(other.create(site.wanted_from("small", 32 * MIB, "s2")).await, Code::OutOfRange);
    // Two volumes at once: the second one clones what the first one fetched.
    let (two, three) = tokio::join!(
        other.create(site.wanted_from("two", 64 * MIB, "s2")),
        other.create(site.wanted_from("three", 80 * MIB, "s2"))
    );
    two.and(three).expect("restored");
    let restored = other.volume(site.volume("two")).image();
    assert!(fs::read(&restored).expect("read") == original, "byte for byte");
    let longer = fs::read(other.volume(site.volume("three")).image()).expect("read");
    assert_eq!(longer.len() as u64, 80 * MIB);
    assert!(longer.starts_with(&original), "byte for byte");

    // The first snapshot after a restore sends only what changed since.
    for (volume, snapshot) in [("two", "s3"), ("three", "s4")] {
        write(&other.volume(site.volume(volume)).image(), 10 * MIB, 4, 2 * BLOCK);
        other.back_up(site.wanted_cuts(&[(snapshot, volume)], 0)).await;
        let root = site.root(snapshot).await;
        assert_eq!((root.method, root.base), (Method::Incremental, Some(site.snapshot("s2"))), "{volume}");
        assert_eq!(root.statistics.changed_bytes, 2 * BLOCK, "{volume}");
    }
    other.gone(site.snapshot("s2")).await;
    assert_eq!(fs::read_dir(other.agent.pool().making_dir()).expect("listed").count(), 0, "nothing is left");
}

async fn a_snapshot_that_is_here_is_cloned(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    write(&image, 0, 1, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    let original = fs::read(&image).expect("read");
    write(&image, 0, 9, MIB);
    node.create(site.wanted_from("two", 64 * MIB, "s1")).await.expect("cloned");
    let clone = node.volume(site.volume("two")).image();
    assert!(fs::read(&clone).expect("read") == original, "byte for byte");

    // The volume that the snapshot is of goes on; the clone's base stays for as long as it is needed.
    node.back_up(site.wanted_cuts(&[("s2", "one")], 0)).await;
    node.delete(site.volume("one")).await.expect("deleted");
    write(&clone, 5 * MIB, 2, BLOCK);
    node.back_up(site.wanted_cuts(&[("s3", "two")], 0)).await;
    let root = site.root("s3").await;
    assert_eq!((root.base, root.statistics.changed_bytes), (Some(site.snapshot("s1")), BLOCK));
    node.gone(site.snapshot("s1")).await;
}

async fn a_restore_that_is_cancelled_leaves_nothing(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    node.stop().await;

    let other = site.node("b").await;
    let free = other.pool().await.provisionable_bytes;
    gate.set(Position::Shut);
    let making = other.create(site.wanted_from("two", 64 * MIB, "s1"));
    let deleting = async {
        gate.somebody_waits().await;
        // Another wish for the same volume does not join.
        fails_with(other.create(site.wanted_from("two", 80 * MIB, "s1")).await, Code::Aborted);
        assert_eq!(other.pool().await.provisionable_bytes, free - 64 * MIB, "it is promised already");
        other.delete(site.volume("two")).await
    };
    let (made, deleted) = tokio::join!(making, deleting);
    fails_with(made, Code::Aborted);
    deleted.expect("deleted");
    assert!(other.images().await.is_empty());
    assert_eq!(other.pool().await.provisionable_bytes, free);
    assert_eq!(fs::read_dir(other.agent.pool().making_dir()).expect("listed").count(), 0, "nothing is left");

    // The same by a stop; the next node starts afresh, and joins what is under way.
    let making = other.create(site.wanted_from("two", 64 * MIB, "s1"));
    let stopping = async {
        gate.somebody_waits().await;
        other.agent.stop().await;
    };
    fails_with(tokio::join!(making, stopping).0, Code::Unavailable);
    fails_with(other.create(site.wanted("three", 64 * MIB)).await, Code::Unavailable);
    drop(other);
    let other = site.node("b").await;
    let first = other.create(site.wanted_from("two", 64 * MIB, "s1"));
    let second = async {
        gate.somebody_waits().await;
        let second = other.create(site.wanted_from("two", 64 * MIB, "s1"));
        gate.set(Position::Open);
        second.await
    };
    let (first, second) = tokio::join!(first, second);
    first.and(second).expect("restored");
}

async fn an_origin_that_goes_while_it_is_compared_with_leaves_the_snapshot_right(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    node.create(site.wanted_from("two", 64 * MIB, "s1")).await.expect("cloned");
    node.delete(site.volume("one")).await.expect("deleted");
    assert!(node.agent.cuts().get(&site.snapshot("s1")).is_some(), "the clone's origin is kept as its base");
    let image = node.volume(site.volume("two")).image();
    write(&image, BLOCK, 2, BLOCK);
    let expected = fs::read(&image).expect("read");
    gate.set(Position::Shut);
    node.cut(site.wanted_cuts(&[("s2", "two")], 0)).await.expect("cut");
    gate.somebody_waits().await;
    // The offload holds the origin: it lets go, and does without.
    node.delete_cut(site.snapshot("s1")).await.expect("deleted");
    assert!(!node.agent.pool().cut_dir(site.snapshot("s1")).exists());
    // What the origin's blocks are used for now is no concern of the clone's.
    node.create(site.wanted("three", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("three")).image(), 0, 3, 2 * MIB);
    gate.set(Position::Open);
    node.settled(site.snapshot("s2")).await;
    let root = site.root("s2").await;
    assert_eq!((root.method, root.base), (Method::Compared, Some(site.snapshot("s1"))));
    let other = site.node("b").await;
    other.create(site.wanted_from("four", 64 * MIB, "s2")).await.expect("restored");
    let restored = fs::read(other.volume(site.volume("four")).image()).expect("read");
    assert!(restored == expected, "byte for byte");
}
