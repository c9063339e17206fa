//! What is refused, with which code, and that nothing comes of it.

use std::{fs, os::unix::fs::symlink};

use tonic::{Code, Request};
use varve_node::pool::Kind;
use varve_proto::csi::{
    self,
    node_server::Node as _,
    volume_capability::{AccessType, MountVolume, access_mode::Mode},
};

use crate::fixture::{Claim, Site, fails_with};

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_what_they_need_are_invalid() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "ext4").await;
    let (stage, publish) = (claim.stage(), claim.publish("pod", false));
    let service = &node.service;
    let relative = "staging".to_owned();
    for request in [
        csi::NodeStageVolumeRequest { volume_id: String::new(), ..stage.clone() },
        csi::NodeStageVolumeRequest { volume_id: "v".repeat(129), ..stage.clone() },
        csi::NodeStageVolumeRequest { staging_target_path: String::new(), ..stage.clone() },
        csi::NodeStageVolumeRequest { staging_target_path: relative, ..stage.clone() },
        csi::NodeStageVolumeRequest { volume_capability: None, ..stage.clone() },
        csi::NodeStageVolumeRequest { volume_capability: Some(csi::VolumeCapability::default()), ..stage.clone() },
        csi::NodeStageVolumeRequest {
            volume_capability: Some(Claim { mode: Mode::MultiNodeMultiWriter, ..claim.clone() }.capability()),
            ..stage.clone()
        },
        csi::NodeStageVolumeRequest {
            volume_capability: Some(Claim { flags: vec!["bind".into()], ..claim.clone() }.capability()),
            ..stage.clone()
        },
        csi::NodeStageVolumeRequest { volume_context: [("key".to_owned(), "v".repeat(5000))].into(), ..stage.clone() },
    ] {
        fails_with(service.node_stage_volume(Request::new(request)).await, Code::InvalidArgument);
    }
    for request in [
        csi::NodePublishVolumeRequest { volume_id: String::new(), ..publish.clone() },
        csi::NodePublishVolumeRequest { target_path: String::new(), ..publish.clone() },
        csi::NodePublishVolumeRequest { target_path: "/a/../b".into(), ..publish.clone() },
        csi::NodePublishVolumeRequest {
            volume_capability: None,
            staging_target_path: String::new(),
            ..publish.clone()
        },
    ] {
        fails_with(service.node_publish_volume(Request::new(request)).await, Code::InvalidArgument);
    }
    let unstaged = csi::NodePublishVolumeRequest { staging_target_path: String::new(), ..publish.clone() };
    fails_with(service.node_publish_volume(Request::new(unstaged)).await, Code::FailedPrecondition);
    let none = csi::NodeUnstageVolumeRequest::default();
    fails_with(service.node_unstage_volume(Request::new(none)).await, Code::InvalidArgument);
    let none = csi::NodeUnpublishVolumeRequest::default();
    fails_with(service.node_unpublish_volume(Request::new(none)).await, Code::InvalidArgument);
    let none = csi::NodeGetVolumeHealthRequest::default();
    fails_with(service.node_get_volume_health(Request::new(none)).await, Code::InvalidArgument);
    let volume_id = claim.id.to_string();
    let none = csi::NodeGetVolumeStatsRequest { volume_id: volume_id.clone(), ..Default::default() };
    fails_with(service.node_get_volume_stats(Request::new(none)).await, Code::InvalidArgument);
    let none = csi::NodeExpandVolumeRequest { volume_id, ..Default::default() };
    fails_with(service.node_expand_volume(Request::new(none)).await, Code::InvalidArgument);
    assert_eq!(node.volume(&claim).staged(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_not_here_is_not_found() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "ext4").await;
    let stranger = Claim { id: site.repository.volume_id("stranger"), ..claim.clone() };
    fails_with(node.stage(&stranger).await, Code::NotFound);
    fails_with(node.unstage(&stranger).await, Code::NotFound);
    fails_with(node.publish(&stranger, "pod", false).await, Code::NotFound);
    fails_with(node.unpublish(&stranger, "pod").await, Code::NotFound);
    fails_with(node.statistics(&stranger, &claim.staging).await, Code::NotFound);
    fails_with(node.expand(&stranger, "some/path".as_ref(), 0).await, Code::NotFound);
    let unread = csi::NodeGetVolumeHealthRequest { volume_id: "no id of ours".into(), ..Default::default() };
    let status = fails_with(node.service.node_get_volume_health(Request::new(unread)).await, Code::NotFound);
    assert_eq!(status.message(), "volume \"no id of ours\" has no image on this node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_that_the_volume_does_not_have_is_refused() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let files = node.create("files", "ext4").await;
    let raw = node.create("raw", "block").await;
    fails_with(node.stage(&Claim { block: true, ..files.clone() }).await, Code::FailedPrecondition);
    fails_with(node.stage(&Claim { block: false, ..raw.clone() }).await, Code::FailedPrecondition);
    let mut request = files.stage();
    let mount = MountVolume { fs_type: "xfs".into(), ..MountVolume::default() };
    request.volume_capability.as_mut().expect("given").access_type = Some(AccessType::Mount(mount));
    fails_with(node.service.node_stage_volume(Request::new(request)).await, Code::FailedPrecondition);
    let unknown = Claim { flags: vec!["no_such_option".into()], ..files.clone() };
    let status = fails_with(node.stage(&unknown).await, Code::InvalidArgument);
    assert!(status.message().contains("mount_flags"), "{status:?}");
    for claim in [&files, &raw] {
        assert_eq!(node.volume(claim).staged(), None);
    }
    assert_eq!(node.devices(), []);
    node.stage(&files).await.expect("staged");
    fails_with(node.publish(&Claim { block: true, ..files.clone() }, "pod", false).await, Code::FailedPrecondition);
    let flagged = Claim { flags: vec!["noatime".into()], ..files.clone() };
    fails_with(node.publish(&flagged, "pod", false).await, Code::FailedPrecondition);
    fails_with(node.stage(&flagged).await, Code::AlreadyExists);
    let elsewhere = Claim { staging: raw.staging.clone(), ..files.clone() };
    fails_with(node.stage(&elsewhere).await, Code::FailedPrecondition);
    fails_with(node.publish(&elsewhere, "pod", false).await, Code::FailedPrecondition);
    node.unstage(&elsewhere).await.expect("it is not staged there");
    assert!(node.volume(&files).staged().is_some());
    node.put_away(&files, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_drivers_is_left_alone() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "ext4").await;
    let other = node.create("other", "ext4").await;
    let missing = Claim { staging: site.path().join("staging/missing"), ..claim.clone() };
    fails_with(node.stage(&missing).await, Code::FailedPrecondition);
    node.stage(&other).await.expect("staged");
    let taken = Claim { staging: other.staging.clone(), ..claim.clone() };
    fails_with(node.stage(&taken).await, Code::FailedPrecondition);
    assert_eq!(node.volume(&claim).staged(), None);
    node.stage(&claim).await.expect("staged");
    let nested = Claim { targets: site.path().join("targets/no/such"), ..claim.clone() };
    fails_with(node.publish(&nested, "pod", false).await, Code::FailedPrecondition);
    symlink("/tmp", claim.target("link")).expect("made");
    fails_with(node.publish(&claim, "link", false).await, Code::FailedPrecondition);
    fs::write(claim.target("file"), "content").expect("written");
    fails_with(node.publish(&claim, "file", false).await, Code::FailedPrecondition);
    node.publish(&other, "others", false).await.expect("published");
    fails_with(node.publish(&claim, "others", false).await, Code::FailedPrecondition);
    assert_eq!(node.volume(&claim).staged().expect("staged").publications, []);
    for name in ["link", "file", "others"] {
        fails_with(node.unpublish(&claim, name).await, Code::FailedPrecondition);
        assert!(claim.target(name).exists(), "{name}");
    }
    fs::create_dir(claim.target("full")).and_then(|()| fs::write(claim.target("full/file"), "")).expect("made");
    fails_with(node.unpublish(&claim, "full").await, Code::FailedPrecondition);
    assert!(claim.target("full/file").exists());
    let root = csi::NodeUnpublishVolumeRequest { volume_id: claim.id.to_string(), target_path: "/proc".into() };
    fails_with(node.service.node_unpublish_volume(Request::new(root)).await, Code::FailedPrecondition);
    let staging = Claim { targets: site.path().join("staging"), ..claim.clone() };
    fails_with(node.unpublish(&staging, "claim").await, Code::FailedPrecondition);
    node.unpublish(&other, "others").await.expect("unpublished");
    node.unstage(&other).await.expect("unstaged");
    node.put_away(&claim, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_5_a_volume_that_another_call_holds_is_aborted() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "ext4").await;
    node.stage(&claim).await.expect("staged");
    let held = node.agent.exclusive().hold(claim.id.to_string()).expect("free");
    fails_with(node.stage(&claim).await, Code::Aborted);
    fails_with(node.unstage(&claim).await, Code::Aborted);
    fails_with(node.publish(&claim, "pod", false).await, Code::Aborted);
    fails_with(node.unpublish(&claim, "pod").await, Code::Aborted);
    fails_with(node.expand(&claim, &claim.staging, 0).await, Code::Aborted);
    node.statistics(&claim, &claim.staging).await.expect("measured");
    assert_eq!(node.health(&claim).await, []);
    drop(held);
    node.put_away(&claim, &[]).await;
    node.agent.stop().await;
    fails_with(node.stage(&claim).await, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_tells_what_it_is_and_can() {
    let site = Site::new(Kind::Btrfs).await;
    let node = site.start().await;
    let info = node.service.node_get_info(Request::new(csi::NodeGetInfoRequest {})).await.expect("told").into_inner();
    assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("node-1", 0));
    let segments = info.accessible_topology.expect("a topology").segments;
    assert_eq!(segments, [("topology.varve.io/node".to_owned(), "node-1".to_owned())].into());
    let request = Request::new(csi::NodeGetCapabilitiesRequest {});
    let answer = node.service.node_get_capabilities(request).await.expect("told").into_inner();
    assert_eq!(answer.capabilities.len(), 7);
}
