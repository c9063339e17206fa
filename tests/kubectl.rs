//! The plugin of kubectl as a process: its name, what it refuses, and what it makes of a repository alone. What it does with a
//! cluster is tested with one that is played (`kubernetes/src/snapshot`) and in a real one (`tests/cluster`).

use std::{
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use varve_harness::{
    Scratch, Setup, Standalone,
    csi::{Client, block, volume},
    driver::{complaint, text},
};
use varve_proto::csi::CreateSnapshotRequest;

fn told(entries: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    entries.iter().map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), (*value).to_owned())).collect()
}

/// Without anything that says where a cluster is.
fn homeless(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBECONFIG").env("HOME", "/nowhere").stdin(Stdio::null());
    command
}

#[test]
fn by_its_name_the_program_is_the_plugin() {
    let scratch = Scratch::new("varve-kubectl-").expect("a folder can be made");
    let plugin = scratch.path().join("kubectl-varve");
    symlink(env!("CARGO_BIN_EXE_varve"), &plugin).expect("a link can be made");
    let version = homeless(text(&plugin)).arg("--version").output().expect("it can be started");
    let expected = format!("kubectl-varve {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&version.stdout), expected);
    for (program, arguments) in
        [(text(&plugin), &["status"][..]), (env!("CARGO_BIN_EXE_varve"), &["kubectl", "status"])]
    {
        let lost = homeless(program).args(arguments).output().expect("it can be started");
        assert_eq!(lost.status.code(), Some(2), "{}", complaint(&lost));
        assert!(complaint(&lost).contains("finding the Kubernetes API"), "{}", complaint(&lost));
        let other = homeless(program).args(arguments).args(["--kubeconfig", "/nowhere/config"]).output();
        let other = other.expect("it can be started");
        assert!(
            other.status.code() == Some(2) && complaint(&other).contains("/nowhere/config"),
            "{}",
            complaint(&other)
        );
    }
    let driver = homeless(text(&plugin)).args(["volume", "list"]).output().expect("it can be started");
    assert_eq!(driver.status.code(), Some(2), "the other commands are varve's: {}", complaint(&driver));
}

#[tokio::test]
async fn a_repository_alone_says_what_objects_there_were() {
    let scratch = Scratch::new("varve-kubectl-").expect("a folder can be made");
    let setup = Setup::new(scratch.path());
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let mut order = volume("pvc-1", 64 << 20, &block());
    order.parameters = told(&[("pvc/name", "data"), ("pvc/namespace", "mesh"), ("pv/name", "pvc-1")]);
    let of_claim = client.create(order).await.expect("it can be made").volume_id;
    let by_hand = client.create(volume("By Hand", 64 << 20, &block())).await.expect("it can be made").volume_id;
    let named = CreateSnapshotRequest {
        source_volume_id: of_claim.clone(),
        name: "snapshot-1".to_owned(),
        parameters: told(&[("volumesnapshot/name", "monday"), ("volumesnapshot/namespace", "mesh")]),
        ..Default::default()
    };
    client.controller.clone().create_snapshot(named).await.expect("it can be made");
    let named = client.snapshot(&of_claim, "snapshot-1").await.snapshot_id;
    let unnamed = client.snapshot(&of_claim, "snapshot-2").await.snapshot_id;
    let homeless = client.snapshot(&by_hand, "snapshot-3").await.snapshot_id;
    // The volume's record goes; what it said of the claim stays.
    client.delete(&of_claim).await.expect("it can be deleted");

    let import = |arguments: &[&str]| {
        let mut command = self::homeless(env!("CARGO_BIN_EXE_varve"));
        command.args(["kubectl", "import", "--repository", &setup.repository, "--key-file", text(&setup.key_file)]);
        let output = command.args(arguments).output().expect("it can be started");
        assert!(output.status.success(), "{}", complaint(&output));
        (String::from_utf8_lossy(&output.stdout).into_owned(), complaint(&output))
    };
    let objects = |text: &str| -> Vec<Value> {
        text.split("\n---\n").map(|document| serde_saphyr::from_str(document).expect("it is YAML")).collect()
    };
    let (written, said) = import(&[]);
    assert!(said.contains(&homeless) && said.contains("--namespace"), "{said}");
    assert_eq!(import(&[]).0, written, "the same each time");
    let found = objects(&written);
    assert_eq!(found.len(), 4, "{written}");
    let pair = |handle: &str, found: &[Value]| -> (Value, Value) {
        let content =
            found.iter().find(|object| object["spec"]["source"]["snapshotHandle"] == handle).expect("it is there");
        let name = &content["metadata"]["name"];
        let snapshot = found.iter().find(|object| object["spec"]["source"]["volumeSnapshotContentName"] == *name);
        (content.clone(), snapshot.expect("it is there").clone())
    };
    let (content, snapshot) = pair(&named, &found);
    assert_eq!((&snapshot["metadata"]["name"], &snapshot["metadata"]["namespace"]), (&json!("monday"), &json!("mesh")));
    assert_eq!(
        (&content["spec"]["deletionPolicy"], &content["spec"]["driver"]),
        (&json!("Retain"), &json!("csi.varve.io"))
    );
    assert_eq!(content["spec"]["sourceVolumeMode"], "Block");
    let (_, snapshot) = pair(&unnamed, &found);
    let name = snapshot["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("data-20") && snapshot["metadata"]["namespace"] == "mesh", "{snapshot}");

    let (_, snapshot) = pair(&homeless, &objects(&import(&["--namespace", "rescue", "--volume", &by_hand]).0));
    let name = snapshot["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("by-hand-20") && snapshot["metadata"]["namespace"] == "rescue", "{snapshot}");
    assert!(driver.terminate().success());
}
