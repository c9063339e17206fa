//! ControllerPublishVolume and ControllerUnpublishVolume: who gets a volume, and what stands in the record.

use std::collections::HashMap;

use tonic::{Code, Status};
use varve_proto::csi::{self, volume_capability::access_mode::Mode};
use varve_repository::record::volume::{AccessMode, Publication, VolumeRecord};

use crate::{
    Controller, Options,
    testing::{Bench, Fault, Method, block, capability, mount, order},
};

type PublishRequest = csi::ControllerPublishVolumeRequest;

/// A request for the volume, mounted on a node by one writer.
fn wish(volume: &str, node: &str) -> PublishRequest {
    PublishRequest {
        volume_id: volume.to_owned(),
        node_id: node.to_owned(),
        volume_capability: Some(mount("")),
        ..PublishRequest::default()
    }
}

fn mounted(mode: Mode) -> Option<csi::VolumeCapability> {
    let mount = csi::volume_capability::AccessType::Mount(Default::default());
    Some(capability(mount, mode))
}

async fn publish(bench: &Bench, request: PublishRequest) -> Result<HashMap<String, String>, Status> {
    Ok(bench.controller.publish_volume(request).await?.publish_context)
}

async fn refusal(bench: &Bench, request: PublishRequest) -> Status {
    publish(bench, request).await.expect_err("refused")
}

async fn unpublish(bench: &Bench, volume: &str, node: &str) -> Result<(), Status> {
    let request = csi::ControllerUnpublishVolumeRequest {
        volume_id: volume.to_owned(),
        node_id: node.to_owned(),
        secrets: HashMap::new(),
    };
    bench.controller.unpublish_volume(request).await.map(drop)
}

async fn published(bench: &Bench, volume: &str) -> Option<Publication> {
    bench.record(volume).await.unwrap().published
}

/// What the controller tells of the nodes that a volume is published to, by both calls that do.
async fn told(bench: &Bench, volume: &str) -> Vec<String> {
    let request = csi::ControllerGetVolumeRequest { volume_id: volume.to_owned() };
    let one = bench.controller.get_volume(request).await.unwrap().status.unwrap().published_node_ids;
    let all = bench.controller.list_volumes(Default::default()).await.unwrap();
    let mut entries = all.entries.into_iter();
    let entry = entries.find(|entry| entry.volume.as_ref().unwrap().volume_id == volume).unwrap();
    assert_eq!(entry.status.unwrap().published_node_ids, one);
    one
}

#[tokio::test]
async fn a_volume_is_published_to_its_node_and_says_so_until_it_is_taken_back() {
    let bench = Bench::new(&["a", "b"]).await;
    let id = bench.volume_on("data", "a").await;
    assert_eq!(told(&bench, &id).await, Vec::<String>::new());
    for _ in 0..2 {
        assert_eq!(publish(&bench, wish(&id, "a")).await.unwrap(), HashMap::new());
        let expected = Publication { node: "a".into(), mode: AccessMode::SingleNodeWriter, read_only: false };
        assert_eq!(published(&bench, &id).await, Some(expected));
        assert_eq!(told(&bench, &id).await, ["a"]);
    }
    for _ in 0..2 {
        unpublish(&bench, &id, "a").await.unwrap();
        assert_eq!(published(&bench, &id).await, None);
    }
    assert_eq!(told(&bench, &id).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_differs_from_the_publication_exists_already() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    publish(&bench, wish(&id, "a")).await.unwrap();
    let before = published(&bench, &id).await;
    // The file system that the volume has anyhow, and flags, make no difference.
    publish(&bench, PublishRequest { volume_capability: Some(mount("ext4")), ..wish(&id, "a") }).await.unwrap();
    for request in [
        PublishRequest { readonly: true, ..wish(&id, "a") },
        PublishRequest { volume_capability: mounted(Mode::SingleNodeReaderOnly), ..wish(&id, "a") },
        PublishRequest { volume_capability: mounted(Mode::SingleNodeMultiWriter), ..wish(&id, "a") },
        PublishRequest { volume_capability: Some(mount("xfs")), ..wish(&id, "a") },
        PublishRequest { volume_capability: Some(block()), ..wish(&id, "a") },
    ] {
        let status = refusal(&bench, request.clone()).await;
        assert_eq!(status.code(), Code::AlreadyExists, "{request:?}");
        assert!(status.message().contains("as ext4 for SINGLE_NODE_WRITER:"), "{}", status.message());
    }
    assert_eq!(published(&bench, &id).await, before);
}

#[tokio::test]
async fn the_node_is_told_what_is_read_only() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    let request = PublishRequest { readonly: true, ..wish(&id, "a") };
    for _ in 0..2 {
        let context = publish(&bench, request.clone()).await.unwrap();
        assert_eq!(context, HashMap::from([("varve.io/read-only".to_owned(), "true".to_owned())]));
    }
    assert!(published(&bench, &id).await.unwrap().read_only);
    assert_eq!(refusal(&bench, wish(&id, "a")).await.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn another_node_is_refused_by_the_name_of_the_right_one() {
    let bench = Bench::new(&["a", "b"]).await;
    let id = bench.volume_on("data", "a").await;
    for _ in 0..2 {
        let status = refusal(&bench, wish(&id, "b")).await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("node \"a\""), "{}", status.message());
        publish(&bench, wish(&id, "a")).await.unwrap();
    }
    // It does not have to answer to be refused.
    bench.set_reachable("b", false);
    assert_eq!(refusal(&bench, wish(&id, "b")).await.code(), Code::FailedPrecondition);
    assert_eq!(told(&bench, &id).await, ["a"]);
}

#[tokio::test]
async fn unknown_nodes_and_volumes_are_not_found() {
    let bench = Bench::new(&["a", "b"]).await;
    let id = bench.volume_on("data", "a").await;
    let none = "vol-00000000000000000000000000000000";
    for request in [wish(&id, "c"), wish(none, "a"), wish(none, "c"), wish("fake-vol-id", "a")] {
        assert_eq!(refusal(&bench, request.clone()).await.code(), Code::NotFound, "{request:?}");
    }
    // Nor is the node that had it, once it is gone.
    bench.remove_node("a");
    assert_eq!(refusal(&bench, wish(&id, "a")).await.code(), Code::NotFound);
}

#[tokio::test]
async fn a_request_that_lacks_something_or_cannot_be_met_is_invalid() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    let raw =
        bench.controller.create_volume(csi::CreateVolumeRequest { volume_capabilities: vec![block()], ..order("raw") });
    let raw = raw.await.unwrap().volume.unwrap().volume_id;
    for (field, request) in [
        ("volume_id", wish("", "a")),
        ("node_id", wish(&id, "")),
        ("node_id", wish(&id, &"n".repeat(257))),
        ("volume_capability", PublishRequest { volume_capability: None, ..wish(&id, "a") }),
        ("volume_capability", PublishRequest { volume_capability: Some(block()), ..wish(&id, "a") }),
        (
            "volume_capability",
            PublishRequest { volume_capability: mounted(Mode::MultiNodeReaderOnly), ..wish(&id, "a") },
        ),
        ("volume_capability", wish(&raw, "a")),
    ] {
        let status = refusal(&bench, request).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
        assert!(status.message().starts_with(field), "{}", status.message());
    }
    assert_eq!(unpublish(&bench, "", "a").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(published(&bench, &id).await, None);
}

#[tokio::test]
async fn the_context_of_an_earlier_volume_is_not_taken() {
    let bench = Bench::new(&["a"]).await;
    let made = bench.controller.create_volume(order("data")).await.unwrap().volume.unwrap();
    let mut own = PublishRequest { volume_context: made.volume_context, ..wish(&made.volume_id, "a") };
    // As orchestrators do.
    own.volume_context.insert("storage.kubernetes.io/csiProvisionerIdentity".into(), "1-csi.varve.io".into());
    let request = csi::DeleteVolumeRequest { volume_id: made.volume_id.clone(), ..Default::default() };
    publish(&bench, own.clone()).await.unwrap();
    unpublish(&bench, &made.volume_id, "").await.unwrap();
    bench.controller.delete_volume(request).await.unwrap();
    assert_eq!(bench.volume("data").await, made.volume_id);
    let status = refusal(&bench, own).await;
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().starts_with("volume_context"), "{}", status.message());
}

#[tokio::test]
async fn taking_back_fails_for_nothing_that_is_not_there() {
    let bench = Bench::new(&["a", "b"]).await;
    let id = bench.volume_on("data", "a").await;
    for (volume, node) in [(id.as_str(), "a"), ("fake-vol-id", "a"), ("vol-00000000000000000000000000000000", "")] {
        unpublish(&bench, volume, node).await.unwrap();
    }
    publish(&bench, wish(&id, "a")).await.unwrap();
    for node in ["b", "c"] {
        unpublish(&bench, &id, node).await.unwrap();
        assert_eq!(told(&bench, &id).await, ["a"], "it is not published to {node}");
    }
    // From all nodes; also where the node is no more.
    bench.remove_node("a");
    unpublish(&bench, &id, "").await.unwrap();
    assert_eq!(told(&bench, &id).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_published_volume_is_not_deleted() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    let delete = || {
        let request = csi::DeleteVolumeRequest { volume_id: id.clone(), ..Default::default() };
        bench.controller.delete_volume(request)
    };
    publish(&bench, wish(&id, "a")).await.unwrap();
    let status = delete().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("published to node \"a\""), "{}", status.message());
    assert_eq!(bench.agent("a").calls(Method::DeleteImage), 0);
    unpublish(&bench, &id, "a").await.unwrap();
    delete().await.unwrap();
}

#[tokio::test]
async fn a_volume_that_is_not_finished_waits() {
    let bench = Bench::new(&["a"]).await;
    bench.agent("a").fail(Method::CreateImage, Fault::LostAnswer);
    bench.controller.create_volume(order("data")).await.unwrap_err();
    let id = bench.repository.volume_id("data").to_string();
    assert_eq!(refusal(&bench, wish(&id, "a")).await.code(), Code::Unavailable);
    bench.volume("data").await;
    publish(&bench, wish(&id, "a")).await.unwrap();
    // The creation's retry finds the volume as it is, and leaves the publication.
    bench.volume("data").await;
    assert_eq!(told(&bench, &id).await, ["a"]);
}

#[tokio::test]
async fn a_silent_node_gets_nothing_and_keeps_what_it_has() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.set_reachable("a", false);
    assert_eq!(refusal(&bench, wish(&id, "a")).await.code(), Code::Unavailable);
    assert_eq!(published(&bench, &id).await, None);
    bench.set_reachable("a", true);
    publish(&bench, wish(&id, "a")).await.unwrap();
    bench.set_reachable("a", false);
    publish(&bench, wish(&id, "a")).await.unwrap();
    unpublish(&bench, &id, "a").await.unwrap();
}

#[tokio::test]
async fn a_node_takes_as_many_volumes_as_it_says() {
    let bench = Bench::new(&["a", "b"]).await;
    let mut ids = Vec::new();
    for name in ["1", "2", "3"] {
        ids.push(bench.volume_on(name, "a").await);
    }
    let elsewhere = bench.volume_on("elsewhere", "b").await;
    bench.agent("a").set_max_volumes(2);
    publish(&bench, wish(&elsewhere, "b")).await.unwrap();
    for id in &ids[..2] {
        publish(&bench, wish(id, "a")).await.unwrap();
    }
    let status = refusal(&bench, wish(&ids[2], "a")).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("takes 2 volumes"), "{}", status.message());
    // What is published already is not counted against itself.
    publish(&bench, wish(&ids[1], "a")).await.unwrap();
    unpublish(&bench, &ids[0], "a").await.unwrap();
    publish(&bench, wish(&ids[2], "a")).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_of_the_store_changes_nothing() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.store.lose_answer();
    publish(&bench, wish(&id, "a")).await.unwrap();
    assert_eq!(told(&bench, &id).await, ["a"]);
    bench.store.lose_answer();
    unpublish(&bench, &id, "a").await.unwrap();
    assert_eq!(told(&bench, &id).await, Vec::<String>::new());
}

#[tokio::test]
async fn of_two_controllers_at_once_the_record_decides() {
    let bench = Bench::new(&["a"]).await;
    let other = Controller::new(bench.repository.clone(), bench.nodes(), Options::default());
    for round in 0..8 {
        let id = bench.volume(&format!("data-{round}")).await;
        let reader = PublishRequest { readonly: true, ..wish(&id, "a") };
        let (one, two) = tokio::join!(bench.controller.publish_volume(wish(&id, "a")), other.publish_volume(reader));
        let (read_only, lost) = match (one, two) {
            (Ok(_), Err(lost)) => (false, lost),
            (Err(lost), Ok(_)) => (true, lost),
            both => panic!("one of them has it: {both:?}"),
        };
        assert!(matches!(lost.code(), Code::AlreadyExists | Code::Aborted), "{lost:?}");
        assert_eq!(published(&bench, &id).await.unwrap().read_only, read_only);
    }
}

#[tokio::test]
async fn a_second_call_on_the_volume_is_aborted() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    let held = bench.controller.hold(super::super::exclusively(id.parse().unwrap())).unwrap();
    assert_eq!(refusal(&bench, wish(&id, "a")).await.code(), Code::Aborted);
    assert_eq!(unpublish(&bench, &id, "a").await.unwrap_err().code(), Code::Aborted);
    drop(held);
    publish(&bench, wish(&id, "a")).await.unwrap();
}

#[tokio::test]
async fn a_publication_outlives_other_changes_of_the_record() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    publish(&bench, wish(&id, "a")).await.unwrap();
    let before = bench.record(&id).await.unwrap();
    let grow = csi::ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: crate::testing::range(2 << 30, 0),
        ..Default::default()
    };
    bench.controller.expand_volume(grow).await.unwrap();
    let expected = VolumeRecord { capacity_bytes: 2 << 30, ..before };
    assert_eq!(bench.record(&id).await.unwrap(), expected);
}
