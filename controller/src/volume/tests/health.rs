//! Health from real causes, one after the other.

use std::collections::BTreeMap;

use tonic::Code;
use varve_proto::{
    agent::{Ailment, ailment::Severity},
    csi::{self, VolumeHealthErrorType as Health},
};
use varve_repository::check::{Damage, Hurt, Report};

use crate::testing::{Bench, Fault, Method, order};

/// The conditions of a volume: status and reason.
async fn conditions(bench: &Bench, id: &str) -> Vec<(Health, String)> {
    let request = csi::ControllerGetVolumeHealthRequest { volume_id: id.to_owned(), ..Default::default() };
    let health = bench.controller.get_volume_health(request).await.unwrap().volume_health.unwrap();
    assert_eq!(health.volume_id, id);
    let entry = |entry: csi::volume_health::VolumeHealthEntry| (entry.status(), entry.reason);
    health.health_statuses.into_iter().map(entry).collect()
}

/// The reasons of all volumes that something is wrong with.
async fn listed(bench: &Bench) -> BTreeMap<String, Vec<String>> {
    let answer = bench.controller.list_volume_health(Default::default()).await.unwrap();
    let reasons =
        |health: &csi::VolumeHealth| health.health_statuses.iter().map(|entry| entry.reason.clone()).collect();
    answer.entries.iter().map(|health| (health.volume_id.clone(), reasons(health))).collect()
}

fn ailment(severity: Severity, reason: &str) -> Ailment {
    Ailment { severity: severity.into(), reason: reason.to_owned(), message: format!("{reason} it is") }
}

fn one(health: Health, reason: &str) -> Vec<(Health, String)> {
    vec![(health, reason.to_owned())]
}

#[tokio::test]
async fn a_volume_that_is_well_has_no_conditions_and_is_not_listed() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    assert_eq!(conditions(&bench, &id).await, []);
    assert_eq!(listed(&bench).await, BTreeMap::new());
    for (id, expected) in [("", Code::InvalidArgument), ("fake", Code::NotFound)] {
        let request = csi::ControllerGetVolumeHealthRequest { volume_id: id.to_owned(), ..Default::default() };
        assert_eq!(bench.controller.get_volume_health(request).await.unwrap_err().code(), expected);
    }
}

#[tokio::test]
async fn a_lost_image_is_data_loss_unless_it_never_was() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.agent("a").lose_image(&id);
    assert_eq!(conditions(&bench, &id).await, one(Health::DataLoss, "ImageMissing"));
    assert_eq!(listed(&bench).await, [(id, vec!["ImageMissing".to_owned()])].into());
    bench.agent("a").fail(Method::CreateImage, Fault::Verdict(Code::Unavailable));
    bench.controller.create_volume(order("unfinished")).await.unwrap_err();
    assert_eq!(conditions(&bench, &bench.repository.volume_id("unfinished").to_string()).await, []);
}

#[tokio::test]
async fn a_silent_node_and_a_gone_one_are_inaccessible() {
    let bench = Bench::new(&["a", "b"]).await;
    let here = bench.volume_on("here", "a").await;
    let there = bench.volume_on("there", "b").await;
    bench.set_reachable("b", false);
    assert_eq!(conditions(&bench, &there).await, one(Health::Inaccessible, "NodeUnreachable"));
    assert_eq!(listed(&bench).await, [(there.clone(), vec!["NodeUnreachable".to_owned()])].into());
    bench.remove_node("b");
    assert_eq!(conditions(&bench, &there).await, one(Health::Inaccessible, "NodeGone"));
    assert_eq!(listed(&bench).await, [(there, vec!["NodeGone".to_owned()])].into());
    assert_eq!(conditions(&bench, &here).await, []);
}

#[tokio::test]
async fn what_the_node_says_is_passed_on_each_reason_once_and_worst_first() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.agent("a").set_ailments(vec![
        ailment(Severity::Degraded, "PoolNearlyFull"),
        ailment(Severity::Degraded, "PoolNearlyFull"),
    ]);
    bench.agent("a").change_image(&id, |image| {
        image.ailments =
            vec![ailment(Severity::Inaccessible, "DeviceGone"), ailment(Severity::Degraded, "PoolNearlyFull")];
    });
    let expected = [(Health::Inaccessible, "DeviceGone".to_owned()), (Health::Degraded, "PoolNearlyFull".to_owned())];
    assert_eq!(conditions(&bench, &id).await, expected);
}

#[tokio::test]
async fn with_the_repository_out_of_reach_the_nodes_still_answer() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.store.refuse(true);
    assert_eq!(conditions(&bench, &id).await, one(Health::Degraded, "RepositoryAccessDenied"));
    assert_eq!(listed(&bench).await, [(id.clone(), vec!["RepositoryAccessDenied".to_owned()])].into());
    let unknown = csi::ControllerGetVolumeHealthRequest {
        volume_id: "vol-00000000000000000000000000000000".to_owned(),
        ..Default::default()
    };
    assert_eq!(bench.controller.get_volume_health(unknown).await.unwrap_err().code(), Code::PermissionDenied);
    bench.store.refuse(false);
    assert_eq!(conditions(&bench, &id).await, []);
}

#[tokio::test]
async fn damage_that_a_check_found_shows_until_the_snapshot_is_gone() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    let snapshot = bench.snapshot("monday", &id).await.unwrap().snapshot_id;
    bench.agent("a").offload(&snapshot).await;
    let hurt = Hurt { snapshot: snapshot.parse().unwrap(), volume: Some(id.parse().unwrap()), ranges: Vec::new() };
    let damage = Damage { object: "packs/0".to_owned(), reason: "it is missing".to_owned(), hurt: vec![hurt] };
    bench.controller.take_report(&Report { damages: vec![damage], ..Report::default() });
    assert_eq!(conditions(&bench, &id).await, one(Health::Degraded, "SnapshotDamaged"));
    assert_eq!(listed(&bench).await, [(id.clone(), vec!["SnapshotDamaged".to_owned()])].into());
    bench.delete_snapshot(&snapshot).await.unwrap();
    assert_eq!(conditions(&bench, &id).await, []);
}

#[tokio::test]
async fn the_listing_comes_in_pages() {
    let bench = Bench::new(&["a"]).await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(bench.volume(&format!("data-{number}")).await);
    }
    ids.sort();
    bench.agent("a").set_ailments(vec![ailment(Severity::Degraded, "PoolNearlyFull")]);
    let page = async |max_entries, starting_token: String| {
        let request = csi::ControllerListVolumeHealthRequest { max_entries, starting_token, ..Default::default() };
        bench.controller.list_volume_health(request).await
    };
    let first = page(2, String::new()).await.unwrap();
    let second = page(2, first.next_token).await.unwrap();
    let seen: Vec<_> = first.entries.into_iter().chain(second.entries).map(|health| health.volume_id).collect();
    assert_eq!(seen, ids);
    assert_eq!(second.next_token, "");
    assert_eq!(page(0, "invalid-token".to_owned()).await.unwrap_err().code(), Code::Aborted);
}
