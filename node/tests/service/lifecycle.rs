//! Staging and publishing, over and over, until nothing is left.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::FileTypeExt as _,
    path::Path,
};

use tonic::{Code, Request};
use varve_node::pool::Kind;
use varve_proto::csi::{self, node_server::Node as _, volume_capability::access_mode::Mode};

use crate::{
    fixture::{Site, fails_with},
    on_both_pools,
};

on_both_pools!(files_outlive_a_staging, a_raw_device_outlives_a_staging, invariant_5_every_call_may_be_repeated);

async fn files_outlive_a_staging(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.start().await;
    for presentation in ["ext4", "xfs"] {
        let claim = node.create(presentation, presentation).await;
        for round in ["first", "second"] {
            node.stage(&claim).await.expect("staged");
            let target = node.publish(&claim, "pod", false).await.expect("published");
            if round == "first" {
                fs::write(target.join("file"), "kept").expect("written");
            }
            assert_eq!(fs::read_to_string(target.join("file")).expect("read"), "kept");
            node.put_away(&claim, &["pod"]).await;
        }
    }
}

async fn a_raw_device_outlives_a_staging(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.start().await;
    let claim = node.create("raw", "block").await;
    for round in ["first", "second"] {
        node.stage(&claim).await.expect("staged");
        assert_eq!(fs::read_dir(&claim.staging).expect("a folder").count(), 0, "nothing is mounted there");
        let target = node.publish(&claim, "pod", false).await.expect("published");
        assert!(fs::metadata(&target).expect("there").file_type().is_block_device());
        if round == "first" {
            let mut device = OpenOptions::new().write(true).open(&target).expect("opened");
            device.write_all(b"kept").and_then(|()| device.sync_all()).expect("written");
        }
        let mut found = [0; 4];
        File::open(&target).and_then(|mut device| device.read_exact(&mut found)).expect("read");
        assert_eq!(&found, b"kept");
        node.put_away(&claim, &["pod"]).await;
    }
}

async fn invariant_5_every_call_may_be_repeated(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.start().await;
    for presentation in ["ext4", "xfs", "block"] {
        let claim = node.create(presentation, presentation).await;
        node.unpublish(&claim, "pod").await.expect("never published is unpublished");
        node.unstage(&claim).await.expect("never staged is unstaged");
        for _ in 0..2 {
            node.stage(&claim).await.expect("staged");
        }
        for target in ["pod", "pod", "other", "pod"] {
            node.publish(&claim, target, false).await.expect("published");
        }
        let staged = node.volume(&claim).staged().expect("staged");
        assert_eq!(staged.publications.len(), 2);
        assert_eq!(node.devices().len(), 1);
        for target in ["pod", "pod"] {
            node.unpublish(&claim, target).await.expect("unpublished");
        }
        fails_with(node.unstage(&claim).await, Code::FailedPrecondition);
        node.put_away(&claim, &["other"]).await;
        node.unstage(&claim).await.expect("unstaged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_writer_has_one_target() {
    let site = Site::new(Kind::Xfs).await;
    let mut node = site.start().await;
    let mut claim = node.create("claim", "ext4").await;
    for mode in [Mode::SingleNodeSingleWriter, Mode::SingleNodeWriter, Mode::SingleNodeReaderOnly] {
        claim.mode = mode;
        node.stage(&claim).await.expect("staged");
        node.publish(&claim, "pod", false).await.expect("published");
        fails_with(node.publish(&claim, "other", false).await, Code::FailedPrecondition);
        // A killed process does not forget it.
        node = node.restart().await;
        fails_with(node.publish(&claim, "other", false).await, Code::FailedPrecondition);
        node.publish(&claim, "pod", false).await.expect("published");
        assert!(!claim.target("other").exists(), "a refused publication leaves nothing");
        let many = crate::fixture::Claim { mode: Mode::SingleNodeMultiWriter, ..claim.clone() };
        fails_with(node.publish(&many, "other", false).await, Code::FailedPrecondition);
        fails_with(node.publish(&many, "pod", false).await, Code::AlreadyExists);
        // The next one has it when the first one is gone.
        node.unpublish(&claim, "pod").await.expect("unpublished");
        node.publish(&claim, "other", false).await.expect("published");
        node.put_away(&claim, &["other"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_is_read_only() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    for presentation in ["ext4", "xfs"] {
        let claim = node.create(presentation, presentation).await;
        node.stage(&claim).await.expect("staged");
        let reader = node.publish(&claim, "reader", true).await.expect("published");
        let writer = node.publish(&claim, "writer", false).await.expect("published beside a reader");
        fs::write(writer.join("file"), "seen").expect("written");
        assert_eq!(fs::read_to_string(reader.join("file")).expect("read"), "seen");
        let error = fs::write(reader.join("file"), "refused").expect_err("read-only");
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
        fails_with(node.publish(&claim, "reader", false).await, Code::AlreadyExists);
        fails_with(node.publish(&claim, "writer", true).await, Code::AlreadyExists);
        node.put_away(&claim, &["reader", "writer"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_controller_published_read_only_is_read_only() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("data", "ext4").await;
    let told = |read_only: &str| [("varve.io/read-only".to_owned(), read_only.to_owned())].into();
    let stage = |read_only| csi::NodeStageVolumeRequest { publish_context: told(read_only), ..claim.stage() };
    let publish = |name, read_only| {
        let request = csi::NodePublishVolumeRequest { publish_context: told(read_only), ..claim.publish(name, false) };
        node.service.node_publish_volume(Request::new(request))
    };
    // A word that is not understood must not make it writable.
    fails_with(node.service.node_stage_volume(Request::new(stage("yes"))).await, Code::InvalidArgument);
    node.service.node_stage_volume(Request::new(stage("true"))).await.expect("staged");
    fails_with(publish("reader", "yes").await, Code::InvalidArgument);
    publish("reader", "true").await.expect("published");
    let error = fs::write(claim.target("reader").join("file"), "refused").expect_err("read-only");
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    // The same in other words.
    node.publish(&claim, "reader", true).await.expect("published so already");
    publish("writer", "false").await.expect("published");
    fs::write(claim.target("writer").join("file"), "seen").expect("written");
    node.put_away(&claim, &["reader", "writer"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_read_only_for_all_its_readers_and_writable_afterwards() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("raw", "block").await;
    node.stage(&claim).await.expect("staged");
    // The kernel lets a read-only device be opened by a writer, and refuses the write.
    let write = |target: &Path| OpenOptions::new().write(true).open(target).and_then(|mut file| file.write_all(&[1]));
    let reader = node.publish(&claim, "reader", true).await.expect("published");
    assert!(File::open(&reader).is_ok());
    assert!(write(&reader).is_err(), "a reader does not get to write to the device");
    fails_with(node.publish(&claim, "writer", false).await, Code::FailedPrecondition);
    node.publish(&claim, "second", true).await.expect("another reader");
    node.unpublish(&claim, "reader").await.expect("unpublished");
    assert!(write(&claim.target("second")).is_err());
    node.unpublish(&claim, "second").await.expect("unpublished");
    let writer = node.publish(&claim, "writer", false).await.expect("published");
    assert!(write(&writer).is_ok());
    node.unpublish(&claim, "writer").await.expect("unpublished");
    node.publish(&claim, "reader", true).await.expect("published");
    let (device, _) = node.devices()[0];
    node.put_away(&claim, &["reader"]).await;
    let read_only = format!("/sys/block/{}/ro", device.path().file_name().expect("a name").to_string_lossy());
    assert_eq!(fs::read_to_string(read_only).expect("sysfs tells").trim(), "0", "the next image is not read-only");
}

#[tokio::test(flavor = "multi_thread")]
async fn mount_flags_reach_the_kernel() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    for (presentation, flag) in [("ext4", "commit=17"), ("xfs", "allocsize=1024k")] {
        let mut claim = node.create(presentation, presentation).await;
        claim.flags = vec!["noatime".into(), flag.into()];
        node.stage(&claim).await.expect("staged");
        let mount = varve_node::filesystem::mount_at(&claim.staging).expect("read").expect("mounted");
        assert!(mount.options.split(',').any(|option| option == "noatime"), "{mount:?}");
        assert!(mount.super_options.split(',').any(|option| option == flag), "{mount:?}");
        assert_eq!(mount.super_options.contains("nouuid"), presentation == "xfs");
        let target = node.publish(&claim, "pod", false).await.expect("published");
        let bound = varve_node::filesystem::mount_at(&target).expect("read").expect("mounted");
        assert!(bound.options.split(',').any(|option| option == "noatime"), "{bound:?}");
        node.put_away(&claim, &["pod"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_in_use_is_staged_again_as_after_a_restart_of_the_kubelet() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    for presentation in ["ext4", "xfs", "block"] {
        let claim = node.create(presentation, presentation).await;
        node.stage(&claim).await.expect("staged");
        let target = node.publish(&claim, "pod", false).await.expect("published");
        let path = if claim.block { target.clone() } else { target.join("open") };
        let mut used = OpenOptions::new().create(!claim.block).write(true).truncate(false).open(path).expect("opened");
        let before = varve_node::filesystem::mount_at(&target).expect("read").expect("mounted");
        node.stage(&claim).await.expect("staged again");
        node.publish(&claim, "pod", false).await.expect("published again");
        assert_eq!(varve_node::filesystem::mount_at(&target).expect("read").expect("mounted").id, before.id);
        used.write_all(b"more").and_then(|()| used.sync_all()).expect("written");
        drop(used);
        node.put_away(&claim, &["pod"]).await;
    }
}
