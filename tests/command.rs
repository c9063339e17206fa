//! The operator's commands: what they answer, in both forms, and their exit status.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use varve_harness::{
    Scratch, Setup, Standalone,
    csi::{Client, block, volume},
    driver::{complaint, text, varve},
};

fn scratch() -> Scratch {
    Scratch::new("varve-command-").expect("a folder can be made")
}

/// The standard output of a command that succeeded.
fn answer(output: &Output) -> String {
    assert!(output.status.success(), "{}", complaint(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The one JSON value that a command that succeeded answered with.
fn json(output: &Output) -> Value {
    serde_json::from_str(&answer(output)).expect("it is one JSON value")
}

#[tokio::test]
async fn volumes_and_snapshots_are_listed_shown_made_and_deleted() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let made = client.create(volume(name, 64 << 20, &block())).await.expect("it can be made");
        ids.push(made.volume_id);
    }

    let listed = json(&setup.varve(["volume", "list", "--output", "json"]));
    let mut names: Vec<_> = listed.as_array().expect("it is a list").iter().map(|volume| &volume["name"]).collect();
    names.sort_by_key(|name| name.as_str());
    assert_eq!(names, ["one", "two"]);
    let table = answer(&setup.varve(["volume", "list"]));
    assert!(table.lines().next().is_some_and(|line| line.contains("NAME") && line.contains("SIZE")), "{table}");
    assert!(table.contains(&ids[0]) && table.contains("64.0 MiB") && table.contains("node-1"), "{table}");

    let endpoint = setup.endpoint();
    let create =
        ["snapshot", "create", &ids[0], "--name", "by-hand", "--endpoint", &endpoint, "--wait", "--output", "json"];
    let created = json(&varve(create));
    assert_eq!(created["ready"], true, "{created:#}");
    assert_eq!(json(&varve(create))["id"], created["id"], "the same name is the same snapshot");
    let id = created["id"].as_str().expect("it is text");

    let snapshots = json(&setup.varve(["snapshot", "list", "--volume", &ids[0], "--output", "json"]));
    assert_eq!(snapshots[0]["id"], id);
    assert_eq!(snapshots[0]["capacity_bytes"], 64 << 20);
    assert_eq!(
        json(&setup.varve(["snapshot", "list", "--volume", &ids[1], "--output", "json"])),
        Value::Array(Vec::new())
    );
    let shown = json(&setup.varve(["volume", "show", &ids[0], "--output", "json"]));
    assert_eq!((&shown["id"], &shown["snapshots"][0]["id"]), (&Value::from(ids[0].as_str()), &created["id"]));
    let table = answer(&setup.varve(["snapshot", "show", id]));
    for word in [id, "by-hand", "uploaded", "pause", "method"] {
        assert!(table.contains(word), "{word:?} is not in:\n{table}");
    }

    let stats = json(&setup.varve(["repository", "stats", "--output", "json"]));
    assert_eq!((stats["volumes"].as_u64(), stats["snapshots"].as_u64()), (Some(2), Some(1)), "{stats:#}");
    let report = json(&setup.varve(["repository", "check", "--level", "content", "--output", "json"]));
    assert_eq!((report["snapshots"].as_u64(), &report["damages"]), (Some(1), &Value::Array(Vec::new())), "{report:#}");

    assert_eq!(json(&setup.varve(["snapshot", "delete", id, "--output", "json"]))["deleted"], true);
    let again = setup.varve(["snapshot", "delete", id]);
    assert_eq!(again.status.code(), Some(1));
    assert!(complaint(&again).contains("gone since"), "{}", complaint(&again));
    let unknown = setup.varve(["volume", "show", "vol-00000000000000000000000000000000"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(complaint(&unknown).contains("varve volume list"), "{}", complaint(&unknown));
    assert!(driver.terminate().success());
}

#[tokio::test]
async fn a_restored_image_is_whole_sparse_and_private() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let made = client.create(volume("raw", 256 << 20, &block())).await.expect("it can be made");
    let published = client.publish(&made.volume_id, &block()).await.expect("it can be published");
    let device = fs::OpenOptions::new().write(true).open(&published.target).expect("it is a device");
    std::os::unix::fs::FileExt::write_all_at(&device, b"far inside", 200 << 20).expect("it can be written");
    device.sync_all().expect("it can be synced");
    drop(device);
    let snapshot = client.snapshot(&made.volume_id, "snapshot").await;
    client.unpublish(&published).await.expect("it can be unpublished");
    assert!(driver.terminate().success());

    let image = scratch.path().join("image");
    let restored =
        json(&setup.varve(["snapshot", "restore", &snapshot.snapshot_id, "--to", text(&image), "--output", "json"]));
    assert_eq!(restored["capacity_bytes"], 256 << 20);
    assert_eq!(restored["written_bytes"], 4096);
    let metadata = fs::metadata(&image).expect("it is there");
    assert_eq!(metadata.len(), 256 << 20);
    assert!(metadata.blocks() * 512 <= 64 * 1024, "{} blocks are allocated", metadata.blocks());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut found = [0; 10];
    let file = fs::File::open(&image).expect("it is there");
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 200 << 20).expect("it can be read");
    assert_eq!(&found, b"far inside");
}

#[test]
fn a_key_comes_from_a_file_or_the_environment_and_is_made_only_when_asked_for() {
    let scratch = scratch();
    let key = scratch.path().join("key");
    let url = format!("file://{}", scratch.path().join("repository").display());
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        Command::new(env!("CARGO_BIN_EXE_varve"))
            .args(arguments)
            .env_remove("VARVE_MASTER_KEY")
            .env_remove("VARVE_MASTER_KEY_FILE")
            .env("VARVE_REPOSITORY", &url)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("it can be started")
    };
    let missing = run(&["repository", "init", "--key-file", text(&key)], &[]);
    assert_eq!(missing.status.code(), Some(2), "{}", complaint(&missing));
    assert!(!key.exists() && !scratch.path().join("repository").exists());

    let made = json(&run(&["repository", "init", "--generate-key", "--key-file", text(&key), "--output", "json"], &[]));
    assert!(made["uuid"].is_string(), "{made:#}");
    assert_eq!(fs::metadata(&key).expect("it was made").permissions().mode() & 0o777, 0o600);
    let again = run(&["repository", "init", "--key-file", text(&key)], &[]);
    assert_eq!(again.status.code(), Some(1), "{}", complaint(&again));
    assert!(complaint(&again).contains("already holds a repository"), "{}", complaint(&again));

    let digits = fs::read_to_string(&key).expect("it was made");
    let list = ["volume", "list"];
    answer(&run(&list, &[("VARVE_MASTER_KEY", digits.trim())]));
    answer(&run(&list, &[("VARVE_MASTER_KEY_FILE", text(&key))]));
    let both = run(&list, &[("VARVE_MASTER_KEY", digits.trim()), ("VARVE_MASTER_KEY_FILE", text(&key))]);
    assert_eq!(both.status.code(), Some(2), "{}", complaint(&both));
    let bad = run(&list, &[("VARVE_MASTER_KEY", "hush")]);
    assert_eq!(bad.status.code(), Some(2), "{}", complaint(&bad));
    assert!(!complaint(&bad).contains("hush"), "a key is shown: {}", complaint(&bad));
}
