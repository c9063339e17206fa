//! Volumes while they are in use: growth, groups of files, access by one pod, attributes, placement.

use serde_json::json;

use crate::{
    driver::NODES,
    scene::{Claim, Pod, Scene},
};

/// A claim that grows while its pod writes has the room at once, and what was written.
pub(crate) fn grows_in_use(scene: &Scene<'_>) {
    // ext4 grows in use only where the kernel lets a container have SYS_RESOURCE.
    scene.claim("data", &Claim { class: "varve-xfs", ..Claim::default() });
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
    let written = scene.write("writer", "first");
    let room = || -> u64 {
        let text = scene.kubectl.shell("writer", "df -k /data | awk 'NR == 2 { print $2 }'");
        text.trim().parse().expect("a number of KiB")
    };
    assert!(room() < 1 << 20, "{} KiB", room());
    scene.kubectl.run(["patch", "pvc", "data", "--patch", r#"{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}"#]);
    scene.kubectl.wait_for_field("pvc/data", ".status.capacity.storage", "3Gi");
    assert!(room() > 2 << 20, "{} KiB", room());
    assert_eq!(scene.read("writer"), written);
}

/// What a pod of a group writes belongs to the group, and it can write without being root.
pub(crate) fn files_belong_to_the_pods_group(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    let security = json!({ "runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000 });
    scene.pod("writer", &Pod { claim: Some("data"), security: Some(security), ..Pod::default() });
    scene.kubectl.shell("writer", "echo content >/data/file");
    assert_eq!(scene.kubectl.shell("writer", "stat -c '%u %g' /data/file").trim(), "1000 2000");
    assert_eq!(scene.kubectl.shell("writer", "stat -c %g /data").trim(), "2000");
}

/// Of two pods with a claim of `ReadWriteOncePod` one runs, and the other does once the first is gone.
pub(crate) fn one_pod_alone(scene: &Scene<'_>) {
    scene.claim("data", &Claim { access: "ReadWriteOncePod", ..Claim::default() });
    scene.pod("first", &Pod { claim: Some("data"), ..Pod::default() });
    let second = Pod { claim: Some("data"), ..Pod::default() };
    scene.kubectl.apply(&second.object("second"));
    scene.kubectl.wait_for_event("pod/second", &["ReadWriteOncePod"]);
    assert_eq!(scene.kubectl.field("pod/second", ".status.phase"), "Pending");
    scene.kubectl.delete("pod/first");
    scene.kubectl.wait_for_condition("pod/second", "Ready");
}

/// A generic ephemeral volume comes and goes with its pod.
pub(crate) fn pod_brings_its_own_claim(scene: &Scene<'_>) {
    let volume = json!({ "ephemeral": { "volumeClaimTemplate": { "spec": Claim::default().spec() } } });
    scene.pod("writer", &Pod { volume: Some(volume), ..Pod::default() });
    scene.write("writer", "first");
    assert_eq!(scene.volumes().len(), 1);
    scene.kubectl.delete("pod/writer");
    scene.kubectl.wait_until_gone("pvc/writer-data");
}

/// A claim changes its attributes class while its pod uses it.
pub(crate) fn attributes_change_in_use(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
    scene.kubectl.run([
        "patch",
        "pvc",
        "data",
        "--patch",
        r#"{"spec":{"volumeAttributesClassName":"varve-background"}}"#,
    ]);
    scene.kubectl.wait_for_field("pvc/data", ".status.currentVolumeAttributesClassName", "varve-background");
    let volume = scene.kubectl.field("pvc/data", ".spec.volumeName");
    let handle = scene.kubectl.field(&format!("persistentvolume/{volume}"), ".spec.csi.volumeHandle");
    let record = scene.driver.varve(&["volume", "show", &handle, "--output", "json"]);
    assert!(record.contains("io_bandwidth"), "{record}");
}

/// Claims that fill the pool of the node that is preferred are placed on the other one.
pub(crate) fn goes_where_there_is_room(scene: &Scene<'_>) {
    // A pool of 20 GiB may be promised once (tests/cluster/overlay): two of these do not fit on one node.
    let large = Claim { class: "varve-xfs", size: "12Gi", ..Claim::default() };
    let mut nodes = Vec::new();
    for name in ["first", "second"] {
        scene.claim(name, &large);
        scene.pod(name, &Pod { claim: Some(name), ..Pod::default() });
        nodes.push(scene.kubectl.field(&format!("pod/{name}"), ".spec.nodeName"));
    }
    nodes.sort();
    assert_eq!(nodes, NODES);
}
