//! `kubectl varve snapshot`: one command for a person, a pipeline and a nightly job.

use jiff::Timestamp;
use serde::Serialize;
use varve_kubernetes::{cluster::Cluster, object::VolumeSnapshot, quantity, snapshot::take::Order};

use super::{arguments::Snapshot, now, output::text};
use crate::{command::snapshot::moment, output::properties, quantity::bytes};

/// What was done.
#[derive(Serialize)]
struct Taken {
    namespace: String,
    name: String,
    claim: String,
    ready: bool,
    taken_at: Option<Timestamp>,
    size_bytes: Option<u64>,
    /// Older ones that were let go.
    deleted: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// The cluster's; and where it is waited for, that the snapshot does not become ready.
pub(super) async fn run(cluster: &Cluster, arguments: Snapshot) -> anyhow::Result<()> {
    let Snapshot { claim, name, class, wait, timeout, keep, series, answer } = arguments;
    let order = Order {
        namespace: cluster.namespace(),
        claim: &claim,
        name: name.as_deref(),
        class: &class,
        series: keep.map(|_| series.0.as_str()),
        now: now(),
    };
    let mut snapshot = cluster.take(&order).await?;
    let name = snapshot.metadata.name.clone().unwrap_or_default();
    let mut deleted = Vec::new();
    if wait {
        let mut said = String::new();
        let news = |reason: &str| {
            if said != reason {
                eprintln!("not yet: {reason}");
                reason.clone_into(&mut said);
            }
        };
        snapshot = cluster.wait_until_ready(order.namespace, &name, timeout.0, news).await?;
        if let Some(keep) = keep {
            deleted = cluster.prune(&order, &name, keep).await?;
        }
    }
    answer.output.print(&taken(&snapshot, name, &claim, order.namespace, deleted), |taken, _| show(taken))
}

fn taken(snapshot: &VolumeSnapshot, name: String, claim: &str, namespace: &str, deleted: Vec<String>) -> Taken {
    let size = snapshot.status.as_ref().and_then(|status| status.restore_size.as_deref());
    Taken {
        namespace: namespace.to_owned(),
        name,
        claim: claim.to_owned(),
        ready: snapshot.is_ready(),
        taken_at: snapshot.taken_at(),
        size_bytes: size.and_then(quantity::bytes),
        deleted,
    }
}

fn show(taken: &Taken) -> String {
    let mut table = properties([
        ("snapshot", taken.name.clone()),
        ("namespace", taken.namespace.clone()),
        ("claim", taken.claim.clone()),
        ("ready", if taken.ready { "yes" } else { "not yet: --wait waits for it" }.to_owned()),
        ("taken", taken.taken_at.map_or("?".to_owned(), moment)),
        ("size", taken.size_bytes.map_or("?".to_owned(), bytes)),
    ]);
    for name in &taken.deleted {
        table.add_row(["deleted", name]);
    }
    text(&table)
}
