//! Snapshots, and what is made from them: on other nodes, of devices, of groups; and clones.

use serde_json::json;

use crate::scene::{Claim, Pod, Scene};

/// Two snapshots of a volume that is written to in between: each gives back its own state, on the other node.
pub(crate) fn is_restored_on_the_other_node(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { node: Some("node-1"), claim: Some("data"), ..Pod::default() });
    let first = scene.write("writer", "first");
    scene.snapshot("first", "data");
    let second = scene.write("writer", "second");
    scene.snapshot("second", "data");
    assert_ne!(first, second);
    for (snapshot, expected) in [("first", &first), ("second", &second)] {
        let claim = format!("from-{snapshot}");
        scene.claim(&claim, &Claim { source: Some(("VolumeSnapshot", snapshot)), ..Claim::default() });
        let pod = format!("reader-of-{snapshot}");
        scene.pod(&pod, &Pod { node: Some("node-2"), claim: Some(&claim), ..Pod::default() });
        assert_eq!(&scene.read(&pod), expected);
    }
    assert_eq!(scene.read("writer"), second, "the source is as it was");
}

/// A clone has what its source had, and goes its own way.
pub(crate) fn claim_is_cloned(scene: &Scene<'_>) {
    // A clone is where its source is.
    let node = Some("node-1");
    scene.claim("data", &Claim { class: "varve-xfs", ..Claim::default() });
    scene.pod("writer", &Pod { node, claim: Some("data"), ..Pod::default() });
    let written = scene.write("writer", "first");
    let source = Some(("PersistentVolumeClaim", "data"));
    scene.claim("clone", &Claim { class: "varve-xfs", source, ..Claim::default() });
    scene.pod("reader", &Pod { node, claim: Some("clone"), ..Pod::default() });
    assert_eq!(scene.read("reader"), written);
    let later = scene.write("reader", "second");
    assert_ne!(later, written);
    assert_eq!(scene.read("writer"), written);
}

/// A device without a file system is restored byte for byte.
pub(crate) fn raw_device_is_restored(scene: &Scene<'_>) {
    let device = Claim { size: "64Mi", block: true, ..Claim::default() };
    scene.claim("data", &device);
    scene.pod("writer", &Pod { node: Some("node-1"), device: Some("data"), ..Pod::default() });
    scene.kubectl.shell("writer", "dd if=/dev/urandom of=/dev/data bs=1M seek=3 count=20 conv=fsync 2>/dev/null");
    let written = scene.kubectl.shell("writer", "sha256sum </dev/data");
    scene.snapshot("snapshot", "data");
    scene.kubectl.shell("writer", "dd if=/dev/zero of=/dev/data bs=1M count=30 conv=fsync 2>/dev/null");
    scene.claim("restored", &Claim { source: Some(("VolumeSnapshot", "snapshot")), ..device });
    scene.pod("reader", &Pod { node: Some("node-2"), device: Some("restored"), ..Pod::default() });
    assert_eq!(scene.kubectl.shell("reader", "sha256sum </dev/data"), written);
}

/// Two volumes that are snapshotted together show one instant: nothing in the second that came after the first.
pub(crate) fn group_is_restored(scene: &Scene<'_>) {
    // A group is cut on one node.
    for (claim, pod) in [("log", "log-writer"), ("data", "data-writer")] {
        scene.claim(claim, &Claim::default());
        scene.pod(pod, &Pod { node: Some("node-1"), claim: Some(claim), ..Pod::default() });
    }
    let log = scene.write("log-writer", "log");
    let data = scene.write("data-writer", "data");
    scene.kubectl.apply(&json!({
        "apiVersion": "groupsnapshot.storage.k8s.io/v1", "kind": "VolumeGroupSnapshot", "metadata": { "name": "both" },
        "spec": { "volumeGroupSnapshotClassName": "varve", "source": { "selector": { "matchLabels": { "app": "data" } } } },
    }));
    scene.kubectl.wait_for_field("volumegroupsnapshot/both", ".status.readyToUse", "true");
    for (claim, expected) in [("log", &log), ("data", &data)] {
        let path =
            format!("jsonpath={{.items[?(@.spec.source.persistentVolumeClaimName==\"{claim}\")].metadata.name}}");
        let snapshot = scene.kubectl.run(["get", "volumesnapshots", "--output", &path]);
        scene.kubectl.wait_for_field(&format!("volumesnapshot/{snapshot}"), ".status.readyToUse", "true");
        let restored = format!("{claim}-restored");
        scene.claim(&restored, &Claim { source: Some(("VolumeSnapshot", &snapshot)), ..Claim::default() });
        let pod = format!("{claim}-reader");
        scene.pod(&pod, &Pod { node: Some("node-2"), claim: Some(&restored), ..Pod::default() });
        assert_eq!(&scene.read(&pod), expected);
    }
}

/// The pod is deleted, and then the claim, while the snapshot is on its way to the repository: it arrives all the same.
pub(crate) fn source_goes_while_its_snapshot_is_on_its_way(scene: &Scene<'_>) {
    scene.claim("data", &Claim { class: "varve-xfs", ..Claim::default() });
    scene.pod("writer", &Pod { node: Some("node-1"), claim: Some("data"), ..Pod::default() });
    scene.kubectl.shell("writer", "dd if=/dev/urandom of=/data/large bs=1M count=400 conv=fsync 2>/dev/null");
    let written = scene.read("writer");
    scene.begin_snapshot("snapshot", "data");
    scene.kubectl.wait_for("volumesnapshot/snapshot", "jsonpath={.status.creationTime}");
    scene.kubectl.delete("pod/writer");
    scene.kubectl.delete("pvc/data");
    scene.kubectl.wait_for_field("volumesnapshot/snapshot", ".status.readyToUse", "true");
    let source = Some(("VolumeSnapshot", "snapshot"));
    scene.claim("restored", &Claim { class: "varve-xfs", source, ..Claim::default() });
    scene.pod("reader", &Pod { node: Some("node-2"), claim: Some("restored"), ..Pod::default() });
    assert_eq!(scene.read("reader"), written);
}
