//! What users get wrong: an event on the object says what is wrong and how to right it.

use serde_json::json;
use varve_harness::wait_for;

use crate::scene::{Claim, Pod, Scene};

/// A class with a parameter that does not exist.
pub(crate) fn parameters_of_a_class(scene: &Scene<'_>) {
    scene.kubectl.apply(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "misspelt" },
        "provisioner": "csi.varve.io", "parameters": { "compresion": "3" },
    }));
    scene.claim("data", &Claim { class: "misspelt", ..Claim::default() });
    scene.kubectl.wait_for_event("pvc/data", &["compresion", "compression"]);
    scene.kubectl.delete("storageclass/misspelt");
}

/// A claim that is smaller than what it is to be made from.
pub(crate) fn sources_of_a_claim(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
    scene.snapshot("snapshot", "data");
    let source = Some(("VolumeSnapshot", "snapshot"));
    scene.claim("small", &Claim { size: "512Mi", source, ..Claim::default() });
    let pod = Pod { claim: Some("small"), ..Pod::default() };
    scene.kubectl.apply(&pod.object("reader"));
    scene.kubectl.wait_for_event("pvc/small", &["less than", "snapshot"]);
}

/// A clone that is to be where its source is not.
pub(crate) fn clone_elsewhere(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { node: Some("node-1"), claim: Some("data"), ..Pod::default() });
    scene.claim("clone", &Claim { source: Some(("PersistentVolumeClaim", "data")), ..Claim::default() });
    let pod = Pod { node: Some("node-2"), claim: Some("clone"), ..Pod::default() };
    scene.kubectl.apply(&pod.object("reader"));
    scene.kubectl.wait_for_event("pvc/clone", &["node-1", "nodeSelector", "snapshot"]);
}

/// A claim that is in use is not deleted, and says so; it goes once its pod has gone.
pub(crate) fn deletion_in_use(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
    let written = scene.write("writer", "first");
    scene.kubectl.run(["delete", "pvc", "data", "--wait=false"]);
    scene.kubectl.wait_for_field("pvc/data", ".status.phase", "Bound");
    assert!(scene.kubectl.field("pvc/data", ".metadata.finalizers").contains("kubernetes.io/pvc-protection"));
    assert_eq!(scene.read("writer"), written, "it stays in use");
    scene.kubectl.delete("pod/writer");
    scene.kubectl.wait_until_gone("pvc/data");
}

/// A snapshot of a foreign handle: it says which snapshot there is not, and nothing can be made from it.
pub(crate) fn foreign_handle(scene: &Scene<'_>) {
    let name = "foreign";
    let namespace = scene.kubectl.field("serviceaccount/default", ".metadata.namespace");
    scene.kubectl.apply(&json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": { "name": name },
        "spec": {
            "driver": "csi.varve.io", "deletionPolicy": "Retain", "source": { "snapshotHandle": "vs-of-another-driver" },
            "volumeSnapshotRef": { "name": name, "namespace": namespace },
        },
    }));
    scene.kubectl.apply(&json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": { "name": name },
        "spec": { "source": { "volumeSnapshotContentName": name } },
    }));
    scene.kubectl.wait_for("volumesnapshotcontent/foreign", "jsonpath={.status.error.message}");
    let said = scene.kubectl.field("volumesnapshotcontent/foreign", ".status.error.message");
    assert!(said.contains("vs-of-another-driver"), "{said}");
    scene.kubectl.run(["delete", "volumesnapshot", name, "--wait=false"]);
    scene.kubectl.delete("volumesnapshotcontent/foreign");
}

/// A snapshot of a class of another driver: it says that the class does not fit.
pub(crate) fn foreign_class(scene: &Scene<'_>) {
    scene.kubectl.apply(&json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": { "name": "foreign" },
        "driver": "csi.example.net", "deletionPolicy": "Delete",
    }));
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
    scene.kubectl.apply(&json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": { "name": "snapshot" },
        "spec": { "volumeSnapshotClassName": "foreign", "source": { "persistentVolumeClaimName": "data" } },
    }));
    let content = wait_for("the snapshot has its content", || {
        let content = scene.kubectl.field("volumesnapshot/snapshot", ".status.boundVolumeSnapshotContentName");
        (!content.is_empty()).then_some(content)
    });
    scene
        .kubectl
        .wait_for_event("volumesnapshot/snapshot", &["csi.example.net", "csi.varve.io", "finalizers", &content]);
    // What the event says to do.
    scene.kubectl.run(["delete", "volumesnapshot", "snapshot", "--wait=false"]);
    let patch = r#"{"metadata":{"finalizers":[]}}"#;
    scene.kubectl.run(["patch", "volumesnapshotcontent", &content, "--type", "merge", "--patch", patch]);
    scene.kubectl.wait_until_gone("volumesnapshot/snapshot");
    scene.kubectl.delete("volumesnapshotclass/foreign");
}

/// A class with secrets: the driver takes none, and may read none.
pub(crate) fn secret_of_a_class(scene: &Scene<'_>) {
    scene.kubectl.apply(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "secretive" },
        "provisioner": "csi.varve.io", "parameters": {
            "csi.storage.k8s.io/provisioner-secret-name": "missing",
            "csi.storage.k8s.io/provisioner-secret-namespace": "default",
        },
    }));
    scene.claim("data", &Claim { class: "secretive", ..Claim::default() });
    scene.kubectl.wait_for_event("pvc/data", &["secret", "missing"]);
    scene.kubectl.delete("storageclass/secretive");
}

/// A master key that is not the repository's: the pod says why it ended, and nothing is changed.
pub(crate) fn wrong_key(scene: &Scene<'_>) {
    let system = &scene.driver.kubectl;
    let controllers = "--selector=app.kubernetes.io/component=controller";
    let right = system.field("secret/varve-master-key", ".data.master\\.key");
    let patch =
        |change: serde_json::Value| system.run(["patch", "secret", "varve-master-key", "--patch", &change.to_string()]);
    patch(json!({ "stringData": { "master.key": "0123456789abcdef".repeat(4) } }));
    let pods = system.run(["get", "pods", controllers, "--output", "name"]);
    system.run(["delete", pods.split_whitespace().next().expect("there are two"), "--wait=false"]);
    let said = wait_for("the new pod says why it ended", || {
        let ended = "{.items[*].status.containerStatuses[?(@.name==\"varve\")].lastState.terminated.message}";
        let said = system.run(["get", "pods", controllers, "--output", &format!("jsonpath={ended}")]);
        said.contains("key").then_some(said)
    });
    assert!(!said.contains("0123456789abcdef"), "a key is a secret: {said}");
    patch(json!({ "data": { "master.key": right } }));
    system.run(["rollout", "restart", "deployment/varve-controller"]);
    scene.driver.wait();
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
}
