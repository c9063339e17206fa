//! The services as a client sees them: what they claim, and how long they make it wait.

use std::{collections::BTreeSet, io, time::Duration};

use tokio_stream::StreamExt as _;
use tonic::{Request, transport::Server};
use varve_proto::csi::{
    self, controller_client::ControllerClient, controller_server::ControllerServer,
    group_controller_client::GroupControllerClient, group_controller_server::GroupControllerServer,
    plugin_capability::service, snapshot_metadata_client::SnapshotMetadataClient,
    snapshot_metadata_server::SnapshotMetadataServer,
};

use crate::{
    Controller,
    testing::{Bench, Image, connect, order},
};

/// Serves the controller and connects to it.
async fn channel(bench: &Bench) -> tonic::transport::Channel {
    let (client, server) = tokio::io::duplex(1 << 16);
    let incoming = tokio_stream::once(Ok::<_, io::Error>(server)).chain(tokio_stream::pending());
    let router = Server::builder()
        .add_service(ControllerServer::new(bench.controller.clone()))
        .add_service(GroupControllerServer::new(bench.controller.clone()))
        .add_service(SnapshotMetadataServer::new(bench.controller.clone()));
    tokio::spawn(router.serve_with_incoming(incoming));
    connect(client).await
}

#[tokio::test]
async fn every_capability_that_holds_is_claimed_and_no_other() {
    use csi::controller_service_capability::rpc::Type;
    let bench = Bench::new(&["a"]).await;
    let channel = channel(&bench).await;
    let answer = ControllerClient::new(channel.clone())
        .controller_get_capabilities(csi::ControllerGetCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner();
    let claimed: BTreeSet<&str> = answer
        .capabilities
        .iter()
        .map(|capability| match &capability.r#type {
            Some(csi::controller_service_capability::Type::Rpc(rpc)) => rpc.r#type().as_str_name(),
            None => "",
        })
        .collect();
    let expected = [
        Type::CreateDeleteVolume,
        Type::PublishUnpublishVolume,
        Type::ListVolumes,
        Type::GetCapacity,
        Type::CreateDeleteSnapshot,
        Type::ListSnapshots,
        Type::CloneVolume,
        Type::PublishReadonly,
        Type::ExpandVolume,
        Type::ListVolumesPublishedNodes,
        Type::GetVolume,
        Type::SingleNodeMultiWriter,
        Type::ModifyVolume,
        Type::GetSnapshot,
        Type::GetVolumeHealth,
        Type::ListVolumeHealth,
    ];
    assert_eq!(claimed, expected.map(|can| can.as_str_name()).into());
    let groups = GroupControllerClient::new(channel)
        .group_controller_get_capabilities(csi::GroupControllerGetCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(groups.capabilities.len(), 1);
    let services: Vec<_> = Controller::plugin_capabilities()
        .into_iter()
        .filter_map(|capability| match capability.r#type {
            Some(csi::plugin_capability::Type::Service(service)) => Some(service.r#type()),
            _ => None,
        })
        .collect();
    assert_eq!(
        services,
        [
            service::Type::ControllerService,
            service::Type::VolumeAccessibilityConstraints,
            service::Type::GroupControllerService,
            service::Type::SnapshotMetadataService,
            service::Type::SnapshotAccessibilityConstraints,
        ]
    );
}

#[tokio::test]
async fn a_snapshot_waits_no_longer_than_the_caller() {
    let bench = Bench::new(&["a"]).await;
    let mut client = ControllerClient::new(channel(&bench).await);
    let volume = client.create_volume(order("data")).await.unwrap().into_inner().volume.unwrap().volume_id;
    for (name, timeout) in [("1", None), ("2", Some(Duration::from_secs(60))), ("3", Some(Duration::from_secs(3)))] {
        let mut request = Request::new(csi::CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: volume.clone(),
            ..Default::default()
        });
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        client.create_snapshot(request).await.unwrap();
    }
    assert_eq!(bench.agent("a").waits(), [2000, 2000, 1500]);
}

/// A snapshot of so many ranges of one block each.
async fn comb(bench: &Bench, teeth: u64) -> String {
    let mut image = Image::new("data", teeth * 2);
    for tooth in 0..teeth {
        image.write(tooth * 2..tooth * 2 + 1, 1);
    }
    bench.commit("comb", &mut image).await
}

#[tokio::test]
async fn metadata_is_streamed_to_its_end() {
    let bench = Bench::new(&["a"]).await;
    let snapshot_id = comb(&bench, 5000).await;
    let base_snapshot_id = bench.commit("empty", &mut Image::new("data", 1)).await;
    let mut client = SnapshotMetadataClient::new(channel(&bench).await);
    let request = csi::GetMetadataAllocatedRequest { snapshot_id: snapshot_id.clone(), ..Default::default() };
    let mut messages = client.get_metadata_allocated(request).await.unwrap().into_inner();
    let mut allocated = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        assert_eq!(message.volume_capacity_bytes, 10_000 * 4096);
        allocated.extend(message.block_metadata);
    }
    let request = csi::GetMetadataDeltaRequest {
        base_snapshot_id,
        target_snapshot_id: snapshot_id,
        max_results: 7,
        ..Default::default()
    };
    let mut messages = client.get_metadata_delta(request).await.unwrap().into_inner();
    let mut changed = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        assert!(message.block_metadata.len() <= 7);
        changed.extend(message.block_metadata);
    }
    let expected: Vec<_> =
        (0..5000).map(|tooth| csi::BlockMetadata { byte_offset: tooth * 8192, size_bytes: 4096 }).collect();
    assert_eq!((&allocated, &changed), (&expected, &expected));
}

#[tokio::test]
async fn metadata_that_nobody_reads_any_more_is_not_looked_for() {
    let bench = Bench::new(&["a"]).await;
    // A message each: far more than fits into the buffers on the way.
    let snapshot_id = comb(&bench, 20_000).await;
    let mut client = SnapshotMetadataClient::new(channel(&bench).await);
    let request = csi::GetMetadataAllocatedRequest { snapshot_id, max_results: 1, ..Default::default() };
    let mut messages = client.get_metadata_allocated(request).await.unwrap().into_inner();
    assert_eq!(messages.message().await.unwrap().unwrap().block_metadata.len(), 1);
    let answering = bench.controller.handles();
    drop(messages);
    let gone = async {
        while bench.controller.handles() == answering {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the answer is given up");
}
