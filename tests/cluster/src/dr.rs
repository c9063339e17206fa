//! `kubectl varve`: what it tells, and what it brings back.

use serde_json::{Value, json};
use varve_harness::wait_for;

use crate::{
    driver::NODES,
    kubectl::{Answer, Kubectl, with_plugin},
    scene::{Claim, Pod, Scene},
};

/// A class whose snapshots stay in the repository when their objects go.
const RETAINED: &str = "retained";

/// What a person sees, and what a script reads.
pub(crate) fn plugin_tells(scene: &Scene<'_>) {
    let kubectl = &scene.kubectl;
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { node: Some("node-1"), claim: Some("data"), ..Pod::default() });
    scene.write("writer", "first");
    let taken = kubectl.plugin(&["snapshot", "data", "--name", "monday", "--wait", "--output", "json"]).json();
    assert_eq!(
        (&taken["ready"], &taken["name"], &taken["size_bytes"]),
        (&json!(true), &json!("monday"), &json!(1 << 30))
    );
    kubectl.plugin(&["snapshot", "data", "--name", "tuesday", "--class", "varve-node", "--wait"]).good();

    let table = kubectl.plugin(&["snapshots"]).good().to_owned();
    let row = |name: &str| -> Vec<String> {
        let line = table.lines().find(|line| line.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {table}")).split_whitespace().map(str::to_owned).collect()
    };
    let (monday, tuesday) = (row("monday"), row("tuesday"));
    assert_eq!(
        (monday[1].as_str(), monday[2].as_str(), monday.last().map(String::as_str)),
        ("data", "yes", Some("bucket"))
    );
    assert_eq!(tuesday.last().map(String::as_str), Some("node-1"), "{table}");
    let list = kubectl.plugin(&["snapshots", "data", "--output", "json"]).json();
    let handle = list["snapshots"][0]["handle"].as_str().expect("a handle").to_owned();
    assert!(kubectl.plugin(&["snapshots", "--output", "wide"]).good().contains(&handle));
    assert!(kubectl.plugin(&["snapshots", "-A", "-o", "yaml"]).good().contains(&format!("handle: {handle}")));

    let status = kubectl.plugin(&["status", "--output", "json"]).json();
    let nodes = status["nodes"].as_array().expect("a list");
    for name in NODES {
        let node = nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("{name}: {status}"));
        assert_eq!((&node["registered"], &node["pod_ready"]), (&json!(true), &json!(true)), "{status}");
        assert!(node["room_bytes"].as_u64().is_some_and(|room| room > 1 << 30), "{status}");
    }
    assert_eq!(status["controllers_ready"], 2, "{status}");
    assert!(kubectl.plugin(&["status"]).good().contains("2 of 2 pods ready"));

    let explained = kubectl.plugin(&["explain", "monday"]).good().to_owned();
    assert!(explained.contains("not asked") && explained.contains(&handle), "{explained}");
    let mut with_repository = with_plugin("kubectl");
    with_repository.args(["varve", "explain", "monday", "--output", "json", "--namespace", scene.namespace()]);
    let explained = Answer::of(with_repository.envs(scene.driver.environment())).json();
    assert_eq!((&explained["restorable"], &explained["node"]), (&json!(true), &json!("node-1")), "{explained}");
    assert_eq!(explained["repository"]["state"], "committed", "{explained}");
    assert!(explained["repository"]["uploaded_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{explained}");

    assert!(kubectl.plugin(&["snapshot", "nothing", "--wait"]).bad(1).contains("\"nothing\""));
    assert!(kubectl.plugin(&["snapshot", "data", "--name", "monday"]).bad(2).contains("--name"));
    assert!(kubectl.plugin(&["snapshot", "data", "--keep", "3"]).bad(2).contains("--wait"));
}

/// A snapshot is restored in a namespace that knows nothing of it, and a claim that is there is not touched.
pub(crate) fn restored_elsewhere(scene: &Scene<'_>) {
    scene.claim("data", &Claim { class: "varve-xfs", ..Claim::default() });
    scene.pod("writer", &Pod { node: Some("node-1"), claim: Some("data"), ..Pod::default() });
    let written = scene.write("writer", "first");
    scene.kubectl.plugin(&["snapshot", "data", "--name", "monday", "--wait"]).good();

    let other = format!("{}-2", scene.namespace());
    let there = Kubectl::new(&other);
    there.run(["create", "namespace", &other]);
    wait_for("the namespace has its service account", || {
        there.attempt(&["get", "serviceaccount", "default"], None).ok()
    });
    let from = format!("{}/monday", scene.namespace());
    let restored = there.plugin(&["restore", "copy", "--from", &from, "--output", "json"]).json();
    assert_eq!((&restored["class"], &restored["size"]), (&json!("varve-xfs"), &json!("1Gi")), "{restored}");
    there.apply(&Pod { node: Some("node-2"), claim: Some("copy"), ..Pod::default() }.object("reader"));
    there.wait_for_condition("pod/reader", "Ready");
    let read = there.shell("reader", "cd /data; sha256sum $(find . -type f -not -path './lost+found*' | sort)");
    assert_eq!(read, written);
    assert!(there.plugin(&["restore", "copy", "--from", &from]).bad(2).contains("is not touched"));
    // A second one is made from the same objects.
    there.plugin(&["restore", "second", "--from", &from]).good();

    // Deleting the objects there deletes nothing of the snapshot.
    for kind in ["pods", "persistentvolumeclaims", "volumesnapshots"] {
        there.run(["delete", kind, "--all", "--timeout", "180s"]);
    }
    delete_contents(scene, &other);
    there.run(["delete", "namespace", &other, "--timeout", "180s"]);
    scene.kubectl.plugin(&["restore", "again", "--from", "monday"]).good();
    scene.pod("reader", &Pod { claim: Some("again"), ..Pod::default() });
    assert_eq!(scene.read("reader"), written);
}

/// Claim, volume and all objects are gone: the repository alone says what there was, and by what names.
pub(crate) fn lost_objects_are_imported(scene: &Scene<'_>) {
    let kubectl = &scene.kubectl;
    kubectl.apply(&json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": { "name": RETAINED },
        "driver": "csi.varve.io", "deletionPolicy": "Retain",
    }));
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
    let mut written = Vec::new();
    for name in ["first", "second"] {
        written.push((name, scene.write("writer", name)));
        kubectl.plugin(&["snapshot", "data", "--name", name, "--class", RETAINED, "--wait"]).good();
    }
    let volume = scene.volumes()[0]["id"].as_str().expect("an id").to_owned();
    let handles: Vec<String> = {
        let list = kubectl.plugin(&["snapshots", "--output", "json"]).json();
        let list = list["snapshots"].as_array().expect("a list").iter();
        list.map(|snapshot| snapshot["handle"].as_str().expect("a handle").to_owned()).collect()
    };
    assert_eq!(handles.len(), 2);
    for kind in ["pods", "persistentvolumeclaims", "volumesnapshots"] {
        kubectl.run(["delete", kind, "--all", "--timeout", "180s"]);
    }
    delete_contents(scene, scene.namespace());
    wait_for("the volume's record is gone", || scene.volumes().is_empty().then_some(()));

    // The names are those that the objects had; each root keeps its claim, too.
    for handle in &handles {
        let root: Value =
            serde_json::from_str(&scene.driver.varve(&["snapshot", "show", handle, "--output", "json"])).expect("JSON");
        let told = &root["description"]["parameters"];
        assert_eq!(told["csi.storage.k8s.io/pvc/name"], "data", "{root}");
        assert_eq!(told["csi.storage.k8s.io/pvc/namespace"], scene.namespace(), "{root}");
    }
    let import = || scene.driver.varve(&["kubectl", "import", "--volume", &volume]);
    let manifest = import();
    assert_eq!(import(), manifest, "the same each time");
    kubectl.apply_text(&manifest);
    for (name, _) in &written {
        kubectl.wait_for_field(&format!("volumesnapshot/{name}"), ".status.readyToUse", "true");
    }
    // Once more, by the plugin itself: nothing is left to do.
    let mut apply = with_plugin("kubectl");
    apply.args(["varve", "import", "--volume", &volume, "--apply", "--output", "json"]);
    let outcomes = Answer::of(apply.envs(scene.driver.environment())).json();
    let done: Vec<_> = outcomes.as_array().expect("a list").iter().map(|outcome| outcome["done"].clone()).collect();
    assert_eq!(done, ["known", "known"], "{outcomes}");

    for (name, expected) in &written {
        let claim = format!("from-{name}");
        let refused = kubectl.plugin(&["restore", &claim, "--from", name]);
        assert!(refused.bad(2).contains("--storage-class") && refused.complaint.contains("varve-xfs"), "{refused:?}");
        kubectl.plugin(&["restore", &claim, "--from", name, "--storage-class", "varve"]).good();
        let pod = format!("reader-of-{name}");
        scene.pod(&pod, &Pod { node: Some("node-2"), claim: Some(&claim), ..Pod::default() });
        assert_eq!(&scene.read(&pod), expected);
    }
    // Deleting imported objects keeps the data, and they can be imported again.
    kubectl.run(["delete", "volumesnapshots", "--all", "--timeout", "180s"]);
    let mut apply = with_plugin("kubectl");
    apply.args(["varve", "import", "--volume", &volume, "--apply"]);
    let again = Answer::of(apply.envs(scene.driver.environment()));
    assert_eq!(again.good().matches(" made").count(), 2, "{again:?}");
    kubectl.wait_for_field("volumesnapshot/first", ".status.readyToUse", "true");

    for kind in ["pods", "persistentvolumeclaims", "volumesnapshots"] {
        kubectl.run(["delete", kind, "--all", "--timeout", "180s"]);
    }
    delete_contents(scene, scene.namespace());
    for handle in &handles {
        scene.driver.varve(&["snapshot", "delete", handle]);
    }
    kubectl.delete(&format!("volumesnapshotclass/{RETAINED}"));
}

/// The whole cluster is gone, with its control plane, its nodes and their pools: a new one that has the bucket and the key
/// restores every snapshot.
pub(crate) fn second_cluster_restores_everything(scene: &Scene<'_>) {
    let kubectl = &scene.kubectl;
    let mut written = Vec::new();
    for (claim, class, node) in [("one", "varve", "node-1"), ("two", "varve-xfs", "node-2")] {
        scene.claim(claim, &Claim { class, ..Claim::default() });
        scene.pod(claim, &Pod { node: Some(node), claim: Some(claim), ..Pod::default() });
        for turn in ["first", "second"] {
            let name = format!("{claim}-{turn}");
            let content = scene.write(claim, turn);
            scene.snapshot(&name, claim);
            written.push((name, class, content));
        }
    }
    scene.lose_cluster();
    assert_eq!(kubectl.run(["get", "volumesnapshots", "--output", "name"]), "", "it is another cluster");

    let mut import = with_plugin("kubectl");
    import.args(["varve", "import", "--apply"]);
    Answer::of(import.envs(scene.driver.environment())).good();
    for (name, class, content) in &written {
        kubectl.wait_for_field(&format!("volumesnapshot/{name}"), ".status.readyToUse", "true");
        let claim = format!("from-{name}");
        kubectl.plugin(&["restore", &claim, "--from", name, "--storage-class", class]).good();
        scene.pod(&claim, &Pod { claim: Some(&claim), ..Pod::default() });
        assert_eq!(&scene.read(&claim), content);
    }
}

/// Deletes what is left of the snapshots of a namespace outside of it.
fn delete_contents(scene: &Scene<'_>, namespace: &str) {
    let path = format!("jsonpath={{.items[?(@.spec.volumeSnapshotRef.namespace==\"{namespace}\")].metadata.name}}");
    let names = scene.kubectl.run(["get", "volumesnapshotcontents", "--output", &path]);
    for name in names.split_whitespace() {
        scene.kubectl.delete(&format!("volumesnapshotcontent/{name}"));
    }
}
