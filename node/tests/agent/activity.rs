//! What is told of what is under way, and of what needs a person.

use std::fs;

use tonic::Code;
use varve_node::{cut::Status, pool::Kind};
use varve_proto::agent::{
    Activity,
    activity::{self, State},
};

use crate::{
    fixture::{LONG, MIB, Node, Site, fails_with, write},
    gate::Position,
};

crate::on_both_pools!(
    a_backup_is_told_of_from_its_begin_to_its_end,
    a_store_that_does_not_answer_is_told_of_while_it_does_not,
    a_backup_that_the_store_refuses_needs_a_person,
    a_restore_is_told_of_with_whom_it_is_for,
    a_restore_of_what_is_damaged_has_failed_and_says_what_to_do,
    an_image_that_is_gone_is_told_of,
);

/// The only thing that is told.
async fn told(node: &Node) -> Activity {
    let activities = node.activities().await;
    assert_eq!(activities.len(), 1, "{activities:?}");
    activities.into_iter().next().expect("there is one")
}

async fn a_backup_is_told_of_from_its_begin_to_its_end(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    assert_eq!(node.activities().await, []);
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    assert_eq!(node.activities().await, [], "an empty volume is nothing to tell of");
    write(&node.volume(site.volume("one")).image(), 0, 1, 2 * MIB);
    gate.set(Position::Shut);
    node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await.expect("cut");
    gate.somebody_waits().await;
    let running = told(&node).await;
    assert_eq!((running.kind(), running.state()), (activity::Kind::Offload, State::Running));
    assert_eq!((running.volume_id, running.volume_name.as_str()), (site.volume("one").to_string(), "one"));
    assert_eq!((running.snapshot_id, running.snapshot_name.as_str()), (site.snapshot("s1").to_string(), "s1"));
    gate.set(Position::Open);
    node.settled(site.snapshot("s1")).await;
    let done = told(&node).await;
    assert_eq!((done.kind(), done.state()), (activity::Kind::Offload, State::Done));
    assert_eq!((done.snapshot_name.as_str(), done.total_bytes, done.done_bytes), ("s1", 2 * MIB, 2 * MIB));
    assert!(done.moved_bytes >= 2 * MIB, "what is written does not compress: {done:?}");
}

async fn a_store_that_does_not_answer_is_told_of_while_it_does_not(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    gate.set(Position::Silent);
    node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await.expect("cut");
    let cut = node.agent.cuts().get(&site.snapshot("s1")).expect("it is here");
    let delayed = |status: &Status| matches!(status, Status::Pending { message } if !message.is_empty());
    cut.status().wait_for(delayed).await.expect("it is not removed");
    let delayed = told(&node).await;
    assert_eq!((delayed.state(), delayed.reason.as_str()), (State::Delayed, "RepositoryUnreachable"));
    assert!(delayed.message.starts_with("the store does not answer: "), "{delayed:?}");
    assert!(delayed.message.contains("no answer") && delayed.advice.contains("tried again"), "{delayed:?}");
    gate.set(Position::Open);
    node.settled(site.snapshot("s1")).await;
    let done = told(&node).await;
    assert_eq!((done.state(), done.reason.as_str(), done.message.as_str()), (State::Done, "", ""));
}

async fn a_backup_that_the_store_refuses_needs_a_person(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    gate.set(Position::Refuses);
    node.cut(site.wanted_cuts(&[("s1", "one")], LONG)).await.expect("cut");
    let failed = told(&node).await;
    assert_eq!((failed.state(), failed.reason.as_str()), (State::Failed, "RepositoryAccessDenied"));
    assert!(failed.message.contains("the gate refuses") && failed.advice.contains("permission"), "{failed:?}");
    node.delete_cut(site.snapshot("s1")).await.expect("deleted");
    assert_eq!(node.activities().await, [], "nobody is bothered with what was deleted");
}

async fn a_restore_is_told_of_with_whom_it_is_for(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    node.stop().await;

    let other = site.node("b").await;
    gate.set(Position::Shut);
    let mut wanted = site.wanted_from("two", 64 * MIB, "s1");
    wanted.parameters.insert("csi.storage.k8s.io/pvc/name".into(), "data".into());
    let making = other.create(wanted.clone());
    let looking = async {
        gate.somebody_waits().await;
        let running = told(&other).await;
        assert_eq!((running.kind(), running.state()), (activity::Kind::Hydration, State::Running));
        assert_eq!((running.volume_name.as_str(), running.snapshot_id), ("two", site.snapshot("s1").to_string()));
        assert_eq!((running.total_bytes, running.done_bytes), (MIB, 0));
        assert_eq!(running.parameters, wanted.parameters);
        // One that is cancelled is nobody's concern.
        other.delete(site.volume("two")).await.expect("deleted");
        assert_eq!(other.activities().await, []);
    };
    fails_with(tokio::join!(making, looking).0, Code::Aborted);

    gate.set(Position::Open);
    other.create(wanted.clone()).await.expect("restored");
    let done = told(&other).await;
    assert_eq!((done.kind(), done.state()), (activity::Kind::Hydration, State::Done));
    assert_eq!(
        (done.volume_id, done.done_bytes, done.parameters),
        (site.volume("two").to_string(), MIB, wanted.parameters)
    );
    assert!(done.moved_bytes >= MIB, "what is fetched does not compress: {}", done.moved_bytes);
}

async fn a_restore_of_what_is_damaged_has_failed_and_says_what_to_do(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    node.stop().await;
    site.damage_packs();
    let other = site.node("b").await;
    fails_with(other.create(site.wanted_from("two", 64 * MIB, "s1")).await, Code::DataLoss);
    let failed = told(&other).await;
    assert_eq!((failed.kind(), failed.state()), (activity::Kind::Hydration, State::Failed));
    assert_eq!(failed.reason, "RepositoryDamaged");
    assert!(failed.advice.contains("varve repository check"), "{failed:?}");
}

async fn an_image_that_is_gone_is_told_of(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    fs::remove_file(node.volume(site.volume("one")).image()).expect("removed");
    let health = told(&node).await;
    assert_eq!((health.kind(), health.state()), (activity::Kind::Health, State::Failed));
    assert_eq!((health.volume_id, health.volume_name.as_str()), (site.volume("one").to_string(), "one"));
    assert_eq!(health.reason, "ImageMissing");
    assert!(health.message.contains("restore a snapshot"), "{}", health.message);
}
