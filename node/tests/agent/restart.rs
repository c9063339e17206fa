//! What a start makes of what the last process left.

use std::{fs, time::Duration};

use varve_node::{
    agent::{Agent, StartError},
    pool::{Kind, Pool},
    sys,
};
use varve_proto::agent as proto;
use varve_repository::{Repository, crypto::MasterKey, record::snapshot::Method, seam::Seams, store::Store};

use crate::{
    fixture::{BLOCK, MIB, Site, write},
    gate::Position,
};

crate::on_both_pools!(
    an_offload_goes_on_after_a_restart,
    invariant_4_a_frozen_file_system_is_thawed,
    a_group_that_was_committed_is_completed,
    a_pool_stays_with_its_repository,
    what_was_decided_meanwhile_is_found_out,
    devices_that_nobody_uses_are_detached,
    a_snapshot_of_this_node_alone_that_was_deleted_meanwhile_goes,
    images_that_no_record_accounts_for_are_told_of_and_kept,
    a_group_that_nobody_was_answered_for_stands_in_no_ones_way,
);

async fn an_offload_goes_on_after_a_restart(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    write(&image, 0, 1, MIB);
    gate.set(Position::Shut);
    node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await.expect("cut");
    write(&image, MIB, 2, BLOCK);
    node.cut(site.wanted_cuts(&[("s2", "one")], 0)).await.expect("cut");
    gate.somebody_waits().await;
    node.stop().await;

    gate.set(Position::Open);
    let node = site.node("a").await;
    node.settled(site.snapshot("s1")).await;
    node.settled(site.snapshot("s2")).await;
    assert_eq!(site.root("s1").await.statistics.data_bytes, MIB);
    let second = site.root("s2").await;
    assert_eq!((second.method, second.base), (Method::Incremental, Some(site.snapshot("s1"))), "in their order");
    assert_eq!(second.statistics.changed_bytes, BLOCK);
}

async fn invariant_4_a_frozen_file_system_is_thawed(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let mounted = node.stage(site.volume("one"));
    let folder = fs::File::open(&mounted.target).expect("opened");
    sys::freeze::freeze(&folder).expect("frozen, as by a process that was then killed");
    node.agent.stop().await;
    node.agent.pool().close().expect("given up, and left mounted");
    drop(node);
    let node = site.node("a").await;
    fs::write(mounted.target.join("file"), "written").expect("thawed");
    assert!(sys::freeze::thaw(&folder).is_err(), "it is not frozen any more");
    assert!(node.volume(site.volume("one")).staged().is_some(), "and still staged");
    drop((folder, mounted));
}

async fn a_group_that_was_committed_is_completed(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    for name in ["one", "two"] {
        node.create(site.wanted(name, 64 * MIB)).await.expect("made");
        write(&node.volume(site.volume(name)).image(), 0, 1, MIB);
    }
    gate.set(Position::Shut);
    node.cut(site.wanted_cuts(&[("s1", "one"), ("s2", "two")], 0)).await.expect("cut");
    let cuts = node.agent.pool().cuts_dir();
    node.agent.stop().await;
    // As a crash between the commit and the second member's move leaves it.
    let group = cuts.join("g.group");
    fs::create_dir(&group).expect("made");
    let member = site.snapshot("s2").to_string();
    fs::rename(cuts.join(&member), group.join(&member)).expect("moved back");
    drop(node);

    gate.set(Position::Open);
    let node = site.node("a").await;
    for name in ["s1", "s2"] {
        node.settled(site.snapshot(name)).await;
        assert_eq!(site.root(name).await.statistics.data_bytes, MIB);
    }
    assert!(!group.exists());
}

async fn a_pool_stays_with_its_repository(kind: Kind) {
    let site = Site::new(kind).await;
    site.node("a").await.stop().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&format!("file://{}", folder.path().join("other").display()), &[]).expect("usable");
    let other = Repository::init(store, &MasterKey::generate(&varve_repository::seam::System), Seams::system())
        .await
        .expect("another repository");
    let config = site.config("a");
    let pool = Pool::open(&config.pool).expect("the pool");
    let error = Agent::start(config, pool, other.clone()).await.expect_err("refused");
    match &error {
        StartError::OtherRepository { found, given, .. } => {
            assert_eq!((*found, *given), (site.repository.uuid(), other.uuid()));
        }
        error => panic!("{error:?}"),
    }
    // What was refused is put away, so that the right one can be given.
    site.node("a").await.stop().await;
}

async fn what_was_decided_meanwhile_is_found_out(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    write(&node.volume(site.volume("one")).image(), 0, 1, MIB);
    gate.set(Position::Shut);
    node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await.expect("cut");
    node.stop().await;
    site.repository.delete_snapshot(site.snapshot("s1"), "deleted").await.expect("cancelled");
    let node = site.node("a").await;
    assert!(node.agent.cuts().list().is_empty(), "the cut of a snapshot that is gone is gone");
}

async fn devices_that_nobody_uses_are_detached(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let volume = node.volume(site.volume("one"));
    let device = varve_node::device::LoopDevice::attach(&volume.image(), Default::default()).expect("attached");
    let staged = varve_node::volume::Staged {
        path: "/nowhere".into(),
        access: varve_node::volume::Access::Block,
        publications: vec![],
    };
    volume.set_staged(Some(staged)).expect("written down");
    drop(node);

    let node = site.node("a").await;
    let volume = node.volume(site.volume("one"));
    assert!(volume.staged().is_some(), "a block volume that is attached is staged");
    assert_eq!(varve_node::device::LoopDevice::find(&volume.image()).expect("asked"), Some(device));
    volume.set_staged(None).expect("written down");
    drop(node);

    let node = site.node("a").await;
    let image = node.volume(site.volume("one")).image();
    assert_eq!(varve_node::device::LoopDevice::find(&image).expect("asked"), None);
    node.stop().await;
}

async fn a_snapshot_of_this_node_alone_that_was_deleted_meanwhile_goes(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    for name in ["kept", "deleted"] {
        let wanted = site.wanted_cuts(&[(name, "one")], 0);
        node.cut(proto::CreateCutsRequest { durability: proto::Durability::Node.into(), ..wanted }).await.expect("cut");
    }
    node.stop().await;
    site.repository.delete_snapshot(site.snapshot("deleted"), "deleted").await.expect("a tombstone");
    let node = site.node("a").await;
    node.gone(site.snapshot("deleted")).await;
    let kept: Vec<_> = node.agent.cuts().list().iter().map(|cut| cut.id()).collect();
    assert_eq!(kept, [site.snapshot("kept")]);
    assert!(!node.agent.pool().cut_dir(site.snapshot("deleted")).exists());
}

async fn images_that_no_record_accounts_for_are_told_of_and_kept(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    for name in ["well", "unknown", "moved", "older"] {
        node.create(site.wanted(name, 64 * MIB)).await.expect("made");
    }
    site.repository.remove_volume(site.volume("unknown")).await.expect("lost");
    for name in ["moved", "older"] {
        let id = site.volume(name);
        let current = site.repository.volume(id).await.expect("the repository answers").expect("claimed");
        let mut record = current.value.clone();
        match name {
            "moved" => record.home_node = "b".into(),
            _ => record.incarnation = "0190e5c4-0000-4000-8000-000000000009".parse().expect("a uuid"),
        }
        site.repository.update_volume(current, record).await.expect("replaced");
    }
    node.stop().await;
    let node = site.node("a").await;
    let told = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let ailments = node.pool().await.ailments;
            if ailments.len() == 3 {
                return ailments;
            }
            tokio::task::yield_now().await;
        }
    });
    let told = told.await.expect("three are told of");
    for (name, reason) in [("unknown", "RecordMissing"), ("moved", "RecordDiffers"), ("older", "RecordDiffers")] {
        let id = site.volume(name).to_string();
        let one = told.iter().find(|one| one.message.contains(&id)).expect("named");
        assert_eq!(one.reason, reason, "{one:?}");
        let image = node.images().await.into_iter().find(|image| image.volume_id == id).expect("kept");
        assert_eq!(image.ailments, std::slice::from_ref(one));
        assert!(node.volume(site.volume(name)).image().exists());
    }
    node.delete(site.volume("unknown")).await.expect("deleted");
    assert_eq!(node.pool().await.ailments.len(), 2, "what is gone is not told of");
}

async fn a_group_that_nobody_was_answered_for_stands_in_no_ones_way(kind: Kind) {
    let (site, gate) = Site::gated(kind).await;
    let node = site.node("a").await;
    for name in ["one", "two"] {
        node.create(site.wanted(name, 64 * MIB)).await.expect("made");
        write(&node.volume(site.volume(name)).image(), 0, 1, MIB);
    }
    gate.set(Position::Shut);
    node.cut(site.wanted_cuts(&[("s1", "one"), ("s2", "two")], 0)).await.expect("cut");
    let cuts = node.agent.pool().cuts_dir();
    node.agent.stop().await;
    // A group that failed and could not be taken away, before these were taken in its stead.
    let group = cuts.join("failed.group");
    for name in ["s1", "s2"] {
        let member = site.snapshot(name).to_string();
        fs::create_dir_all(group.join(&member)).expect("made");
        fs::copy(cuts.join(&member).join("record.json"), group.join(&member).join("record.json")).expect("copied");
    }
    drop(node);
    gate.set(Position::Open);
    let node = site.node("a").await;
    assert!(!group.exists());
    for name in ["s1", "s2"] {
        node.settled(site.snapshot(name)).await;
        assert_eq!(site.root(name).await.statistics.data_bytes, MIB);
    }
}
