//! `varve snapshot list`, `show`, `create`, `delete` and `restore`.

use std::{sync::Arc, time::Duration};

use anyhow::{anyhow, bail};
use comfy_table::Table;
use jiff::{Timestamp, Unit};
use serde::Serialize;
use varve_repository::{
    Deletion, Readable, Repository, SnapshotState,
    id::{SnapshotId, VolumeId},
    record::snapshot::{Method, Root},
};

use super::{id, image, request};
use crate::{
    arguments::Snapshot,
    output::{listing, numbers, properties},
    quantity::{bytes, millis},
    repository,
};

/// A snapshot as a listing shows it.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) id: SnapshotId,
    pub(crate) name: String,
    volume: VolumeId,
    volume_name: String,
    pub(crate) created_at: Timestamp,
    capacity_bytes: u64,
    data_bytes: u64,
    changed_bytes: u64,
    uploaded_bytes: u64,
    method: Method,
}

/// What a deletion did.
#[derive(Serialize)]
struct Deleted {
    id: SnapshotId,
    deleted: bool,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, the driver's for `create`, and the repository's.
pub(crate) async fn run(command: Snapshot) -> anyhow::Result<()> {
    match command {
        Snapshot::List { volume, access, answer } => {
            let volume = volume.as_deref().map(id::<VolumeId>).transpose()?;
            let readable = repository::open(&access).await?.readable_snapshots().await?;
            warn_of_damage(&readable);
            answer.output.print(&rows(&readable.roots, volume), |rows| list(rows))
        }
        Snapshot::Show { id: text, access, answer } => {
            let id = id(&text)?;
            let repository = repository::open(&access).await?;
            answer.output.print(&*committed(&repository, id).await?, show)
        }
        Snapshot::Create { volume, name, endpoint, wait, answer } => {
            let volume: VolumeId = id(&volume)?;
            request::create(&endpoint, volume, name, wait, answer.output).await
        }
        Snapshot::Delete { id: text, access, answer } => {
            let id: SnapshotId = id(&text)?;
            let repository = repository::open(&access).await?;
            // A tombstone would stand in the way of an offload under way; only what is committed is deleted here.
            committed(&repository, id).await?;
            let deleted = match repository.delete_snapshot(id, "deleted").await? {
                Deletion::Deleted(_) => true,
                Deletion::Cancelled | Deletion::AlreadyGone => false,
            };
            answer.output.print(&Deleted { id, deleted }, |_| properties([("deleted", id.to_string())]))
        }
        Snapshot::Restore { id: text, to, keep_going, access, answer } => {
            let id = id(&text)?;
            image::refuse_existing(&to)?;
            let repository = repository::open(&access).await?;
            let root = committed(&repository, id).await?;
            image::restore(&repository, &root, &to, keep_going, answer.output).await
        }
    }
}

/// Says which snapshots cannot be listed, since their roots are damaged.
pub(crate) fn warn_of_damage(readable: &Readable) {
    for damaged in &readable.damaged {
        eprintln!(
            "snapshot {} is left out: its root is damaged: {}; see `varve repository repair`",
            damaged.snapshot, damaged.reason
        );
    }
}

/// Sums up snapshots, oldest first, those of one volume where one is given.
pub(crate) fn rows(roots: &[Arc<Root>], volume: Option<VolumeId>) -> Vec<Row> {
    let mut rows: Vec<_> = roots
        .iter()
        .filter(|root| volume.is_none_or(|volume| root.description.volume == volume))
        .map(|root| Row {
            id: root.description.id,
            name: root.description.name.clone(),
            volume: root.description.volume,
            volume_name: root.description.volume_name.clone(),
            created_at: root.description.created_at,
            capacity_bytes: root.description.capacity_bytes,
            data_bytes: root.statistics.data_bytes,
            changed_bytes: root.statistics.changed_bytes,
            uploaded_bytes: root.statistics.uploaded_bytes,
            method: root.method,
        })
        .collect();
    rows.sort_by_key(|row| (row.created_at, row.id));
    rows
}

/// Writes a moment for people, to the second.
pub(crate) fn moment(moment: Timestamp) -> String {
    moment.round(Unit::Second).unwrap_or(moment).to_string()
}

/// Reads a snapshot that must be committed.
async fn committed(repository: &Repository, id: SnapshotId) -> anyhow::Result<Box<Root>> {
    match repository.snapshot(id).await? {
        SnapshotState::Committed(root) => Ok(root),
        SnapshotState::Gone(tombstone) => {
            bail!("snapshot {id} is gone since {}: {}", moment(tombstone.deleted_at), tombstone.reason)
        }
        SnapshotState::Absent => {
            Err(anyhow!("no snapshot {id} in this repository: `varve snapshot list` names those that are there"))
        }
    }
}

fn list(rows: &[Row]) -> Table {
    let mut table = listing(["ID", "NAME", "VOLUME", "CREATED", "SIZE", "DATA", "CHANGED", "UPLOADED", "METHOD"]);
    for row in rows {
        table.add_row([
            row.id.to_string(),
            row.name.clone(),
            row.volume_name.clone(),
            moment(row.created_at),
            bytes(row.capacity_bytes),
            bytes(row.data_bytes),
            bytes(row.changed_bytes),
            bytes(row.uploaded_bytes),
            method(row.method).to_owned(),
        ]);
    }
    numbers(table, 4..8)
}

fn show(root: &Root) -> Table {
    let Root { description, statistics, .. } = root;
    let mut table = properties([
        ("id", description.id.to_string()),
        ("name", description.name.clone()),
        ("volume", format!("{} ({})", description.volume, description.volume_name)),
        ("created", description.created_at.to_string()),
        ("node", description.node.clone()),
        ("kind", description.presentation.as_str().to_owned()),
        ("size", bytes(description.capacity_bytes)),
        ("data", bytes(statistics.data_bytes)),
        ("method", method(root.method).to_owned()),
        ("base", root.base.map_or("none".into(), |base| base.to_string())),
        ("changed", bytes(statistics.changed_bytes)),
        ("read", bytes(statistics.read_bytes)),
        ("stored", bytes(statistics.stored_bytes)),
        ("deduplicated", bytes(statistics.deduplicated_bytes)),
        ("uploaded", bytes(statistics.uploaded_bytes)),
        ("runs", root.runs.len().to_string()),
        ("frozen", if description.frozen { "yes" } else { "no, it was not mounted" }.to_owned()),
        ("pause", millis(pause(root).as_secs_f64() * 1000.0)),
        ("offload", format!("{} ms", statistics.offload_millis)),
    ]);
    if let Some(repaired_at) = root.repaired_at {
        table.add_row(["repaired".to_owned(), moment(repaired_at)]);
    }
    if let Some(group) = description.group {
        table.add_row(["group".to_owned(), group.to_string()]);
    }
    for (name, value) in &description.parameters {
        table.add_row([format!("parameter {name}"), value.clone()]);
    }
    table
}

/// How long writers were held at the cut.
pub(crate) fn pause(root: &Root) -> Duration {
    Duration::from_nanos(root.description.pause_nanos)
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Full => "full",
        Method::Incremental => "incremental",
        Method::Compared => "compared",
    }
}
