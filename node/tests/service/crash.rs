//! What a process that was killed between two steps left is found and finished, or undone.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
};

use tonic::Code;
use varve_csi::capability::AccessMode;
use varve_node::{
    device::{LoopDevice, Options},
    filesystem,
    pool::Kind,
    volume::{Access, Publication, Staged, Volume},
};

use crate::{
    fixture::{Claim, MIB, Site, fails_with},
    on_both_pools,
};

on_both_pools!(
    every_step_of_a_staging_is_taken_up,
    a_formatting_that_was_cut_short_begins_anew,
    what_was_once_formatted_is_never_formatted_again,
    a_clone_is_formatted_only_if_its_source_never_was,
);

fn staged(claim: &Claim) -> Staged {
    let access = if claim.block { Access::Block } else { Access::Mount { flags: vec![], group: None } };
    Staged { path: claim.staging.clone(), access, publications: vec![] }
}

/// The steps of a staging, as many as were taken.
async fn every_step_of_a_staging_is_taken_up(kind: Kind) {
    let site = Site::new(kind).await;
    let mut node = site.start().await;
    for presentation in ["ext4", "xfs", "block"] {
        let claim = node.create(presentation, presentation).await;
        for steps in 1..=2 {
            for undone in [false, true] {
                let volume = node.volume(&claim);
                volume.set_staged(Some(staged(&claim))).expect("recorded");
                if steps >= 2 {
                    LoopDevice::attach(&volume.image(), Options::default()).expect("attached");
                }
                node = node.restart().await;
                if !undone {
                    node.stage(&claim).await.expect("staged");
                    node.publish(&claim, "pod", false).await.expect("published");
                    node = node.restart().await;
                    node.publish(&claim, "pod", false).await.expect("published");
                    node.unpublish(&claim, "pod").await.expect("unpublished");
                }
                node.put_away(&claim, &[]).await;
            }
        }
    }
}

/// What a mkfs that was killed may leave: no superblock, the beginning of one, or one that looks complete.
const UNFINISHED: [&[(u64, &[u8])]; 3] = [
    &[(4096, &[0xA5; 65536]), (100 * MIB, &[0x5A; 65536])],
    &[(0, b"XFSB"), (126, &[1]), (1024 + 0x36, &[0xFF; 8])],
    &[(1024 + 0x38, &[0x53, 0xEF])],
];

/// Writes into an image that is not attached, and returns its bytes.
fn scribble(volume: &Volume, pieces: &[(u64, &[u8])]) -> Vec<u8> {
    let image = File::options().write(true).open(volume.image()).expect("opened");
    for (offset, bytes) in pieces {
        image.write_all_at(bytes, *offset).expect("written");
    }
    image.sync_all().expect("synced");
    fs::read(volume.image()).expect("read")
}

async fn a_formatting_that_was_cut_short_begins_anew(kind: Kind) {
    let site = Site::new(kind).await;
    let mut node = site.start().await;
    for presentation in ["ext4", "xfs"] {
        for (nth, left) in UNFINISHED.into_iter().enumerate() {
            let claim = node.create(&format!("{presentation}-{nth}"), presentation).await;
            let volume = node.volume(&claim);
            assert!(!volume.record().formatted);
            scribble(&volume, left);
            volume.set_staged(Some(staged(&claim))).expect("recorded");
            LoopDevice::attach(&volume.image(), Options::default()).expect("attached");
            node = node.restart().await;
            node.stage(&claim).await.expect("staged");
            let volume = node.volume(&claim);
            assert!(volume.record().formatted);
            let allocated = fs::metadata(volume.image()).expect("there").blocks() * 512;
            assert!(allocated < 72 * MIB, "{allocated}: no more than the log of an XFS");
            fs::write(claim.staging.join("file"), "kept").expect("written");
            node.put_away(&claim, &[]).await;
            node.stage(&claim).await.expect("staged again");
            assert_eq!(fs::read(claim.staging.join("file")).expect("still there"), b"kept");
            node.put_away(&claim, &[]).await;
            node.delete(&claim).await.expect("deleted");
        }
    }
}

async fn what_was_once_formatted_is_never_formatted_again(kind: Kind) {
    let site = Site::new(kind).await;
    let mut node = site.start().await;
    for presentation in ["ext4", "xfs"] {
        let claim = node.create(presentation, presentation).await;
        node.stage(&claim).await.expect("staged");
        node.put_away(&claim, &[]).await;
        let ours = [(0, &[0; 4096][..]), (4096, &[0xA5; 4096])];
        let blank = [(0, &[0; 2 << 20][..])];
        for damage in [&ours[..], &blank[..]] {
            let before = scribble(&node.volume(&claim), damage);
            node = node.restart().await;
            fails_with(node.stage(&claim).await, Code::FailedPrecondition);
            assert_eq!(node.devices(), [], "a staging that fails leaves nothing attached");
            assert_eq!(node.volume(&claim).staged(), None);
            let untouched = fs::read(node.volume(&claim).image()).expect("read") == before;
            assert!(untouched, "nothing is made on what once was completed");
        }
    }
}

async fn a_clone_is_formatted_only_if_its_source_never_was(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.start().await;
    let source = node.create("source", "ext4").await;
    let blank = node.clone_of(&source, "blank").await;
    assert!(!node.volume(&blank).record().formatted);
    node.stage(&blank).await.expect("formatted and staged");
    node.put_away(&blank, &[]).await;

    node.stage(&source).await.expect("staged");
    fs::write(source.staging.join("file"), "kept").expect("written");
    let full = node.clone_of(&source, "full").await;
    node.put_away(&source, &[]).await;
    assert!(node.volume(&full).record().formatted);
    node.stage(&full).await.expect("staged");
    assert_eq!(fs::read(full.staging.join("file")).expect("there"), b"kept");
    node.put_away(&full, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_publication_is_taken_up() {
    let site = Site::new(Kind::Xfs).await;
    let mut node = site.start().await;
    for presentation in ["ext4", "block"] {
        let claim = node.create(presentation, presentation).await;
        node.stage(&claim).await.expect("staged");
        let target = claim.target("pod");
        for steps in 1..=3 {
            for undone in [false, true] {
                let publication =
                    Publication { target: target.clone(), read_only: true, mode: AccessMode::MultiWriter };
                let staged = Staged { publications: vec![publication], ..staged(&claim) };
                node.volume(&claim).set_staged(Some(staged)).expect("recorded");
                if steps >= 2 {
                    if claim.block {
                        File::create(&target).expect("made");
                    } else {
                        fs::create_dir(&target).expect("made");
                    }
                }
                if steps >= 3 {
                    // Bound, and not read-only yet.
                    let source = if claim.block { node.devices()[0].0.path() } else { claim.staging.clone() };
                    filesystem::bind(&source, &target, false).expect("bound");
                }
                node = node.restart().await;
                if !undone {
                    node.publish(&claim, "pod", true).await.expect("published");
                    let mount = filesystem::mount_at(&target).expect("read").expect("mounted");
                    assert!(mount.is_read_only(), "{mount:?}");
                }
                node.unpublish(&claim, "pod").await.expect("unpublished");
                assert!(!target.exists());
                assert_eq!(node.volume(&claim).staged().expect("staged").publications, []);
            }
        }
        node.put_away(&claim, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_never_came_about_stands_in_nobodys_way() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "ext4").await;
    node.stage(&claim).await.expect("staged");
    let publication = Publication { target: claim.target("pod"), read_only: false, mode: AccessMode::SingleWriter };
    let staged = Staged { publications: vec![publication], ..staged(&claim) };
    node.volume(&claim).set_staged(Some(staged)).expect("recorded");
    node.publish(&claim, "other", false).await.expect("published");
    node.publish(&claim, "pod", true).await.expect("published, in another way than was recorded");
    node.put_away(&claim, &["pod", "other"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_volume_left_on_the_node_is_put_away() {
    let site = Site::new(Kind::Xfs).await;
    let mut node = site.start().await;
    for presentation in ["ext4", "block"] {
        let claim = node.create(presentation, presentation).await;
        node.stage(&claim).await.expect("staged");
        node.publish(&claim, "pod", false).await.expect("published");
        fs::remove_dir_all(node.volume(&claim).folder()).expect("the volume is lost");
        node = node.restart().await;
        assert!(node.agent.volumes().get(&claim.id).is_none());
        fails_with(node.unstage(&claim).await, Code::FailedPrecondition);
        node.unpublish(&claim, "pod").await.expect("unpublished");
        assert!(!claim.target("pod").exists());
        node.unstage(&claim).await.expect("unstaged");
        assert_eq!(node.devices(), []);
        assert!(site.mounts().is_empty());
        fails_with(node.unstage(&claim).await, Code::NotFound);
        fails_with(node.unpublish(&claim, "pod").await, Code::NotFound);
    }
}
