//! DeleteSnapshot: what leaves a tombstone and what leaves no trace.

use std::time::Duration;

use tonic::Code;
use varve_proto::csi;
use varve_repository::SnapshotState;

use crate::testing::{Bench, Fault, Method, parameters};

#[tokio::test]
async fn a_committed_snapshot_leaves_a_tombstone() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
    bench.agent("a").offload(&snapshot).await;
    for _ in 0..2 {
        bench.delete_snapshot(&snapshot).await.unwrap();
        assert!(matches!(bench.state(&snapshot).await, SnapshotState::Gone(_)));
    }
    assert_eq!(bench.agent("a").calls(Method::DeleteCut), 1);
}

#[tokio::test]
async fn a_pending_snapshot_is_cancelled_on_both_sides() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
    bench.delete_snapshot(&snapshot).await.unwrap();
    assert!(matches!(bench.state(&snapshot).await, SnapshotState::Gone(_)));
    assert_eq!(bench.agent("a").cut_ids(), Vec::<String>::new());
}

#[tokio::test]
async fn the_tombstone_decides_even_when_the_node_does_not_hear_of_it() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
    bench.agent("a").fail(Method::DeleteCut, Fault::Verdict(Code::Unavailable));
    bench.delete_snapshot(&snapshot).await.unwrap();
    assert!(matches!(bench.state(&snapshot).await, SnapshotState::Gone(_)));
    assert_eq!(bench.agent("a").cut_ids(), [snapshot]);
}

#[tokio::test]
async fn an_id_that_never_was_leaves_no_trace() {
    let bench = Bench::new(&["a"]).await;
    let never = "snap-00000000000000000000000000000000";
    for id in ["reallyfakesnapshotid", never] {
        bench.delete_snapshot(id).await.unwrap();
    }
    assert_eq!(bench.state(never).await, SnapshotState::Absent);
    assert_eq!(bench.delete_snapshot("").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_cut_that_may_be_on_a_silent_node_is_cancelled() {
    let bench = Bench::new(&["a", "b"]).await;
    let volume = bench.volume_on("data", "b").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
    bench.set_reachable("b", false);
    bench.delete_snapshot(&snapshot).await.unwrap();
    assert!(matches!(bench.state(&snapshot).await, SnapshotState::Gone(_)));
}

#[tokio::test]
async fn a_snapshot_that_is_committed_between_the_looks_is_deleted() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
    bench.agent("a").fail(Method::ListCuts, Fault::OffloadFirst);
    bench.delete_snapshot(&snapshot).await.unwrap();
    assert!(matches!(bench.state(&snapshot).await, SnapshotState::Gone(_)));
}

#[tokio::test]
async fn a_snapshot_kept_on_its_node_is_the_node_s_to_delete() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let request = csi::CreateSnapshotRequest {
        name: "monday".to_owned(),
        source_volume_id: volume,
        parameters: parameters(&[("durability", "node")]),
        ..Default::default()
    };
    let snapshot = bench.controller.create_snapshot(request, Duration::ZERO).await.unwrap().snapshot.unwrap();
    bench.agent("a").fail(Method::DeleteCut, Fault::LostAnswer);
    assert_eq!(bench.delete_snapshot(&snapshot.snapshot_id).await.unwrap_err().code(), Code::Unavailable);
    bench.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
    assert_eq!(bench.agent("a").cut_ids(), Vec::<String>::new());
    assert_eq!(bench.state(&snapshot.snapshot_id).await, SnapshotState::Absent);
}
