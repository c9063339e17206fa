//! What is counted, and what needs a person.

use serde_json::{Value, json};

use super::*;
use crate::testing::{Server, class, ready_pair, snapshot, volume};

fn csi_node(name: &str, drivers: &[&str]) -> Value {
    let drivers: Vec<_> = drivers.iter().map(|driver| json!({ "name": driver, "nodeID": name })).collect();
    json!({ "apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": { "name": name },
        "spec": { "drivers": drivers } })
}

fn pod(name: &str, component: &str, node: &str, ready: bool) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "varve-system", "name": name,
            "labels": { "app.kubernetes.io/name": "varve", "app.kubernetes.io/component": component } },
        "spec": { "nodeName": node, "containers": [] },
        "status": { "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] } })
}

fn room(node: &str, class: &str, capacity: &str) -> Value {
    json!({ "apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity", "storageClassName": class, "capacity": capacity,
        "metadata": { "namespace": "varve-system", "name": format!("{node}-{class}"),
            "labels": { "csi.storage.k8s.io/drivername": "csi.varve.io" } },
        "nodeTopology": { "matchLabels": { "topology.varve.io/node": node } } })
}

fn labelled(name: &str) -> Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": { "name": name, "labels": { "topology.varve.io/node": name } } })
}

async fn server() -> Server {
    let server = Server::start().await;
    server.put("volumesnapshotclasses", class("varve", "csi.varve.io", "bucket"));
    for name in ["node-1", "node-2"] {
        server.put("nodes", labelled(name));
        server.put("csinodes", csi_node(name, &["csi.example.com", "csi.varve.io"]));
        server.put("pods", pod(&format!("varve-{name}"), "node", name, true));
    }
    server.put("csinodes", csi_node("node-3", &["csi.example.com"]));
    server.put("pods", pod("varve-controller", "controller", "node-1", true));
    server.put("csistoragecapacities", room("node-1", "varve", "10Gi"));
    server.put("csistoragecapacities", room("node-1", "varve-xfs", "12Gi"));
    server.put("persistentvolumes", volume("pvc-1", "vol-1", "node-1"));
    server.put("persistentvolumes", volume("pvc-2", "vol-2", "node-1"));
    let mut foreign = volume("pvc-3", "vol-3", "node-1");
    foreign["spec"]["csi"]["driver"] = json!("csi.example.com");
    server.put("persistentvolumes", foreign);
    ready_pair(&server, "mesh", "monday", "data", "snap-1");
    server.put("volumesnapshots", snapshot("mesh", "tuesday", "data"));
    server
}

#[tokio::test]
async fn everything_of_the_drivers_is_counted_and_nothing_else() {
    let overview = server().await.cluster("mesh").overview().await.unwrap();
    let node = |name: &str, room_bytes, volumes: usize| NodeState {
        name: name.to_owned(),
        known: true,
        registered: true,
        pod_ready: Some(true),
        room_bytes,
        volumes,
        volume_bytes: (volumes as u64) << 30,
    };
    let expected = Overview {
        nodes: vec![node("node-1", Some(12 << 30), 2), node("node-2", None, 0)],
        controllers: 1,
        controllers_ready: 1,
        volumes: 2,
        volume_bytes: 2 << 30,
        snapshots: Counts { ready: 1, pending: 1, failed: 0 },
        needs_a_person: Vec::new(),
        unread: Vec::new(),
    };
    assert_eq!(overview, expected);
}

#[tokio::test]
async fn what_does_not_come_right_by_itself_is_said() {
    let server = server().await;
    let needs = async || server.cluster("mesh").overview().await.unwrap().needs_a_person;
    server.put("pods", pod("varve-controller", "controller", "node-1", false));
    server.put("pods", pod("varve-node-1", "node", "node-1", false));
    server.put("csinodes", csi_node("node-2", &[]));
    server.put("csistoragecapacities", room("node-2", "varve", "0"));
    server.put("persistentvolumes", volume("pvc-4", "vol-4", "node-4"));
    let failed = json!({ "status": { "phase": "Failed", "message": "it is in use" } });
    server.change("persistentvolumes", "", "pvc-2", &failed);
    let error = json!({ "status": { "readyToUse": false, "error": { "message": "no key" } } });
    server.change("volumesnapshots", "mesh", "tuesday", &error);
    let expected = [
        ["controller", "of 1"],
        ["node node-1", "not ready"],
        ["kubelet of node node-2", "does not know"],
        ["node node-2", "no room"],
        ["node node-4", "restore them"],
        ["pvc-2", "it is in use"],
        ["mesh/tuesday", "no key"],
    ];
    let found = needs().await;
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (text, parts) in found.iter().zip(expected) {
        assert!(parts.iter().all(|part| text.contains(part)), "{text}: {parts:?}");
    }
    server.remove("pods", "varve-system", "varve-node-2");
    assert!(needs().await.iter().any(|text| text == "node node-2 has no pod of the driver"));
}

#[tokio::test]
async fn what_may_not_be_read_is_said() {
    let server = server().await;
    for plural in ["nodes", "csinodes", "persistentvolumes", "volumesnapshotclasses"] {
        server.forbid(plural);
    }
    let overview = server.cluster("mesh").overview().await.unwrap();
    assert_eq!(overview.unread.len(), 4, "{:?}", overview.unread);
    assert_eq!(overview.controllers_ready, 1);
}
