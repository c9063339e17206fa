//! What is the matter, from real causes.

use std::{fs, process::Command};

use tonic::{Code, Request};
use varve_node::{filesystem, pool::Kind};
use varve_proto::csi::{
    self, StorageHealthErrorType,
    VolumeHealthErrorType::{DataLoss, Degraded, Inaccessible},
    node_server::Node as _,
};

use crate::fixture::{Node, Site, fails_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_well_has_nothing_to_tell() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    for presentation in ["ext4", "xfs", "block"] {
        let claim = node.create(presentation, presentation).await;
        assert_eq!(node.health(&claim).await, []);
        node.stage(&claim).await.expect("staged");
        node.publish(&claim, "pod", true).await.expect("published");
        assert_eq!(node.health(&claim).await, []);
        node.put_away(&claim, &["pod"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_image_is_a_loss() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "ext4").await;
    node.stage(&claim).await.expect("staged");
    fs::remove_file(node.volume(&claim).image()).expect("the image is lost");
    assert_eq!(node.health(&claim).await, [(DataLoss, "ImageMissing".into())]);
    node.put_away(&claim, &[]).await;
    fails_with(node.stage(&claim).await, Code::DataLoss);
    assert_eq!(node.volume(&claim).staged(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_that_went_make_it_inaccessible() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "ext4").await;
    node.stage(&claim).await.expect("staged");
    let target = node.publish(&claim, "pod", false).await.expect("published");
    filesystem::unmount(&target).expect("unmounted");
    assert_eq!(node.health(&claim).await, [(Inaccessible, "PublicationMissing".into())]);
    filesystem::unmount(&claim.staging).expect("unmounted");
    let both = [(Inaccessible, "MountMissing".into()), (Inaccessible, "PublicationMissing".into())];
    assert_eq!(node.health(&claim).await, both);
    fails_with(node.publish(&claim, "other", false).await, Code::FailedPrecondition);
    let (device, _) = node.devices()[0];
    device.detach().expect("detached");
    assert_eq!(node.health(&claim).await, [(Inaccessible, "DeviceMissing".into())]);
    // Everything is mended by asking again.
    node.stage(&claim).await.expect("staged");
    node.publish(&claim, "pod", false).await.expect("published");
    assert_eq!(node.health(&claim).await, []);
    node.put_away(&claim, &["pod"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_ext4_makes_it_read_only_and_is_repaired_by_the_next_staging() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "ext4").await;
    node.stage(&claim).await.expect("staged");
    let (device, _) = node.devices()[0];
    let name = device.path().file_name().expect("a name").to_string_lossy().into_owned();
    // The kernel's own way to have an error: see ext4(5), and Documentation/ABI/testing/sysfs-fs-ext4.
    fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "test").expect("an error is triggered");
    assert_eq!(node.health(&claim).await, [(Inaccessible, "FilesystemReadOnly".into())]);
    fails_with(node.expand(&claim, &claim.staging, 0).await, Code::FailedPrecondition);
    node.unstage(&claim).await.expect("unstaged");
    node.stage(&claim).await.expect("staged");
    assert_eq!(node.health(&claim).await, []);
    fs::write(claim.staging.join("file"), "written").expect("writable again");
    node.put_away(&claim, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_ext4_that_it_goes_on_after_are_counted() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let mut claim = node.create("claim", "ext4").await;
    claim.flags = vec!["errors=continue".into()];
    node.stage(&claim).await.expect("staged");
    let (device, _) = node.devices()[0];
    let name = device.path().file_name().expect("a name").to_string_lossy().into_owned();
    fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "test").expect("an error is triggered");
    assert_eq!(node.health(&claim).await, [(Degraded, "FilesystemErrors".into())]);
    node.put_away(&claim, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xfs_that_shut_down_is_inaccessible() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "xfs").await;
    node.stage(&claim).await.expect("staged");
    let ended = Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&claim.staging).status();
    assert!(ended.expect("xfs_io runs: apt-get install -y xfsprogs").success());
    assert_eq!(node.health(&claim).await, [(Inaccessible, "FilesystemFailed".into())]);
    node.unstage(&claim).await.expect("unstaged");
    node.stage(&claim).await.expect("staged");
    assert_eq!(node.health(&claim).await, []);
    node.put_away(&claim, &[]).await;
}

async fn storage(node: &Node<'_>) -> Vec<(StorageHealthErrorType, String)> {
    let request = Request::new(csi::NodeGetStorageHealthRequest::default());
    let answer = node.service.node_get_storage_health(request).await.expect("health is told").into_inner();
    answer.backend_health.into_iter().map(|entry| (entry.status(), entry.reason)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_does_not_answer_degrades_the_storage() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    assert_eq!(storage(&node).await, []);
    let repository = site.path().join("repository");
    let away = site.path().join("away");
    fs::rename(&repository, &away).expect("moved");
    // A file where the folder was: nothing can be looked up in it.
    fs::write(&repository, "").expect("written");
    assert_eq!(storage(&node).await, [(StorageHealthErrorType::StorageDegraded, "RepositoryUnreachable".to_owned())]);
    fs::remove_file(&repository).and_then(|()| fs::rename(&away, &repository)).expect("moved back");
    assert_eq!(storage(&node).await, []);
}
