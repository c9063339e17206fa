//! `kubectl varve snapshots`: which snapshots there are.

use comfy_table::Table;
use jiff::Timestamp;
use varve_kubernetes::{
    cluster::Cluster,
    snapshot::{Listing, Place, Snapshot, State},
};

use super::{
    now,
    output::{Form, age, text},
    warn_of_unread,
};
use crate::{command::snapshot::moment, output::numbers, quantity::bytes};

/// Runs the command.
///
/// # Errors
/// The cluster's.
pub(super) async fn run(cluster: &Cluster, claim: Option<&str>, all: bool, form: Form) -> anyhow::Result<()> {
    let namespace = (!all).then(|| cluster.namespace());
    let listing = cluster.snapshots(namespace, claim).await?;
    warn_of_unread(&listing.unread);
    form.print(&listing, |listing, wide| show(listing, all, wide, now()))
}

fn show(listing: &Listing, all: bool, wide: bool, now: Timestamp) -> String {
    let headings = ["NAMESPACE", "NAME", "CLAIM", "READY", "AGE", "SIZE", "CLASS", "WHERE", "TAKEN", "HANDLE", "ERROR"];
    let shown = |column: usize| match column {
        0 => all,
        1..8 => true,
        _ => wide,
    };
    let select =
        |row: [String; 11]| row.into_iter().enumerate().filter(|(column, _)| shown(*column)).map(|(_, cell)| cell);
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(select(headings.map(str::to_owned)));
    for snapshot in &listing.snapshots {
        table.add_row(select(row(snapshot, now)));
    }
    // Ages and sizes.
    let first = if all { 4 } else { 3 };
    text(&numbers(table, first..first + 2))
}

fn row(snapshot: &Snapshot, now: Timestamp) -> [String; 11] {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        snapshot.namespace.clone(),
        snapshot.name.clone(),
        or_none(&snapshot.claim),
        ready(snapshot.state).to_owned(),
        age(snapshot.taken_at, now),
        snapshot.size_bytes.map_or("?".to_owned(), bytes),
        or_none(&snapshot.class),
        place(&snapshot.place),
        snapshot.taken_at.map_or("?".to_owned(), moment),
        or_none(&snapshot.handle),
        or_none(&snapshot.error),
    ]
}

/// Says in a word how far a snapshot has come.
pub(super) fn ready(state: State) -> &'static str {
    match state {
        State::Ready => "yes",
        State::Pending => "not yet",
        State::Failed => "failed",
    }
}

/// Says where a snapshot is.
pub(super) fn place(place: &Place) -> String {
    match place {
        Place::Bucket => "bucket".to_owned(),
        Place::Node { name: Some(name) } => name.clone(),
        Place::Node { name: None } => "one node".to_owned(),
        Place::Unknown => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_listing_has_what_is_asked_for() {
        let now: Timestamp = "2026-11-22T02:00:00Z".parse().unwrap();
        let ready = Snapshot {
            namespace: "mesh".to_owned(),
            name: "before-upgrade".to_owned(),
            claim: Some("data".to_owned()),
            class: Some("varve".to_owned()),
            state: State::Ready,
            error: None,
            taken_at: Some(now - SignedDuration::from_mins(5)),
            size_bytes: Some(10 << 30),
            place: Place::Bucket,
            handle: Some("snap-01".to_owned()),
        };
        let failed = Snapshot {
            name: "late".to_owned(),
            state: State::Failed,
            error: Some("no key".to_owned()),
            size_bytes: None,
            place: Place::Node { name: Some("node-1".to_owned()) },
            handle: None,
            ..ready.clone()
        };
        let listing = Listing { snapshots: vec![ready, failed], unread: Vec::new() };
        let expected = [
            " NAME            CLAIM  READY   AGE      SIZE  CLASS  WHERE",
            " before-upgrade  data   yes      5m  10.0 GiB  varve  bucket",
            " late            data   failed   5m         ?  varve  node-1",
        ];
        assert_eq!(show(&listing, false, false, now), expected.join("\n"));
        let wide = show(&listing, true, true, now);
        for part in ["NAMESPACE", "mesh", "2026-11-22T01:55:00Z", "snap-01", "no key"] {
            assert!(wide.contains(part), "{wide}");
        }
    }
}
