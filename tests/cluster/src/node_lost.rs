//! Processes that are killed, and nodes that do not come back.

use crate::{
    driver::NODES,
    kubectl::{project, run_cluster},
    scene::{Claim, Pod, Scene},
};

/// Kills the driver's processes while a volume is in use: it stays in use, and everything works again without a person.
pub(crate) fn processes_are_killed(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { node: Some("node-1"), claim: Some("data"), ..Pod::default() });
    let first = scene.write("writer", "first");
    kill_all("node");
    kill_all("controller");
    assert_eq!(scene.read("writer"), first, "it stays in use");
    scene.snapshot("first", "data");
    let second = scene.write("writer", "second");
    kill_all("node");
    // A second pod on the same claim: the node still knows that the volume is staged, and where.
    scene.pod("neighbour", &Pod { node: Some("node-1"), claim: Some("data"), ..Pod::default() });
    assert_eq!(scene.read("neighbour"), second);
    scene.driver.wait();
    scene.claim("restored", &Claim { source: Some(("VolumeSnapshot", "first")), ..Claim::default() });
    scene.pod("reader", &Pod { node: Some("node-2"), claim: Some("restored"), ..Pod::default() });
    assert_eq!(scene.read("reader"), first);
}

/// Kills every process of a component of the driver, on whatever node.
fn kill_all(component: &str) {
    for node in NODES {
        run_cluster(&["kill", node, component]);
    }
}

/// A node is drained: its pod waits, since its volume is there; the snapshot is restored on the other node meanwhile; and
/// after the node is back in use the pod goes on where it was.
pub(crate) fn node_is_drained(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    let writer = Pod { claim: Some("data"), ..Pod::default() };
    scene.kubectl.apply(&writer.deployment("writer"));
    scene.kubectl.wait_for_condition("deployment/writer", "Available");
    let pod = || scene.kubectl.run(["get", "pods", "--selector", "app=writer", "--output", "name"]).trim().to_owned();
    let first = pod();
    let name = first.strip_prefix("pod/").expect("kubectl names a pod by its kind");
    let written = scene.write(name, "first");
    scene.snapshot("snapshot", "data");
    let node = scene.kubectl.field(&first, ".spec.nodeName");
    let other = NODES.into_iter().find(|other| *other != node).expect("there are two");

    scene.kubectl.run(["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout", "180s"]);
    let second = pod();
    assert_ne!(first, second);
    scene.kubectl.wait_for(&second, "condition=PodScheduled=False");
    scene.claim("restored", &Claim { source: Some(("VolumeSnapshot", "snapshot")), ..Claim::default() });
    scene.pod("reader", &Pod { node: Some(other), claim: Some("restored"), ..Pod::default() });
    assert_eq!(scene.read("reader"), written);

    scene.kubectl.run(["uncordon", &node]);
    scene.kubectl.wait_for_condition("deployment/writer", "Available");
    let name = second.strip_prefix("pod/").expect("kubectl names a pod by its kind");
    assert_eq!(scene.read(name), written);
    scene.kubectl.delete("deployment/writer");
}

/// The pod, the claim and the node are gone, with its kubelet, its driver and its pool: the snapshots are restored on the
/// other node.
pub(crate) fn snapshots_outlive_claim_and_node(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { node: Some("node-1"), claim: Some("data"), ..Pod::default() });
    let first = scene.write("writer", "first");
    scene.snapshot("first", "data");
    let second = scene.write("writer", "second");
    scene.snapshot("second", "data");

    scene.kubectl.delete("pod/writer");
    scene.kubectl.delete("pvc/data");
    run_cluster(&["cut-power", "node-1"]);
    scene.kubectl.delete("node/node-1");
    let disk = project().join("target/cluster/node/node-1/varve");
    std::fs::remove_dir_all(disk).expect("the pool is removed");

    for (snapshot, expected) in [("first", &first), ("second", &second)] {
        let claim = format!("from-{snapshot}");
        scene.claim(&claim, &Claim { source: Some(("VolumeSnapshot", snapshot)), ..Claim::default() });
        let pod = format!("reader-of-{snapshot}");
        scene.pod(&pod, &Pod { node: Some("node-2"), claim: Some(&claim), ..Pod::default() });
        assert_eq!(&scene.read(&pod), expected);
    }
    // A machine of the same name, with an empty disk.
    run_cluster(&["boot", "node-1"]);
    scene.driver.wait();
    scene.claim("fresh", &Claim::default());
    scene.pod("fresh", &Pod { node: Some("node-1"), claim: Some("fresh"), ..Pod::default() });
}
