//! Volumes made from snapshots and from other volumes.

use tonic::Code;
use varve_proto::{
    agent::{create_image_request::Source, cut::State},
    csi,
};

use crate::testing::{
    Bench, Fault, GIB, MIB, Method, block, from_snapshot, from_volume, mount, order, parameters, range, requirement,
};

async fn code(bench: &Bench, order: csi::CreateVolumeRequest) -> Code {
    bench.controller.create_volume(order).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

async fn node_of(bench: &Bench, order: csi::CreateVolumeRequest) -> String {
    let volume = bench.controller.create_volume(order).await.unwrap().volume.unwrap();
    bench.record(&volume.volume_id).await.unwrap().home_node
}

#[tokio::test]
async fn a_clone_is_made_where_its_source_is() {
    let bench = Bench::new(&["a", "b"]).await;
    let source = bench.volume_on("source", "b").await;
    let clone = |name: &str| csi::CreateVolumeRequest { volume_content_source: from_volume(&source), ..order(name) };
    let volume = bench.controller.create_volume(clone("clone")).await.unwrap().volume.unwrap();
    let held = bench.agent("b").held(&volume.volume_id).unwrap();
    assert_eq!(held.request.source, Some(Source::SourceVolumeId(source.clone())));
    assert_eq!(volume.content_source, from_volume(&source));
    let elsewhere = csi::CreateVolumeRequest { accessibility_requirements: Some(requirement("a")), ..clone("other") };
    assert_eq!(code(&bench, elsewhere).await, Code::ResourceExhausted);
    let other_source = csi::CreateVolumeRequest { volume_content_source: None, ..clone("clone") };
    assert_eq!(code(&bench, other_source).await, Code::AlreadyExists);
}

#[tokio::test]
async fn sizes_are_at_least_the_source_s_and_presentations_are_its_own() {
    let bench = Bench::new(&["a"]).await;
    let source = csi::CreateVolumeRequest {
        volume_capabilities: vec![mount("xfs")],
        capacity_range: range(2 * GIB, 0),
        ..order("source")
    };
    let source = bench.controller.create_volume(source).await.unwrap().volume.unwrap().volume_id;
    let clone = |required, limit, capability| csi::CreateVolumeRequest {
        volume_content_source: from_volume(&source),
        capacity_range: range(required, limit),
        volume_capabilities: vec![capability],
        ..order(&format!("clone-{required}-{limit}"))
    };
    let table = [
        (0, 0, mount(""), Code::Ok),
        (2 * GIB, 0, mount("xfs"), Code::Ok),
        (3 * GIB, 0, mount("xfs"), Code::Ok),
        (0, 3 * GIB, mount("xfs"), Code::Ok),
        (GIB, 0, mount("xfs"), Code::OutOfRange),
        (0, GIB, mount("xfs"), Code::OutOfRange),
        (GIB, 3 * GIB, mount("xfs"), Code::OutOfRange),
        (2 * GIB, 4 * GIB, mount("ext4"), Code::InvalidArgument),
        (2 * GIB, 5 * GIB, block(), Code::InvalidArgument),
    ];
    for (required, limit, capability, expected) in table {
        assert_eq!(code(&bench, clone(required, limit, capability)).await, expected, "{required} to {limit}");
    }
    let record = bench.record(&bench.repository.volume_id("clone-0-0").to_string()).await.unwrap();
    assert_eq!((record.presentation.as_str(), record.capacity_bytes), ("xfs", 2 * GIB));
    let record = bench.record(&bench.repository.volume_id(&format!("clone-{}-0", 3 * GIB)).to_string()).await.unwrap();
    assert_eq!(record.capacity_bytes, 3 * GIB);
}

#[tokio::test]
async fn a_source_that_is_not_there_is_not_found() {
    let bench = Bench::new(&["a"]).await;
    for source in [
        from_volume("fake-vol-id"),
        from_volume("vol-00000000000000000000000000000000"),
        from_snapshot("non-existing-snapshot-id"),
        from_snapshot("snap-00000000000000000000000000000000"),
    ] {
        let request = csi::CreateVolumeRequest { volume_content_source: source.clone(), ..order("data") };
        assert_eq!(code(&bench, request).await, Code::NotFound, "{source:?}");
    }
    for source in [from_volume(""), from_snapshot("")] {
        let request = csi::CreateVolumeRequest { volume_content_source: source, ..order("data") };
        assert_eq!(code(&bench, request).await, Code::InvalidArgument);
    }
    assert!(bench.repository.volumes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_volume_that_is_being_made_is_no_source_yet() {
    let bench = Bench::new(&["a"]).await;
    bench.agent("a").fail(Method::CreateImage, Fault::LostAnswer);
    bench.controller.create_volume(order("source")).await.unwrap_err();
    let source = bench.repository.volume_id("source").to_string();
    let clone = csi::CreateVolumeRequest { volume_content_source: from_volume(&source), ..order("clone") };
    assert_eq!(code(&bench, clone.clone()).await, Code::Unavailable);
    bench.volume("source").await;
    assert_eq!(code(&bench, clone).await, Code::Ok);
}

#[tokio::test]
async fn a_committed_snapshot_restores_anywhere_and_first_where_it_was_cut() {
    let bench = Bench::new(&["a", "b"]).await;
    let volume = bench.volume_on("data", "b").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
    let restore =
        |name: &str| csi::CreateVolumeRequest { volume_content_source: from_snapshot(&snapshot), ..order(name) };
    let pending = bench.controller.create_volume(restore("early")).await.unwrap_err();
    assert_eq!(pending.code(), Code::Unavailable);
    assert!(pending.message().contains("not ready to use"), "{}", pending.message());
    bench.agent("b").offload(&snapshot).await;
    assert_eq!(node_of(&bench, restore("near")).await, "b");
    let elsewhere = csi::CreateVolumeRequest { accessibility_requirements: Some(requirement("a")), ..restore("far") };
    assert_eq!(node_of(&bench, elsewhere).await, "a");
    let held = bench.agent("a").held(&bench.repository.volume_id("far").to_string()).unwrap();
    assert_eq!(held.request.source, Some(Source::SourceSnapshotId(snapshot.clone())));
    // The node that cut it is not needed, nor the volume.
    bench.remove_node("b");
    assert_eq!(node_of(&bench, restore("later")).await, "a");
    let small = csi::CreateVolumeRequest { capacity_range: range(512 * MIB, 0), ..restore("small") };
    assert_eq!(code(&bench, small).await, Code::OutOfRange);
    let device = csi::CreateVolumeRequest { volume_capabilities: vec![block()], ..restore("device") };
    assert_eq!(code(&bench, device).await, Code::InvalidArgument);
}

#[tokio::test]
async fn a_snapshot_kept_on_its_node_restores_there_alone() {
    let bench = Bench::new(&["a", "b"]).await;
    let volume = bench.volume_on("data", "b").await;
    let request = csi::CreateSnapshotRequest {
        name: "monday".to_owned(),
        source_volume_id: volume,
        parameters: parameters(&[("durability", "node")]),
        ..Default::default()
    };
    let snapshot = bench.controller.create_snapshot(request, Default::default()).await.unwrap().snapshot.unwrap();
    assert!(snapshot.ready_to_use);
    let restore = |name: &str| csi::CreateVolumeRequest {
        volume_content_source: from_snapshot(&snapshot.snapshot_id),
        ..order(name)
    };
    assert_eq!(node_of(&bench, restore("here")).await, "b");
    let elsewhere = csi::CreateVolumeRequest { accessibility_requirements: Some(requirement("a")), ..restore("there") };
    assert_eq!(code(&bench, elsewhere).await, Code::ResourceExhausted);
    bench.set_reachable("b", false);
    assert_eq!(code(&bench, restore("later")).await, Code::Unavailable);
}

#[tokio::test]
async fn a_snapshot_that_failed_is_no_source() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
    bench.agent("a").change_cut(&snapshot, |cut| {
        cut.set_state(State::Failed);
        cut.message = "access denied".to_owned();
    });
    let request = csi::CreateVolumeRequest { volume_content_source: from_snapshot(&snapshot), ..order("restored") };
    let status = bench.controller.create_volume(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("access denied"), "{}", status.message());
}
