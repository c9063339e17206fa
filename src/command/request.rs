//! `varve snapshot create`: asking a driver for a snapshot.

use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use tonic::Code;
use varve_proto::csi::{self, controller_client::ControllerClient};
use varve_repository::id::VolumeId;

use crate::{
    client,
    output::{Output, properties},
    quantity::bytes,
};

/// How long to wait before asking again, at first.
const SHORTEST: Duration = Duration::from_millis(200);
/// How long to wait before asking again, at the most.
const LONGEST: Duration = Duration::from_secs(2);

/// The driver's answer.
#[derive(Serialize)]
struct Created {
    id: String,
    volume: String,
    created_at: Option<jiff::Timestamp>,
    size_bytes: i64,
    ready: bool,
}

/// Asks for a snapshot, and where `wait` says so, asks again until it is in the repository.
///
/// # Errors
/// The driver's, as it puts it. An interrupted wait undoes nothing: the driver goes on.
pub(crate) async fn create(
    endpoint: &str,
    volume: VolumeId,
    name: String,
    wait: bool,
    output: Output,
) -> anyhow::Result<()> {
    let mut client = ControllerClient::new(client::connect(endpoint).await?);
    let request = csi::CreateSnapshotRequest { source_volume_id: volume.to_string(), name, ..Default::default() };
    let mut pause = SHORTEST;
    let snapshot = loop {
        match client.create_snapshot(request.clone()).await {
            Ok(response) => match response.into_inner().snapshot {
                Some(snapshot) if snapshot.ready_to_use || !wait => break snapshot,
                Some(_) => {}
                None => bail!("the driver's answer holds no snapshot"),
            },
            // Another call works on the volume, or the store is away for now: it is worth waiting.
            Err(status) if wait && matches!(status.code(), Code::Aborted | Code::Unavailable) => {
                eprintln!("not yet: {}", status.message());
            }
            Err(status) => bail!("the driver refused: {} ({})", status.message(), status.code()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    };
    let created_at = snapshot.creation_time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
    let created = Created {
        id: snapshot.snapshot_id,
        volume: snapshot.source_volume_id,
        created_at,
        size_bytes: snapshot.size_bytes,
        ready: snapshot.ready_to_use,
    };
    output.print(&created, |created| {
        properties([
            ("id", created.id.clone()),
            ("volume", created.volume.clone()),
            ("created", created.created_at.map_or("unknown".into(), |time| time.to_string())),
            ("size", bytes(created.size_bytes.try_into().unwrap_or(0))),
            ("ready", if created.ready { "yes" } else { "not yet: the offload is under way" }.to_owned()),
        ])
    })
}
