//! Group snapshots through the controller, against a real repository and nodes that fail.

use std::time::Duration;

use tonic::{Code, Status};
use varve_proto::{agent::cut::State, csi};
use varve_repository::SnapshotState;

use crate::testing::{Bench, Fault, Method, from_snapshot, order, parameters};

fn request(name: &str, volumes: &[&str]) -> csi::CreateVolumeGroupSnapshotRequest {
    csi::CreateVolumeGroupSnapshotRequest {
        name: name.to_owned(),
        source_volume_ids: volumes.iter().map(|volume| (*volume).to_owned()).collect(),
        ..Default::default()
    }
}

async fn create(
    bench: &Bench,
    request: csi::CreateVolumeGroupSnapshotRequest,
) -> Result<csi::VolumeGroupSnapshot, Status> {
    Ok(bench.controller.create_group(request, Duration::ZERO).await?.group_snapshot.unwrap())
}

async fn get(bench: &Bench, id: &str, members: &[&str]) -> Result<csi::VolumeGroupSnapshot, Status> {
    let request = csi::GetVolumeGroupSnapshotRequest {
        group_snapshot_id: id.to_owned(),
        snapshot_ids: members.iter().map(|member| (*member).to_owned()).collect(),
        ..Default::default()
    };
    Ok(bench.controller.get_group(request).await?.group_snapshot.unwrap())
}

async fn delete(bench: &Bench, id: &str, members: &[&str]) -> Result<(), Status> {
    let request = csi::DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: id.to_owned(),
        snapshot_ids: members.iter().map(|member| (*member).to_owned()).collect(),
        ..Default::default()
    };
    bench.controller.delete_group(request).await.map(drop)
}

/// Two volumes on node a and one on node b.
async fn volumes(bench: &Bench) -> (String, String, String) {
    (bench.volume_on("1", "a").await, bench.volume_on("2", "a").await, bench.volume_on("3", "b").await)
}

#[tokio::test]
async fn a_group_is_cut_at_one_instant_and_ready_when_all_members_are() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, _) = volumes(&bench).await;
    let group = create(&bench, request("monday", &[&second, &first])).await.unwrap();
    assert!(!group.ready_to_use);
    let sources: Vec<_> = group.snapshots.iter().map(|member| member.source_volume_id.as_str()).collect();
    assert_eq!(sources, [&second, &first]);
    for member in &group.snapshots {
        assert_eq!(member.group_snapshot_id, group.group_snapshot_id);
        assert_eq!(member.creation_time, group.creation_time);
        assert!(!member.ready_to_use);
    }
    // Asked again, in another order: nothing is cut a second time.
    let again = create(&bench, request("monday", &[&first, &second])).await.unwrap();
    assert_eq!(again.snapshots, [group.snapshots[1].clone(), group.snapshots[0].clone()]);
    assert_eq!(bench.agent("a").calls(Method::CreateCuts), 1);
    let members: Vec<_> = group.snapshots.iter().map(|member| member.snapshot_id.as_str()).collect();
    bench.agent("a").offload(members[0]).await;
    let half = create(&bench, request("monday", &[&second, &first])).await.unwrap();
    assert_eq!(half.snapshots.iter().map(|member| member.ready_to_use).collect::<Vec<_>>(), [true, false]);
    assert!(!half.ready_to_use);
    bench.agent("a").offload(members[1]).await;
    let whole = create(&bench, request("monday", &[&second, &first])).await.unwrap();
    assert!(whole.ready_to_use);
    assert_eq!(whole.creation_time, group.creation_time);
    let found = get(&bench, &group.group_snapshot_id, &members).await.unwrap();
    assert!(found.ready_to_use);
    assert_eq!(found.snapshots.len(), 2);
    // Each member restores by itself.
    let restore = csi::CreateVolumeRequest { volume_content_source: from_snapshot(members[0]), ..order("restored") };
    bench.controller.create_volume(restore).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_cut() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, _) = volumes(&bench).await;
    bench.agent("a").fail(Method::CreateCuts, Fault::LostAnswer);
    let lost = create(&bench, request("monday", &[&first, &second])).await.unwrap_err();
    assert_eq!(lost.code(), Code::Unavailable);
    create(&bench, request("monday", &[&first, &second])).await.unwrap();
    assert_eq!(bench.agent("a").calls(Method::CreateCuts), 1);
    assert_eq!(bench.agent("a").cut_ids().len(), 2);
}

#[tokio::test]
async fn a_name_belongs_to_one_set_of_volumes_and_one_durability() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, third) = volumes(&bench).await;
    create(&bench, request("monday", &[&first, &second])).await.unwrap();
    for volumes in [vec![first.as_str()], vec![&first, &second, &third], vec![&third]] {
        let status = create(&bench, request("monday", &volumes)).await.unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists, "{volumes:?}");
    }
    let kept = csi::CreateVolumeGroupSnapshotRequest {
        parameters: parameters(&[("durability", "node")]),
        ..request("monday", &[&first, &second])
    };
    assert_eq!(create(&bench, kept).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, _, third) = volumes(&bench).await;
    let unknown = csi::CreateVolumeGroupSnapshotRequest {
        parameters: parameters(&[("durable", "node")]),
        ..request("monday", &[&first])
    };
    let table = [
        (request("", &[&first]), Code::InvalidArgument),
        (request("monday", &[]), Code::InvalidArgument),
        (request("monday", &[""]), Code::InvalidArgument),
        (request("monday", &[&first, &first]), Code::InvalidArgument),
        (unknown, Code::InvalidArgument),
        (request("monday", &[&first, "fake-vol-id"]), Code::NotFound),
        (request("monday", &[&first, "vol-00000000000000000000000000000000"]), Code::NotFound),
        (request("monday", &[&first, &third]), Code::FailedPrecondition),
    ];
    for (request, expected) in table {
        assert_eq!(create(&bench, request.clone()).await.unwrap_err().code(), expected, "{request:?}");
    }
    assert_eq!(bench.agent("a").calls(Method::CreateCuts), 0);
}

#[tokio::test]
async fn a_member_that_fails_fails_the_call_and_shows_as_not_ready() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, _) = volumes(&bench).await;
    let group = create(&bench, request("monday", &[&first, &second])).await.unwrap();
    bench.agent("a").change_cut(&group.snapshots[1].snapshot_id, |cut| {
        cut.set_state(State::Failed);
        cut.message = "access denied".to_owned();
    });
    let status = create(&bench, request("monday", &[&first, &second])).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("access denied"), "{}", status.message());
    assert!(!get(&bench, &group.group_snapshot_id, &[]).await.unwrap().ready_to_use);
}

#[tokio::test]
async fn a_group_is_found_by_its_id_and_its_members_are_checked() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, third) = volumes(&bench).await;
    let group = create(&bench, request("monday", &[&first, &second])).await.unwrap();
    let other = bench.snapshot("alone", &third).await.unwrap().snapshot_id;
    let id = group.group_snapshot_id.as_str();
    let members: Vec<_> = group.snapshots.iter().map(|member| member.snapshot_id.as_str()).collect();
    for given in [vec![], members.clone(), vec![members[1], members[0]]] {
        assert_eq!(get(&bench, id, &given).await.unwrap().group_snapshot_id, id);
    }
    for given in [vec![members[0]], vec![members[0], members[1], &other], vec!["fake"]] {
        assert_eq!(get(&bench, id, &given).await.unwrap_err().code(), Code::InvalidArgument, "{given:?}");
    }
    for (id, expected) in [
        ("", Code::InvalidArgument),
        ("fake-vol-id", Code::NotFound),
        ("group-00000000000000000000000000000000", Code::NotFound),
    ] {
        assert_eq!(get(&bench, id, &[]).await.unwrap_err().code(), expected);
    }
    bench.set_reachable("a", false);
    assert_eq!(get(&bench, id, &members).await.unwrap_err().code(), Code::Unavailable);
    bench.set_reachable("a", true);
    bench.set_reachable("b", false);
    assert_eq!(get(&bench, id, &[]).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(get(&bench, id, &members).await.unwrap().snapshots.len(), 2);
}

#[tokio::test]
async fn all_members_go_with_their_group_and_not_without_it() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, _) = volumes(&bench).await;
    let group = create(&bench, request("monday", &[&first, &second])).await.unwrap();
    let id = group.group_snapshot_id.as_str();
    let members: Vec<_> = group.snapshots.iter().map(|member| member.snapshot_id.as_str()).collect();
    let status = bench.delete_snapshot(members[0]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains(id), "{}", status.message());
    bench.agent("a").offload(members[0]).await;
    assert_eq!(bench.delete_snapshot(members[0]).await.unwrap_err().code(), Code::InvalidArgument);
    delete(&bench, id, &members).await.unwrap();
    for member in &members {
        assert!(matches!(bench.state(member).await, SnapshotState::Gone(_)));
    }
    assert_eq!(bench.agent("a").cut_ids(), Vec::<String>::new());
    delete(&bench, id, &members).await.unwrap();
    delete(&bench, id, &[]).await.unwrap();
    assert_eq!(get(&bench, id, &[]).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_deletion_goes_on_where_it_broke_off() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, _) = volumes(&bench).await;
    let group = create(&bench, request("monday", &[&first, &second])).await.unwrap();
    let members: Vec<_> = group.snapshots.iter().map(|member| member.snapshot_id.as_str()).collect();
    let one = members[0].parse().unwrap();
    bench.repository.delete_snapshot(one, "deleted").await.unwrap();
    bench.agent("a").forget(members[0]);
    delete(&bench, &group.group_snapshot_id, &members).await.unwrap();
    assert!(matches!(bench.state(members[1]).await, SnapshotState::Gone(_)));
}

#[tokio::test]
async fn a_list_that_is_not_the_group_s_deletes_nothing() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, third) = volumes(&bench).await;
    let group = create(&bench, request("monday", &[&first, &second])).await.unwrap();
    let other = bench.snapshot("alone", &third).await.unwrap().snapshot_id;
    let id = group.group_snapshot_id.as_str();
    let members: Vec<_> = group.snapshots.iter().map(|member| member.snapshot_id.as_str()).collect();
    for given in [vec![members[0]], vec![members[0], members[1], &other], vec![members[0], members[1], "fake"]] {
        assert_eq!(delete(&bench, id, &given).await.unwrap_err().code(), Code::InvalidArgument, "{given:?}");
    }
    assert_eq!(bench.agent("a").cut_ids().len(), 2);
    bench.set_reachable("b", false);
    assert_eq!(delete(&bench, id, &[]).await.unwrap_err().code(), Code::Unavailable);
    delete(&bench, id, &members).await.unwrap();
    assert_eq!(bench.agent("a").cut_ids(), Vec::<String>::new());
    assert_eq!(delete(&bench, "", &[]).await.unwrap_err().code(), Code::InvalidArgument);
    delete(&bench, "fake-vol-id", &[]).await.unwrap();
}

#[tokio::test]
async fn a_name_is_used_again_after_a_deletion() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, _) = volumes(&bench).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let group = create(&bench, request("monday", &[&first, &second])).await.unwrap();
        assert!(!ids.contains(&group.group_snapshot_id));
        assert_eq!(bench.agent("a").cut_ids().len(), 2);
        delete(&bench, &group.group_snapshot_id, &[]).await.unwrap();
        ids.push(group.group_snapshot_id);
    }
}

#[tokio::test]
async fn a_group_kept_on_its_node_is_ready_at_once() {
    let bench = Bench::new(&["a", "b"]).await;
    let (first, second, _) = volumes(&bench).await;
    let kept = csi::CreateVolumeGroupSnapshotRequest {
        parameters: parameters(&[("durability", "node")]),
        ..request("monday", &[&first, &second])
    };
    let group = create(&bench, kept.clone()).await.unwrap();
    assert!(group.ready_to_use);
    assert_eq!(create(&bench, kept).await.unwrap(), group);
    delete(&bench, &group.group_snapshot_id, &[]).await.unwrap();
    assert_eq!(bench.agent("a").cut_ids(), Vec::<String>::new());
    for member in &group.snapshots {
        assert_eq!(bench.state(&member.snapshot_id).await, SnapshotState::Absent);
    }
}
