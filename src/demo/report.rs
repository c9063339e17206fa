//! What a demo found: the table at its end, or the one JSON object.

use std::time::Duration;

use comfy_table::Table;
use serde::Serialize;
use varve_repository::record::snapshot::{Method, Root};

use super::{change::Changes, in_millis};
use crate::{
    command::snapshot::pause,
    output::properties,
    quantity::{bytes, millis},
};

/// Differences that are shown for a snapshot that is not identical.
pub(super) const SHOWN: usize = 20;

/// What a demo found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether everything restored is what was snapshotted.
    pub(super) identical: bool,
    /// File system of both pools.
    pub(super) pool_filesystem: &'static str,
    /// Files, folders and links in the volume at the first snapshot.
    pub(super) entries: usize,
    /// Bytes in the files that filled it.
    pub(super) data_bytes: u64,
    /// What was changed between the snapshots.
    pub(super) changes: Changes,
    /// The snapshots, in their order.
    pub(super) snapshots: Vec<SnapshotReport>,
    /// What the writer did while the second snapshot was made.
    pub(super) writer: WriterReport,
    /// Time until both volumes were restored, in milliseconds.
    pub(super) restore_ms: f64,
}

/// One snapshot: what it took to make, and whether it came back.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotReport {
    id: String,
    name: String,
    method: Method,
    logical_bytes: u64,
    allocated_bytes: u64,
    changed_bytes: u64,
    stored_bytes: u64,
    uploaded_bytes: u64,
    pause_ms: f64,
    cut_ms: f64,
    offload_ms: u64,
    restore_ms: f64,
    compared: usize,
    identical: bool,
    differences: Vec<String>,
}

/// What the writer saw of the second snapshot.
#[derive(Debug, Serialize)]
pub(super) struct WriterReport {
    /// Records that were durable when the snapshot was asked for.
    pub(super) synced_before: u64,
    /// Records in the restored log.
    pub(super) restored: u64,
    /// Records that were begun when the snapshot was answered.
    pub(super) written_after: u64,
    /// The longest that one write or sync took meanwhile, in milliseconds.
    pub(super) longest_stall_ms: f64,
}

/// What came back of a snapshot.
#[derive(Debug)]
pub(super) struct Comparison {
    /// How many files, folders and links were compared.
    pub(super) compared: usize,
    /// In what they differ; nothing where they are identical.
    pub(super) differences: Vec<String>,
    /// How long the restore took.
    pub(super) restore: Duration,
}

impl SnapshotReport {
    /// Puts together what the repository's root says and what was seen from outside.
    pub(super) fn new(root: &Root, cut: Duration, comparison: Comparison) -> Self {
        let mut differences = comparison.differences;
        let identical = differences.is_empty();
        differences.truncate(SHOWN);
        Self {
            id: root.description.id.to_string(),
            name: root.description.name.clone(),
            method: root.method,
            logical_bytes: root.description.capacity_bytes,
            allocated_bytes: root.statistics.data_bytes,
            changed_bytes: root.statistics.changed_bytes,
            stored_bytes: root.statistics.stored_bytes,
            uploaded_bytes: root.statistics.uploaded_bytes,
            pause_ms: in_millis(pause(root)),
            cut_ms: in_millis(cut),
            offload_ms: root.statistics.offload_millis,
            restore_ms: in_millis(comparison.restore),
            compared: comparison.compared,
            identical,
            differences,
        }
    }

    /// Whether everything restored is what was snapshotted.
    pub(super) fn identical(&self) -> bool {
        self.identical
    }
}

/// Makes the table for people: one column a snapshot.
pub(super) fn table(report: &Report) -> Table {
    let mut table = properties::<0>([]);
    let headings = report.snapshots.iter().map(|snapshot| snapshot.name.clone());
    table.set_header(std::iter::once(String::new()).chain(headings));
    let mut row = |name: &str, value: &dyn Fn(&SnapshotReport) -> String| {
        table.add_row(std::iter::once(name.to_owned()).chain(report.snapshots.iter().map(value)));
    };
    row("logical", &|snapshot| bytes(snapshot.logical_bytes));
    row("allocated", &|snapshot| bytes(snapshot.allocated_bytes));
    row("changed", &|snapshot| bytes(snapshot.changed_bytes));
    row("uploaded", &|snapshot| bytes(snapshot.uploaded_bytes));
    row("pause of the writer", &|snapshot| millis(snapshot.pause_ms));
    row("cut", &|snapshot| millis(snapshot.cut_ms));
    row("offload", &|snapshot| format!("{} ms", snapshot.offload_ms));
    row("restore", &|snapshot| millis(snapshot.restore_ms));
    row("compared", &|snapshot| format!("{} files", snapshot.compared));
    row("identical", &|snapshot| if snapshot.identical { "yes" } else { "NO" }.to_owned());
    let columns = report.snapshots.len();
    crate::output::numbers(table, 1..=columns)
}
