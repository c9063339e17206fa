//! What is gathered, and what is made of it.

use serde_json::json;

use crate::testing::{Server, claim, class, ready_pair, volume};

fn node(name: &str) -> serde_json::Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": { "name": name, "labels": { "topology.varve.io/node": name } } })
}

async fn server(durability: &str) -> Server {
    let server = Server::start().await;
    server.put("volumesnapshotclasses", class("varve", "csi.varve.io", durability));
    server.put("persistentvolumes", volume("pvc-1", "vol-1", "node-1"));
    server.put("nodes", node("node-2"));
    ready_pair(&server, "mesh", "monday", "data", "snap-1");
    server
}

#[tokio::test]
async fn a_snapshot_is_told_of_with_all_that_is_around_it() {
    let server = server("bucket").await;
    let mut restored = claim("mesh", "restored");
    restored["spec"]["dataSource"] = json!({ "kind": "VolumeSnapshot", "name": "monday" });
    server.put("persistentvolumeclaims", restored);
    for (name, second, message) in [("2", 2, "it is ready"), ("1", 1, "it is cut"), ("3", 3, "it is cut")] {
        server.put(
            "events",
            json!({ "apiVersion": "v1", "kind": "Event", "message": message,
            "metadata": { "namespace": "mesh", "name": name }, "lastTimestamp": format!("2026-11-22T01:00:0{second}Z"),
            "involvedObject": { "kind": "VolumeSnapshot", "name": "monday" } }),
        );
    }
    let explained = server.cluster("mesh").explain("mesh", "monday").await.unwrap();
    assert_eq!((explained.restorable, explained.condition.as_deref()), (true, None), "whatever became of its node");
    assert_eq!((explained.claim_is_there, explained.volume.as_deref()), (Some(false), Some("vol-1")));
    assert_eq!((explained.node.as_deref(), explained.content.as_deref()), (Some("node-1"), Some("snapcontent-monday")));
    assert_eq!(explained.deletion_policy.as_deref(), Some("Delete"));
    assert_eq!(explained.claims_from_it, ["restored"]);
    assert_eq!(explained.events, ["it is ready", "it is cut"], "the newest last, and each once");
    assert_eq!(explained.unread, Vec::<String>::new());
}

#[tokio::test]
async fn what_a_lost_node_alone_had_is_not_restorable() {
    let server = server("node").await;
    let explained = server.cluster("mesh").explain("mesh", "monday").await.unwrap();
    assert!(!explained.restorable && explained.condition.as_ref().unwrap().contains("is gone"), "{explained:?}");
    server.put("nodes", node("node-1"));
    let explained = server.cluster("mesh").explain("mesh", "monday").await.unwrap();
    assert!(explained.restorable && explained.condition.as_ref().unwrap().contains("only on node"), "{explained:?}");
}

#[tokio::test]
async fn what_went_wrong_is_why_it_is_not_restorable() {
    let server = server("bucket").await;
    let error = json!({ "status": { "readyToUse": false, "error": { "message": "no key" } } });
    server.change("volumesnapshots", "mesh", "monday", &error);
    let explained = server.cluster("mesh").explain("mesh", "monday").await.unwrap();
    assert!(!explained.restorable && explained.condition.as_ref().unwrap().contains("no key"), "{explained:?}");
    let error = server.cluster("mesh").explain("mesh", "tuesday").await.unwrap_err();
    assert!(error.to_string().contains("\"tuesday\"") && !error.is_usage(), "{error}");
}

#[tokio::test]
async fn what_may_not_be_read_is_said() {
    let server = server("bucket").await;
    for plural in ["nodes", "persistentvolumes", "persistentvolumeclaims", "events"] {
        server.forbid(plural);
    }
    let explained = server.cluster("mesh").explain("mesh", "monday").await.unwrap();
    assert_eq!((explained.claim_is_there, explained.node), (None, None));
    assert_eq!(explained.unread.len(), 3, "{:?}", explained.unread);
}
