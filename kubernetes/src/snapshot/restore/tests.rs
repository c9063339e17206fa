//! What a claim is made of, and what another namespace needs.

use serde_json::{Value, json};

use super::*;
use crate::testing::{Server, claim, class, ready_pair, snapshot};

const CLAIMS: &str = "persistentvolumeclaims";

fn order(namespace: &str, claim: &str) -> Order {
    Order {
        namespace: namespace.to_owned(),
        claim: claim.to_owned(),
        from_namespace: "mesh".to_owned(),
        from: "monday".to_owned(),
        ..Order::default()
    }
}

fn origin() -> Origin {
    Origin { bytes: 1 << 30, mode: Some("Block".to_owned()), handle: "snap-1".to_owned(), durability: Some("bucket") }
}

fn source() -> PersistentVolumeClaim {
    serde_json::from_value(claim("mesh", "data")).unwrap()
}

fn asked(spec: &PersistentVolumeClaimSpec) -> Value {
    serde_json::to_value(spec).unwrap()
}

#[test]
fn a_claim_is_as_the_one_that_the_snapshot_is_of() {
    let spec = specify(&order("mesh", "restored"), &origin(), Some(&source()), &[]).unwrap();
    let expected = json!({ "storageClassName": "varve-xfs", "accessModes": ["ReadWriteOncePod"], "volumeMode": "Block",
        "resources": { "requests": { "storage": "2Gi" } } });
    assert_eq!(asked(&spec), expected, "the size is the claim's, which has grown; the mode is the snapshot's");
    let larger = Origin { bytes: 3 << 30, mode: None, ..origin() };
    let spec = specify(&order("mesh", "restored"), &larger, Some(&source()), &[]).unwrap();
    assert_eq!(asked(&spec)["resources"]["requests"]["storage"], "3Gi");
    assert_eq!(asked(&spec)["volumeMode"], "Filesystem");
}

#[test]
fn what_is_ordered_goes_before_everything() {
    let order = Order {
        bytes: Some(5 << 30),
        class: Some("varve".to_owned()),
        access: vec!["ReadWriteOnce".to_owned()],
        ..order("mesh", "restored")
    };
    let expected = json!({ "storageClassName": "varve", "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
        "resources": { "requests": { "storage": "5Gi" } } });
    assert_eq!(asked(&specify(&order, &origin(), Some(&source()), &[]).unwrap()), expected);
    assert_eq!(asked(&specify(&order, &origin(), None, &[]).unwrap()), expected);
}

#[test]
fn what_nobody_says_is_asked_for() {
    let lost = order("mesh", "restored");
    let refusal = |order: &Order, origin: &Origin, classes: &[&str]| {
        let classes: Vec<_> = classes.iter().map(|class| (*class).to_owned()).collect();
        let error = specify(order, origin, None, &classes).unwrap_err();
        assert!(error.is_usage(), "{error}");
        error.to_string()
    };
    let text = refusal(&lost, &origin(), &["varve", "varve-xfs"]);
    assert!(text.contains("--storage-class") && text.contains("varve, varve-xfs"), "{text}");
    assert!(refusal(&lost, &origin(), &[]).contains("csi.varve.io"));
    let sizeless = Origin { bytes: 0, ..origin() };
    assert!(refusal(&lost, &sizeless, &[]).contains("--size"));
    let small = Order { bytes: Some(1 << 20), ..lost.clone() };
    let text = refusal(&small, &origin(), &[]);
    assert!(text.contains("--size is 1Mi") && text.contains("at least 1Gi"), "{text}");
    let classed = Order { class: Some("varve".to_owned()), ..lost };
    assert_eq!(asked(&specify(&classed, &origin(), None, &[]).unwrap())["accessModes"], json!(["ReadWriteOnce"]));
}

#[test]
fn a_name_elsewhere_says_where_it_is_from() {
    assert_eq!(foreign_name("monday", "mesh"), "monday-from-mesh");
    let long = foreign_name(&"m".repeat(253), "mesh");
    assert!(long.len() == LONGEST_NAME && long.ends_with("m-from-mesh"), "{long}");
}

async fn server() -> Server {
    let server = Server::start().await;
    server.put(CLAIMS, claim("mesh", "data"));
    server.put("volumesnapshotclasses", class("varve", "csi.varve.io", "bucket"));
    for (name, mode) in [("varve", "WaitForFirstConsumer"), ("varve-xfs", "Immediate")] {
        server.put(
            "storageclasses",
            json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": { "name": name }, "provisioner": "csi.varve.io", "volumeBindingMode": mode }),
        );
    }
    ready_pair(&server, "mesh", "monday", "data", "snap-1");
    server
}

#[tokio::test]
async fn a_claim_is_made_beside_the_snapshot() {
    let server = server().await;
    let restored = server.cluster("mesh").restore(&order("mesh", "restored")).await.unwrap();
    let expected = Restored {
        namespace: "mesh".to_owned(),
        claim: "restored".to_owned(),
        snapshot: "monday".to_owned(),
        size: "2Gi".to_owned(),
        class: "varve-xfs".to_owned(),
        at_once: true,
    };
    assert_eq!(restored, expected);
    let made = server.object(CLAIMS, "mesh", "restored").unwrap();
    let from = json!({ "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "monday" });
    assert_eq!(made["spec"]["dataSource"], from);
    assert_eq!(server.written(), ["POST persistentvolumeclaims restored"]);
    let later = Order { class: Some("varve".to_owned()), ..order("mesh", "later") };
    assert!(!server.cluster("mesh").restore(&later).await.unwrap().at_once);
}

#[tokio::test]
async fn a_claim_that_is_there_is_not_touched() {
    let server = server().await;
    let error = server.cluster("mesh").restore(&order("mesh", "data")).await.unwrap_err();
    assert!(error.is_usage(), "{error}");
    for part in ["\"data\"", "\"mesh\"", "not touched", "delete pvc data"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(server.written(), Vec::<String>::new());
}

#[tokio::test]
async fn another_namespace_gets_objects_of_its_own() {
    let server = server().await;
    let cluster = server.cluster("other");
    let restored = cluster.restore(&order("other", "restored")).await.unwrap();
    assert_eq!(restored.snapshot, "monday-from-mesh");
    let content = server.object("volumesnapshotcontents", "", "snap-1-other").unwrap();
    assert_eq!(content["spec"]["deletionPolicy"], "Retain");
    assert_eq!(content["spec"]["source"], json!({ "snapshotHandle": "snap-1" }));
    assert_eq!(content["spec"]["volumeSnapshotRef"]["namespace"], "other");
    assert_eq!(content["spec"]["volumeSnapshotRef"]["name"], "monday-from-mesh");
    assert_eq!(content["metadata"]["labels"]["varve.io/durability"], "bucket");
    let made = server.object("volumesnapshots", "other", "monday-from-mesh").unwrap();
    assert_eq!(made["spec"], json!({ "source": { "volumeSnapshotContentName": "snap-1-other" } }));
    let claim = server.object(CLAIMS, "other", "restored").unwrap();
    assert_eq!(claim["spec"]["dataSource"]["name"], "monday-from-mesh");
    assert_eq!(claim["spec"]["storageClassName"], "varve-xfs", "as the claim in the snapshot's namespace");

    // A second claim is made from the same objects.
    let before = server.written().len();
    cluster.restore(&order("other", "again")).await.unwrap();
    let written = server.written();
    assert_eq!(written[before..], ["POST persistentvolumeclaims again"]);
    assert_eq!(server.names("volumesnapshots"), ["mesh/monday", "other/monday-from-mesh"]);
}

#[tokio::test]
async fn a_snapshot_that_was_deleted_elsewhere_comes_back() {
    let server = server().await;
    let cluster = server.cluster("other");
    cluster.restore(&order("other", "first")).await.unwrap();
    // As the snapshot controller does, and then the user.
    let noted = json!({ "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted": "yes" });
    let bound =
        json!({ "metadata": { "annotations": noted }, "spec": { "volumeSnapshotRef": { "uid": "of-the-first" } } });
    server.change("volumesnapshotcontents", "", "snap-1-other", &bound);
    server.remove("volumesnapshots", "other", "monday-from-mesh");
    cluster.restore(&order("other", "second")).await.unwrap();
    let content = server.object("volumesnapshotcontents", "", "snap-1-other").unwrap();
    assert_eq!(content["spec"]["volumeSnapshotRef"].get("uid"), None, "it takes the new one");
    assert_eq!(content["metadata"]["annotations"], json!({}));
    assert!(server.object("volumesnapshots", "other", "monday-from-mesh").is_some());
}

#[tokio::test]
async fn what_cannot_be_restored_says_why() {
    let server = server().await;
    let mut pending = snapshot("mesh", "tuesday", "data");
    pending["status"] = json!({ "readyToUse": false, "error": { "message": "no key" } });
    server.put("volumesnapshots", pending);
    let cluster = server.cluster("mesh");
    let error = cluster.restore(&Order { from: "tuesday".to_owned(), ..order("mesh", "restored") }).await.unwrap_err();
    assert!(error.to_string().contains("no key") && error.to_string().contains("kubectl wait"), "{error}");
    let error = cluster.restore(&Order { from: "sunday".to_owned(), ..order("mesh", "restored") }).await.unwrap_err();
    assert!(error.to_string().contains("\"sunday\"") && !error.is_usage(), "{error}");
    // A name that is something else's is not taken over.
    server.put("volumesnapshots", snapshot("other", "monday-from-mesh", "data"));
    let error = server.cluster("other").restore(&order("other", "restored")).await.unwrap_err();
    assert!(error.to_string().contains("monday-from-mesh"), "{error}");
    assert_eq!(server.names(CLAIMS), ["mesh/data"]);
    assert_eq!(server.written(), Vec::<String>::new(), "nothing is made halfway");
}

#[tokio::test]
async fn a_wait_ends_with_the_volume_or_with_what_is_told() {
    let server = server().await;
    let cluster = server.cluster("mesh");
    let restored = cluster.restore(&order("mesh", "restored")).await.unwrap();
    server.put(
        "events",
        json!({ "apiVersion": "v1", "kind": "Event", "metadata": { "namespace": "mesh", "name": "1" },
        "involvedObject": { "kind": "PersistentVolumeClaim", "name": "restored" }, "message": "no node has room" }),
    );
    let error = cluster.wait_until_bound(&restored, Duration::from_millis(50), |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("no node has room"), "{error}");
    let waiting = cluster.wait_until_bound(&restored, Duration::from_secs(60), |_| {});
    let (ended, ()) = tokio::join!(waiting, async {
        server.change(CLAIMS, "mesh", "restored", &json!({ "status": { "phase": "Bound" } }));
    });
    ended.unwrap();
}
