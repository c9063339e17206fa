//! `varve volume list` and `varve volume show`.

use anyhow::bail;
use comfy_table::Table;
use serde::Serialize;
use varve_repository::{
    id::VolumeId,
    record::volume::{Publication, Source, VolumeRecord},
};

use super::{id, snapshot};
use crate::{
    arguments::Volume,
    output::{listing, numbers, properties},
    quantity::bytes,
    repository,
};

/// A volume and what the repository holds of it.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    volume: VolumeRecord,
    snapshots: Vec<snapshot::Row>,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, and the repository's.
pub(crate) async fn run(command: Volume) -> anyhow::Result<()> {
    match command {
        Volume::List { access, answer } => {
            let volumes = repository::open(&access).await?.volumes().await?;
            answer.output.print(&volumes, |volumes| list(volumes))
        }
        Volume::Show { id: text, access, answer } => {
            let id: VolumeId = id(&text)?;
            let repository = repository::open(&access).await?;
            let Some(volume) = repository.volume(id).await? else {
                bail!("no volume {id} in this repository: `varve volume list` names those that are there");
            };
            let readable = repository.readable_snapshots().await?;
            snapshot::warn_of_damage(&readable);
            let snapshots = snapshot::rows(&readable.roots, Some(id));
            answer.output.print(&Shown { volume: volume.value, snapshots }, show)
        }
    }
}

fn list(volumes: &[VolumeRecord]) -> Table {
    let mut table = listing(["ID", "NAME", "SIZE", "KIND", "NODE", "CREATED"]);
    for volume in volumes {
        table.add_row([
            volume.id.to_string(),
            volume.name.clone(),
            bytes(volume.capacity_bytes),
            volume.presentation.as_str().to_owned(),
            volume.home_node.clone(),
            snapshot::moment(volume.created_at),
        ]);
    }
    numbers(table, [2])
}

fn show(shown: &Shown) -> Table {
    let Shown { volume, snapshots } = shown;
    let mut table = properties([
        ("id", volume.id.to_string()),
        ("name", volume.name.clone()),
        ("size", bytes(volume.capacity_bytes)),
        ("kind", volume.presentation.as_str().to_owned()),
        ("node", volume.home_node.clone()),
        ("published to", volume.published.as_ref().map_or("no node".into(), publication)),
        ("created", snapshot::moment(volume.created_at)),
        ("incarnation", volume.incarnation.to_string()),
        ("filled with", source(volume.source)),
        ("compression", volume.offload.compression.map_or("default".into(), |level| format!("zstd level {level}"))),
        ("bandwidth", volume.offload.bandwidth.map_or("no limit".into(), |most| format!("{} a second", bytes(most)))),
    ]);
    for (name, value) in &volume.parameters {
        table.add_row([format!("parameter {name}"), value.clone()]);
    }
    for snapshot in snapshots {
        table.add_row(["snapshot".to_owned(), format!("{}  {}  {}", snapshot.id, snapshot.created_at, snapshot.name)]);
    }
    table
}

fn publication(publication: &Publication) -> String {
    let Publication { node, read_only, .. } = publication;
    if *read_only { format!("{node}, read-only") } else { node.clone() }
}

fn source(source: Option<Source>) -> String {
    match source {
        None => "nothing".into(),
        Some(Source::Snapshot(id)) => format!("snapshot {id}"),
        Some(Source::Volume(id)) => format!("volume {id}"),
    }
}
