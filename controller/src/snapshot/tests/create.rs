//! CreateSnapshot: one cut a name, whatever is lost on the way.

use std::time::Duration;

use tonic::{Code, Status};
use varve_proto::{agent::cut::State, csi};

use crate::{
    testing::{Bench, Fault, Method, order, parameters, requirement},
    topology,
};

#[tokio::test]
async fn a_snapshot_is_cut_once_and_becomes_ready_when_its_root_is_committed() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let first = bench.snapshot("monday", &volume).await.unwrap();
    assert!(!first.ready_to_use);
    assert_eq!((first.size_bytes, first.source_volume_id.as_str()), (1 << 30, volume.as_str()));
    assert_eq!((first.group_snapshot_id.as_str(), first.accessible_topology.as_slice()), ("", [].as_slice()));
    assert!(first.creation_time.unwrap().seconds > 0);
    assert_eq!(bench.snapshot("monday", &volume).await.unwrap(), first);
    assert_eq!(bench.agent("a").calls(Method::CreateCuts), 1);
    bench.agent("a").offload(&first.snapshot_id).await;
    let ready = csi::Snapshot { ready_to_use: true, ..first };
    assert_eq!(bench.snapshot("monday", &volume).await.unwrap(), ready);
    // A committed snapshot is answered for without its node.
    bench.set_reachable("a", false);
    assert_eq!(bench.snapshot("monday", &volume).await.unwrap(), ready);
}

#[tokio::test]
async fn a_small_offload_ends_within_the_call() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    bench.agent("a").set_prompt();
    let request =
        csi::CreateSnapshotRequest { name: "monday".to_owned(), source_volume_id: volume, ..Default::default() };
    let answer = bench.controller.create_snapshot(request, Duration::from_secs(2)).await.unwrap();
    assert!(answer.snapshot.unwrap().ready_to_use);
    assert_eq!(bench.agent("a").waits(), [2000]);
}

#[tokio::test]
async fn a_snapshot_keeps_the_claim_of_its_volume() {
    let bench = Bench::new(&["a"]).await;
    let claim = parameters(&[("csi.storage.k8s.io/pvc/name", "data"), ("csi.storage.k8s.io/pvc/namespace", "mesh")]);
    let order = csi::CreateVolumeRequest { parameters: claim.clone(), ..order("pvc-1") };
    let volume = bench.controller.create_volume(order).await.unwrap().volume.unwrap().volume_id;
    bench.snapshot("monday", &volume).await.unwrap();
    let group = csi::CreateVolumeGroupSnapshotRequest {
        name: "tuesday".to_owned(),
        source_volume_ids: vec![volume],
        ..Default::default()
    };
    bench.controller.create_group(group, Duration::ZERO).await.unwrap();
    let kept: Vec<_> = bench.agent("a").members().into_iter().map(|member| member.parameters).collect();
    assert_eq!(kept, [claim.clone(), claim]);
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_cut() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    bench.agent("a").fail(Method::CreateCuts, Fault::LostAnswer);
    assert_eq!(bench.snapshot("monday", &volume).await.unwrap_err().code(), Code::Unavailable);
    let snapshot = bench.snapshot("monday", &volume).await.unwrap();
    assert_eq!(bench.agent("a").cut_ids(), [snapshot.snapshot_id]);
    assert_eq!(bench.agent("a").calls(Method::CreateCuts), 1);
}

#[tokio::test]
async fn a_cut_that_is_committed_between_the_looks_is_not_made_again() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let first = bench.snapshot("monday", &volume).await.unwrap();
    bench.agent("a").fail(Method::ListCuts, Fault::OffloadFirst);
    let second = bench.snapshot("monday", &volume).await.unwrap();
    assert_eq!(second, csi::Snapshot { ready_to_use: true, ..first });
    assert_eq!(bench.agent("a").cut_ids(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_decided_while_the_nodes_are_asked_is_found_by_the_node() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let first = bench.snapshot("monday", &volume).await.unwrap();
    let id = first.snapshot_id.parse().unwrap();
    bench.agent("a").offload(&first.snapshot_id).await;
    bench.agent("a").fail(Method::CreateCuts, Fault::Verdict(Code::Unavailable));
    assert!(bench.snapshot("monday", &volume).await.unwrap().ready_to_use, "no node is asked");
    assert_eq!(bench.agent("a").calls(Method::CreateCuts), 1);
    bench.repository.delete_snapshot(id, "deleted").await.unwrap();
    assert_eq!(bench.snapshot("monday", &volume).await.unwrap_err().code(), Code::Unavailable);
    let again = bench.snapshot("monday", &volume).await.unwrap();
    assert_ne!(again.snapshot_id, first.snapshot_id);
}

#[tokio::test]
async fn a_name_belongs_to_one_volume() {
    let bench = Bench::new(&["a", "b"]).await;
    let first = bench.volume_on("first", "a").await;
    let second = bench.volume_on("second", "b").await;
    let snapshot = bench.snapshot("monday", &first).await.unwrap().snapshot_id;
    assert_eq!(bench.snapshot("monday", &second).await.unwrap_err().code(), Code::AlreadyExists);
    bench.agent("a").offload(&snapshot).await;
    let status = bench.snapshot("monday", &second).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains(&first), "{}", status.message());
}

#[tokio::test]
async fn a_name_is_used_again_after_a_deletion() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
        assert!(!ids.contains(&snapshot));
        if ids.len() % 2 == 0 {
            bench.agent("a").offload(&snapshot).await;
        }
        bench.delete_snapshot(&snapshot).await.unwrap();
        ids.push(snapshot);
    }
    assert_eq!(bench.agent("a").cut_ids(), Vec::<String>::new());
}

#[tokio::test]
async fn an_offload_that_cannot_succeed_is_told_with_its_reason() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
    bench.agent("a").change_cut(&snapshot, |cut| {
        cut.set_state(State::Failed);
        cut.message = "the store refused the credentials".to_owned();
    });
    let status = bench.snapshot("monday", &volume).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    for part in [snapshot.as_str(), "the store refused the credentials", "delete the snapshot"] {
        assert!(status.message().contains(part), "{}", status.message());
    }
    // Once a person has seen to it, it goes on where it was.
    bench.agent("a").change_cut(&snapshot, |cut| cut.set_state(State::Offloading));
    assert_eq!(bench.snapshot("monday", &volume).await.unwrap().snapshot_id, snapshot);
}

#[tokio::test]
async fn a_snapshot_goes_on_without_its_volume() {
    let bench = Bench::new(&["a", "b"]).await;
    let volume = bench.volume_on("data", "a").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap();
    let deletion = csi::DeleteVolumeRequest { volume_id: volume.clone(), ..Default::default() };
    bench.controller.delete_volume(deletion).await.unwrap();
    assert_eq!(bench.snapshot("monday", &volume).await.unwrap(), snapshot);
    bench.set_reachable("a", false);
    assert_eq!(bench.snapshot("monday", &volume).await.unwrap_err().code(), Code::Unavailable);
    bench.set_reachable("a", true);
    bench.agent("a").offload(&snapshot.snapshot_id).await;
    assert!(bench.snapshot("monday", &volume).await.unwrap().ready_to_use);
    assert_eq!(bench.snapshot("tuesday", &volume).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_snapshot_kept_on_its_node_is_ready_at_once_and_says_where() {
    let bench = Bench::new(&["a", "b"]).await;
    let volume = bench.volume_on("data", "a").await;
    let create = async |name: &str, durability: &str, node: &str| {
        let request = csi::CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: volume.clone(),
            parameters: parameters(&[("durability", durability)]),
            accessibility_requirements: Some(requirement(node)),
            ..Default::default()
        };
        Ok::<_, Status>(bench.controller.create_snapshot(request, Duration::ZERO).await?.snapshot.unwrap())
    };
    let kept = create("kept", "node", "a").await.unwrap();
    assert!(kept.ready_to_use);
    assert_eq!(kept.accessible_topology, [topology::of("a")]);
    assert_eq!(create("kept", "node", "a").await.unwrap(), kept);
    assert_eq!(create("kept", "node", "b").await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(create("other", "node", "b").await.unwrap_err().code(), Code::ResourceExhausted);
    // One in the repository is usable from everywhere.
    assert_eq!(create("sent", "bucket", "b").await.unwrap().accessible_topology, []);
    assert_eq!(create("wrong", "tape", "a").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let table = [
        ("", volume.as_str(), Code::InvalidArgument),
        (&"n".repeat(129), &volume, Code::InvalidArgument),
        ("monday", "", Code::InvalidArgument),
        ("monday", "testId", Code::NotFound),
        ("monday", "vol-00000000000000000000000000000000", Code::NotFound),
    ];
    for (name, volume, expected) in table {
        assert_eq!(bench.snapshot(name, volume).await.unwrap_err().code(), expected, "{name} of {volume}");
    }
    bench.agent("a").fail(Method::CreateImage, Fault::Verdict(Code::Unavailable));
    bench.controller.create_volume(order("unfinished")).await.unwrap_err();
    let unfinished = bench.repository.volume_id("unfinished").to_string();
    assert_eq!(bench.snapshot("monday", &unfinished).await.unwrap_err().code(), Code::Unavailable);
    bench.snapshot(&"n".repeat(128), &volume).await.unwrap();
}

#[tokio::test]
async fn a_second_call_on_one_name_is_aborted() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let held = bench.controller.hold("snapshot name monday").unwrap();
    assert_eq!(bench.snapshot("monday", &volume).await.unwrap_err().code(), Code::Aborted);
    bench.snapshot("tuesday", &volume).await.unwrap();
    drop(held);
    bench.snapshot("monday", &volume).await.unwrap();
}
