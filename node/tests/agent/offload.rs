//! Cuts and their way into the repository.

use std::fs::File;

use tonic::Code;
use varve_node::pool::Kind;
use varve_proto::agent as proto;
use varve_repository::{SnapshotState, record::snapshot::Method};

use crate::{
    fixture::{BLOCK, LONG, MIB, Site, fails_with, write},
    gate::Position,
};

crate::on_both_pools!(
    the_first_snapshot_sends_what_is_written_and_the_next_what_changed,
    a_snapshot_asked_for_again_is_the_same,
    a_snapshot_of_a_volume_never_staged_is_empty,
    a_cut_on_the_node_alone_is_ready_and_never_sent,
    deleting_a_cut_ends_its_offload,
    a_tombstone_alone_ends_an_offload_for_good,
    asking_again_joins_the_offload_under_way,
    a_snapshot_outlives_its_volume,
    a_base_that_was_deleted_is_not_built_upon,
    a_refusing_store_fails_the_snapshot_and_says_so,
    a_damaged_base_is_not_built_upon,
    bases_go_when_the_pool_is_nearly_full,
);

async fn the_first_snapshot_sends_what_is_written_and_the_next_what_changed(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    write(&image, 0, 1, 4 * MIB);
    write(&image, 32 * MIB, 2, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    let root = site.root("s1").await;
    assert_eq!((root.method, root.base), (Method::Full, None));
    assert_eq!(root.statistics.data_bytes, 5 * MIB);
    assert_eq!((root.description.capacity_bytes, root.description.frozen), (64 * MIB, false));
    assert_eq!(root.description.parameters, [("of".to_owned(), "one".to_owned())].into());

    write(&image, 2 * MIB, 3, 4 * BLOCK);
    write(&image, 40 * MIB, 4, BLOCK);
    node.back_up(site.wanted_cuts(&[("s2", "one")], 0)).await;
    let root = site.root("s2").await;
    assert_eq!((root.method, root.base), (Method::Incremental, Some(site.snapshot("s1"))));
    assert_eq!(root.statistics.changed_bytes, 5 * BLOCK, "nothing but what was written");
    assert_eq!(root.statistics.stored_bytes, 5 * BLOCK);
    assert!(root.statistics.uploaded_bytes < 5 * BLOCK + 65_536, "{:?}", root.statistics);

    // Only the newest is kept to compare with, and none of them waits for anything.
    node.gone(site.snapshot("s1")).await;
    assert!(node.agent.cuts().get(&site.snapshot("s2")).is_some());
    assert!(node.cuts().await.is_empty());

    node.back_up(site.wanted_cuts(&[("s3", "one")], 0)).await;
    let idle = site.root("s3").await;
    assert_eq!(idle.statistics.changed_bytes, 0);
    node.gone(site.snapshot("s2")).await;

    node.delete(site.volume("one")).await.expect("deleted");
    assert!(node.agent.cuts().list().is_empty(), "bases go with their volume");
    assert_eq!(std::fs::read_dir(node.agent.pool().cuts_dir()).expect("listed").count(), 0);
}

async fn a_damaged_base_is_not_built_upon(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    write(&image, 0, 1, 4 * MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    site.damage_packs();

    write(&image, MIB, 2, BLOCK);
    node.back_up(site.wanted_cuts(&[("s2", "one")], 0)).await;
    let root = site.root("s2").await;
    assert_eq!((root.method, root.base), (Method::Full, None), "whole again, with nothing of what is damaged");
    assert_eq!(root.statistics.stored_bytes, 4 * MIB);
    write(&image, 2 * MIB, 3, BLOCK);
    node.back_up(site.wanted_cuts(&[("s3", "one")], 0)).await;
    assert_eq!(site.root("s3").await.method, Method::Incremental, "and a base for the next");
}

async fn a_snapshot_asked_for_again_is_the_same(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    node.create(site.wanted("two", 64 * MIB)).await.expect("made");
    let first = node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    let again = node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    assert_eq!(first[0].created_at, again[0].created_at);
    fails_with(node.cut(site.wanted_cuts(&[("s1", "two")], 0)).await, Code::AlreadyExists);

    // The cut is gone from here; the repository remembers.
    node.back_up(site.wanted_cuts(&[("s2", "one")], 0)).await;
    node.gone(site.snapshot("s1")).await;
    let remembered = node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    assert_eq!(first[0].created_at, remembered[0].created_at);

    fails_with(node.cut(site.wanted_cuts(&[("s3", "unknown")], 0)).await, Code::NotFound);
    fails_with(node.cut(site.wanted_cuts(&[], 0)).await, Code::InvalidArgument);
    fails_with(node.cut(site.wanted_cuts(&[("s3", "one"), ("s4", "one")], 0)).await, Code::InvalidArgument);
    let half_known = site.wanted_cuts(&[("s1", "one"), ("s5", "two")], 0);
    fails_with(node.cut(half_known).await, Code::FailedPrecondition);
    site.repository.delete_snapshot(site.snapshot("s1"), "deleted").await.expect("deleted");
    fails_with(node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await, Code::Aborted);
}

async fn a_snapshot_of_a_volume_never_staged_is_empty(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    let root = site.root("s1").await;
    assert_eq!((root.statistics.stored_bytes, root.description.capacity_bytes), (0, 64 * MIB));
}

async fn a_cut_on_the_node_alone_is_ready_and_never_sent(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    let durability = proto::Durability::Node.into();
    let wanted = proto::CreateCutsRequest { durability, ..site.wanted_cuts(&[("s1", "one")], 0) };
    let cuts = node.cut(wanted).await.expect("cut");
    assert_eq!((cuts[0].state(), cuts[0].durability()), (proto::cut::State::Ready, proto::Durability::Node));
    assert_eq!(node.cuts().await, cuts, "it is listed, since it is nowhere else");
    assert!(site.repository.snapshots().await.expect("listed").is_empty());
    node.create(site.wanted_from("two", 64 * MIB, "s1")).await.expect("cloned");
    node.delete_cut(site.snapshot("s1")).await.expect("deleted");
    node.delete_cut(site.snapshot("s1")).await.expect("nothing there is fine");
    assert!(node.cuts().await.is_empty());
}

async fn deleting_a_cut_ends_its_offload(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    gate.set(Position::Shut);
    let cuts = node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await.expect("cut");
    assert_ne!(cuts[0].state(), proto::cut::State::Ready);
    gate.somebody_waits().await;
    site.repository.delete_snapshot(site.snapshot("s1"), "deleted").await.expect("cancelled");
    node.delete_cut(site.snapshot("s1")).await.expect("deleted, with the gate still shut");
    assert!(node.agent.cuts().list().is_empty());
    gate.set(Position::Open);
    node.back_up(site.wanted_cuts(&[("s2", "one")], 0)).await;
    assert_eq!(site.root("s2").await.method, Method::Full);
    assert!(matches!(site.repository.snapshot(site.snapshot("s1")).await, Ok(SnapshotState::Gone(_))));
}

/// As where the snapshot was deleted by a person with the repository's key, while nobody could reach the node.
async fn a_tombstone_alone_ends_an_offload_for_good(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    gate.set(Position::Shut);
    node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await.expect("cut");
    gate.somebody_waits().await;
    site.repository.delete_snapshot(site.snapshot("s1"), "deleted").await.expect("cancelled");
    gate.set(Position::Open);
    node.gone(site.snapshot("s1")).await;
    assert!(site.repository.intents().await.expect("listed").is_empty());
    node.stop().await;

    // Nor does a restart bring it back.
    let node = site.node("a").await;
    assert!(node.agent.cuts().list().is_empty());
    fails_with(node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await, Code::Aborted);
    assert!(matches!(site.repository.snapshot(site.snapshot("s1")).await, Ok(SnapshotState::Gone(_))));
}

async fn asking_again_joins_the_offload_under_way(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    write(&image, 0, 1, MIB);
    gate.set(Position::Shut);
    let first = node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await.expect("cut");
    gate.somebody_waits().await;
    write(&image, MIB, 2, MIB);
    let again = node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await.expect("joined");
    assert_eq!(first[0].created_at, again[0].created_at, "the same instant");
    assert_ne!(again[0].state(), proto::cut::State::Ready);
    assert_eq!(node.agent.cuts().list().len(), 1, "and no second cut");
    // One that waits sees the end of it.
    let waiting = node.cut(site.wanted_cuts(&[("s1", "one")], LONG));
    let (waited, ()) = tokio::join!(waiting, async { gate.set(Position::Open) });
    assert_eq!(waited.expect("joined")[0].state(), proto::cut::State::Ready);
    let intents = site.repository.intents().await.expect("listed");
    assert!(intents.is_empty(), "{intents:?}");
    let root = site.root("s1").await;
    assert_eq!(root.statistics.stored_bytes, MIB, "nothing of what was written behind the cut");
    assert_eq!(root.statistics.packs, 1);
}

async fn a_snapshot_outlives_its_volume(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    write(&image, 0, 1, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    write(&image, 0, 2, BLOCK);
    gate.set(Position::Shut);
    node.cut(site.wanted_cuts(&[("s2", "one")], 0)).await.expect("cut");
    gate.somebody_waits().await;
    node.delete(site.volume("one")).await.expect("deleted");
    let waiting = node.cuts().await;
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    gate.set(Position::Open);
    node.settled(site.snapshot("s2")).await;
    let root = site.root("s2").await;
    assert_eq!((root.method, root.statistics.changed_bytes), (Method::Incremental, BLOCK));
    node.gone(site.snapshot("s2")).await;
    node.gone(site.snapshot("s1")).await;
}

async fn a_base_that_was_deleted_is_not_built_upon(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    write(&image, 0, 1, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    write(&image, MIB, 2, BLOCK);
    node.back_up(site.wanted_cuts(&[("s2", "one")], 0)).await;
    site.repository.delete_snapshot(site.snapshot("s2"), "deleted").await.expect("deleted");
    write(&image, 2 * MIB, 3, BLOCK);
    node.back_up(site.wanted_cuts(&[("s3", "one")], 0)).await;
    let root = site.root("s3").await;
    assert_eq!((root.method, root.base), (Method::Compared, Some(site.snapshot("s1"))));
    assert_eq!(root.statistics.stored_bytes, 2 * BLOCK, "the rest is in the repository already");
    assert!(node.agent.cuts().get(&site.snapshot("s2")).is_none());
}

async fn a_refusing_store_fails_the_snapshot_and_says_so(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    gate.set(Position::Refuses);
    let cuts = node.cut(site.wanted_cuts(&[("s1", "one")], LONG)).await.expect("cut");
    assert_eq!(cuts[0].state(), proto::cut::State::Failed, "{cuts:?}");
    assert!(cuts[0].message.contains("the gate refuses"), "{cuts:?}");
    let ailment = node.images().await[0].ailments[0].clone();
    assert_eq!((ailment.severity(), ailment.reason.as_str()), (proto::ailment::Severity::Degraded, "BackupFailed"));
    node.stop().await;

    // A restart is a reason to try once more.
    gate.set(Position::Open);
    let node = site.node("a").await;
    node.settled(site.snapshot("s1")).await;
    assert_eq!(site.root("s1").await.statistics.data_bytes, MIB);
    assert!(node.images().await[0].ailments.is_empty());
}

async fn bases_go_when_the_pool_is_nearly_full(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    write(&image, 0, 1, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    let pool = node.pool().await;
    assert!(pool.ailments.is_empty(), "{pool:?}");
    let filler = File::create(node.agent.pool().root().join("filler")).expect("created");
    let bytes = pool.free_bytes - pool.capacity_bytes / 40;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, bytes).expect("allocated");
    filler.sync_all().expect("synced");
    node.gone(site.snapshot("s1")).await;
    let pool = node.pool().await;
    assert_eq!(pool.ailments.first().map(|ailment| ailment.reason.as_str()), Some("PoolNearlyFull"), "{pool:?}");

    // Nothing is lost but time.
    filler.set_len(0).expect("emptied");
    write(&image, MIB, 2, BLOCK);
    node.back_up(site.wanted_cuts(&[("s2", "one")], 0)).await;
    let root = site.root("s2").await;
    assert_eq!((root.method, root.statistics.stored_bytes), (Method::Compared, BLOCK));
}
