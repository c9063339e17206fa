//! Which snapshots there are, and what is said of each.

use serde_json::json;

use super::*;
use crate::testing::{Server, class, content, ready_pair, snapshot, volume};

async fn rows(cluster: &Cluster, namespace: Option<&str>, claim: Option<&str>) -> Vec<(String, State, Place)> {
    let listing = cluster.snapshots(namespace, claim).await.unwrap();
    listing.snapshots.into_iter().map(|one| (format!("{}/{}", one.namespace, one.name), one.state, one.place)).collect()
}

#[tokio::test]
async fn each_says_how_far_it_is_and_where() {
    let server = Server::start().await;
    let cluster = server.cluster("mesh");
    server.put("volumesnapshotclasses", class("varve", "csi.varve.io", "bucket"));
    server.put("volumesnapshotclasses", class("varve-node", "csi.varve.io", "node"));
    server.put("volumesnapshotclasses", class("other", "csi.example.com", "bucket"));
    server.put("persistentvolumes", volume("pvc-1", "vol-1", "node-1"));
    ready_pair(&server, "mesh", "ready", "data", "snap-1");
    server.put("volumesnapshots", snapshot("mesh", "pending", "data"));
    let mut failed = snapshot("mesh", "failed", "log");
    failed["status"] = json!({ "readyToUse": false, "error": { "message": "no key" } });
    server.put("volumesnapshots", failed);
    let mut foreign = snapshot("mesh", "foreign", "data");
    foreign["spec"]["volumeSnapshotClassName"] = json!("other");
    server.put("volumesnapshots", foreign);
    let mut kept = snapshot("other", "kept", "data");
    kept["spec"]["volumeSnapshotClassName"] = json!("varve-node");
    kept["status"] = json!({ "readyToUse": true, "boundVolumeSnapshotContentName": "snapcontent-kept" });
    server.put("volumesnapshots", kept);
    server.put("volumesnapshotcontents", content("snapcontent-kept", ("other", "kept"), "snap-2", "vol-1"));

    let row = |name: &str, state, place| (name.to_owned(), state, place);
    let on_node = Place::Node { name: Some("node-1".to_owned()) };
    let (ready, pending) =
        (row("mesh/ready", State::Ready, Place::Bucket), row("mesh/pending", State::Pending, Place::Bucket));
    let failed = row("mesh/failed", State::Failed, Place::Bucket);
    let kept = row("other/kept", State::Ready, on_node);
    assert_eq!(rows(&cluster, Some("mesh"), None).await, [pending.clone(), ready.clone(), failed.clone()]);
    assert_eq!(rows(&cluster, Some("mesh"), Some("data")).await, [pending.clone(), ready.clone()]);
    assert_eq!(rows(&cluster, None, None).await, [pending, ready, failed, kept]);

    let listing = cluster.snapshots(Some("mesh"), None).await.unwrap();
    assert_eq!(listing.unread, Vec::<String>::new());
    let ready = listing.snapshots.iter().find(|one| one.name == "ready").unwrap();
    assert_eq!((ready.size_bytes, ready.handle.as_deref()), (Some(1 << 30), Some("snap-1")));
    assert_eq!(ready.taken_at, Some("2026-11-22T01:00:01Z".parse().unwrap()), "the instant of the cut");
    let failed = listing.snapshots.iter().find(|one| one.name == "failed").unwrap();
    assert_eq!((failed.error.as_deref(), failed.claim.as_deref()), (Some("no key"), Some("log")));
}

#[tokio::test]
async fn who_may_see_snapshots_alone_sees_them_and_is_told_what_is_missing() {
    let server = Server::start().await;
    ready_pair(&server, "mesh", "ready", "data", "snap-1");
    for plural in ["volumesnapshotcontents", "volumesnapshotclasses", "persistentvolumes"] {
        server.forbid(plural);
    }
    let listing = server.cluster("mesh").snapshots(Some("mesh"), None).await.unwrap();
    let [snapshot] = listing.snapshots.as_slice() else { panic!("{listing:?}") };
    assert_eq!((snapshot.state, &snapshot.place, snapshot.size_bytes), (State::Ready, &Place::Unknown, Some(1 << 30)));
    assert_eq!(listing.unread.len(), 3);
    assert!(listing.unread[0].contains("volumesnapshotcontents is forbidden"), "{:?}", listing.unread);
    server.forbid("volumesnapshots");
    let error = server.cluster("mesh").snapshots(None, None).await.unwrap_err();
    assert!(error.is_forbidden(), "{error}");
}
