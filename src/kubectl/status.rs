//! `kubectl varve status`: how the driver stands, at a glance.

use varve_kubernetes::{
    cluster::Cluster,
    overview::{NodeState, Overview},
};

use super::{
    output::{Form, text},
    warn_of_unread,
};
use crate::{
    output::{listing, numbers, properties},
    quantity::bytes,
};

/// Runs the command.
///
/// # Errors
/// The cluster's.
pub(super) async fn run(cluster: &Cluster, form: Form) -> anyhow::Result<()> {
    let overview = cluster.overview().await?;
    warn_of_unread(&overview.unread);
    form.print(&overview, |overview, _| show(overview))
}

fn show(overview: &Overview) -> String {
    let mut nodes = listing(["NODE", "DRIVER", "ROOM", "VOLUMES", "SIZE"]);
    for node in &overview.nodes {
        nodes.add_row([
            node.name.clone(),
            state(node).to_owned(),
            node.room_bytes.map_or("?".to_owned(), bytes),
            node.volumes.to_string(),
            bytes(node.volume_bytes),
        ]);
    }
    let counts = overview.snapshots;
    let sums = properties([
        ("controller", format!("{} of {} pods ready", overview.controllers_ready, overview.controllers)),
        ("volumes", format!("{}, {}", overview.volumes, bytes(overview.volume_bytes))),
        ("snapshots", format!("{} ready, {} under way, {} failed", counts.ready, counts.pending, counts.failed)),
    ]);
    let needs = match overview.needs_a_person.as_slice() {
        [] => "nothing needs a person".to_owned(),
        needs => format!("needs a person:\n  {}", needs.join("\n  ")),
    };
    format!("{}\n\n{}\n\n{needs}", text(&numbers(nodes, 2..5)), text(&sums))
}

fn state(node: &NodeState) -> &'static str {
    match (node.pod_ready, node.registered) {
        (Some(true), true) => "ready",
        (Some(true), false) => "not registered",
        (Some(false), _) => "not ready",
        (None, _) => "no pod",
    }
}

#[cfg(test)]
mod tests {
    use varve_kubernetes::overview::Counts;

    use super::*;

    #[test]
    fn a_person_sees_nodes_sums_and_what_is_to_be_done() {
        let node = |name: &str, pod_ready, registered| NodeState {
            name: name.to_owned(),
            known: true,
            registered,
            pod_ready,
            room_bytes: Some(20 << 30),
            volumes: 3,
            volume_bytes: 5 << 30,
        };
        let overview = Overview {
            nodes: vec![
                node("node-1", Some(true), true),
                node("node-2", Some(false), true),
                node("node-3", None, false),
            ],
            controllers: 2,
            controllers_ready: 1,
            volumes: 9,
            volume_bytes: 15 << 30,
            snapshots: Counts { ready: 12, pending: 1, failed: 2 },
            needs_a_person: vec!["node node-3 has no pod of the driver".to_owned()],
            unread: Vec::new(),
        };
        let expected = [
            " NODE    DRIVER         ROOM  VOLUMES     SIZE",
            " node-1  ready      20.0 GiB        3  5.0 GiB",
            " node-2  not ready  20.0 GiB        3  5.0 GiB",
            " node-3  no pod     20.0 GiB        3  5.0 GiB",
            "",
            " controller  1 of 2 pods ready",
            " volumes     9, 15.0 GiB",
            " snapshots   12 ready, 1 under way, 2 failed",
            "",
            "needs a person:",
            "  node node-3 has no pod of the driver",
        ];
        assert_eq!(show(&overview), expected.join("\n"));
        let well = Overview { needs_a_person: Vec::new(), ..overview };
        assert!(show(&well).ends_with("nothing needs a person"), "{}", show(&well));
    }
}
