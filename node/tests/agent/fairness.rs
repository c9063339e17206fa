//! Whose offload goes first, who makes way for whom, and how many cuts may wait.

use std::time::Duration;

use tonic::{Code, Request};
use varve_node::{
    agent::Standing,
    config::{Config, OffloadLimits},
    pool::Kind,
};
use varve_proto::agent::{self as proto, agent_server::Agent as _};

use crate::{
    fixture::{LONG, MIB, Node, Site, fails_with, write},
    gate::Position,
};

crate::on_both_pools!(
    a_small_offload_overtakes_a_large_one_that_asked_before,
    a_large_offload_makes_way_for_a_small_one_and_goes_on_where_it_was,
    hydrations_go_first,
    cuts_that_wait_are_bounded,
    parameters_that_change_hold_for_an_offload_under_way,
    an_offload_that_is_paced_is_the_same,
);

/// Waits until so many offloads and hydrations run and wait.
async fn stands(node: &Node, running: usize, waiting: usize, hydrating: usize) {
    let wanted = Standing { running, waiting, hydrating };
    let reached = async {
        while node.agent.offloads() != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), reached).await.is_err() {
        panic!("{:?} instead of {wanted:?}", node.agent.offloads());
    }
}

async fn volume_of(site: &Site, node: &Node, name: &str, bytes: u64, seed: u64) {
    node.create(site.wanted(name, 256 * MIB)).await.expect("made");
    write(&node.volume(site.volume(name)).image(), 0, seed, bytes);
}

async fn cut(site: &Site, node: &Node, snapshot: &str, volume: &str) {
    node.cut(site.wanted_cuts(&[(snapshot, volume)], 0)).await.expect("cut");
}

async fn a_small_offload_overtakes_a_large_one_that_asked_before(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.start(Config { offloads: 1, ..site.config("a") }).await;
    volume_of(&site, &node, "first", MIB, 1).await;
    volume_of(&site, &node, "large", 24 * MIB, 2).await;
    volume_of(&site, &node, "small", MIB, 3).await;
    gate.set(Position::Shut);
    cut(&site, &node, "s-first", "first").await;
    gate.somebody_waits().await;
    cut(&site, &node, "s-large", "large").await;
    stands(&node, 1, 1, 0).await;
    cut(&site, &node, "s-small", "small").await;
    stands(&node, 1, 2, 0).await;
    gate.set(Position::Open);
    for name in ["s-first", "s-large", "s-small"] {
        node.settled(site.snapshot(name)).await;
    }
    let order: Vec<String> =
        ["s-first", "s-small", "s-large"].map(|name| format!("snapshots/{}", site.snapshot(name))).into();
    assert_eq!(gate.put_below("snapshots/"), order);
}

async fn a_large_offload_makes_way_for_a_small_one_and_goes_on_where_it_was(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let offload_limits = OffloadLimits { shortest_turn: Duration::ZERO, ..OffloadLimits::default() };
    let node = site.start(Config { offloads: 1, offload_limits, ..site.config("a") }).await;
    volume_of(&site, &node, "large", 160 * MIB, 1).await;
    volume_of(&site, &node, "small", MIB, 2).await;
    gate.set(Position::Shut);
    cut(&site, &node, "s-large", "large").await;
    // Its packs are on their way and it can read no further; then somebody waits.
    gate.somebody_waits().await;
    cut(&site, &node, "s-small", "small").await;
    stands(&node, 1, 1, 0).await;
    gate.set(Position::Open);
    node.settled(site.snapshot("s-small")).await;
    node.settled(site.snapshot("s-large")).await;
    let order: Vec<String> = ["s-small", "s-large"].map(|name| format!("snapshots/{}", site.snapshot(name))).into();
    assert_eq!(gate.put_below("snapshots/"), order);
    let (large, small) = (site.root("s-large").await, site.root("s-small").await);
    assert_eq!(large.statistics.stored_bytes + large.statistics.deduplicated_bytes, 160 * MIB);
    let packs = large.statistics.packs + small.statistics.packs;
    assert_eq!(gate.put_below("packs/").len() as u64, packs, "nothing was sent twice");
}

async fn hydrations_go_first(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        volume_of(&site, &node, name, MIB, seed).await;
    }
    node.back_up(site.wanted_cuts(&[("source", "one")], 0)).await;
    node.stop().await;
    let node = site.node("b").await;
    for (name, seed) in [("two", 2), ("three", 3)] {
        node.create(site.wanted(&format!("{name}-b"), 256 * MIB)).await.expect("made");
        write(&node.volume(site.volume(&format!("{name}-b"))).image(), 0, seed, MIB);
    }
    gate.set(Position::Shut);
    let restoring = node.create(site.wanted_from("restored", 256 * MIB, "source"));
    let others = async {
        stands(&node, 0, 0, 1).await;
        cut(&site, &node, "s-two", "two-b").await;
        cut(&site, &node, "s-three", "three-b").await;
        // There are two slots, and the second one is not given.
        stands(&node, 1, 1, 1).await;
        gate.set(Position::Open);
    };
    let (restored, ()) = tokio::join!(restoring, others);
    restored.expect("restored");
    for name in ["s-two", "s-three"] {
        node.settled(site.snapshot(name)).await;
        assert_eq!(site.root(name).await.statistics.data_bytes, MIB);
    }
    stands(&node, 0, 0, 0).await;
}

async fn cuts_that_wait_are_bounded(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let offload_limits = OffloadLimits { waiting_of_volume: 2, waiting: 3, ..OffloadLimits::default() };
    let node = site.start(Config { offload_limits, ..site.config("a") }).await;
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        volume_of(&site, &node, name, MIB, seed).await;
    }
    gate.set(Position::Shut);
    cut(&site, &node, "s1", "one").await;
    cut(&site, &node, "s2", "one").await;
    let refused = fails_with(node.cut(site.wanted_cuts(&[("s3", "one")], 0)).await, Code::ResourceExhausted);
    assert!(refused.message().starts_with("2 snapshots of volume"), "{refused}");
    assert!(refused.message().contains("waiting_cuts_per_volume"), "{refused}");
    assert!(node.agent.cuts().get(&site.snapshot("s3")).is_none(), "nothing was cut");
    // Asking for what there is already, and for what nobody waits for, is not refused.
    cut(&site, &node, "s2", "one").await;
    let durability = proto::Durability::Node.into();
    let on_node = proto::CreateCutsRequest { durability, ..site.wanted_cuts(&[("kept", "one")], 0) };
    node.cut(on_node).await.expect("cut");
    // All members of a group, or none.
    let group = site.wanted_cuts(&[("g1", "two"), ("g2", "three")], 0);
    let refused = fails_with(node.cut(group).await, Code::ResourceExhausted);
    assert!(
        refused.message().starts_with("3 snapshots on this node") && refused.message().contains("(waiting_cuts)"),
        "{refused}"
    );
    cut(&site, &node, "t1", "two").await;
    fails_with(node.cut(site.wanted_cuts(&[("t2", "two")], 0)).await, Code::ResourceExhausted);

    gate.set(Position::Open);
    for name in ["s1", "s2", "t1"] {
        node.settled(site.snapshot(name)).await;
    }
    node.back_up(site.wanted_cuts(&[("s3", "one")], 0)).await;
}

async fn parameters_that_change_hold_for_an_offload_under_way(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    volume_of(&site, &node, "one", 16 * MIB, 1).await;
    let modify = async |bandwidth, weight| {
        let offload = proto::OffloadParameters { bandwidth, weight, ..Default::default() };
        let volume_id = site.volume("one").to_string();
        node.agent.modify_image(Request::new(proto::ModifyImageRequest { volume_id, offload: Some(offload) })).await
    };
    for weight in [0, 101] {
        fails_with(modify(None, Some(weight)).await, Code::InvalidArgument);
    }
    // At this rate it would take days.
    modify(Some(100), Some(100)).await.expect("modified");
    cut(&site, &node, "s1", "one").await;
    stands(&node, 1, 0, 0).await;
    modify(None, Some(1)).await.expect("modified");
    let cuts = node.cut(site.wanted_cuts(&[("s1", "one")], LONG)).await.expect("joined");
    assert_eq!(cuts[0].state(), proto::cut::State::Ready, "{cuts:?}");
    assert_eq!(site.root("s1").await.statistics.data_bytes, 16 * MIB);
}

async fn an_offload_that_is_paced_is_the_same(kind: Kind) {
    let site = Site::new(kind).await;
    site.repository.upload_bandwidth().set(Some(200 * MIB));
    let offload_limits = OffloadLimits { io_bandwidth: Some(100 * MIB), ..OffloadLimits::default() };
    let node = site.start(Config { offload_limits, ..site.config("a") }).await;
    volume_of(&site, &node, "one", 20 * MIB, 1).await;
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    let root = site.root("s1").await;
    assert_eq!((root.statistics.data_bytes, root.statistics.stored_bytes), (20 * MIB, 20 * MIB));
    let image = std::fs::read(node.volume(site.volume("one")).image()).expect("read");
    node.stop().await;
    site.repository.download_bandwidth().set(Some(200 * MIB));
    let other = site.node("b").await;
    other.create(site.wanted_from("two", 256 * MIB, "s1")).await.expect("restored");
    assert!(std::fs::read(other.volume(site.volume("two")).image()).expect("read") == image, "byte for byte");
}
