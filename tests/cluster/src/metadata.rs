//! Changed blocks, as a backup program is told of them: by the sidecar, with the token of a service account.

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use varve_harness::{Scratch, wait_for};

use crate::{
    kubectl::{project, run_cluster},
    scene::{Claim, Pod, Scene},
};

const BLOCK: usize = 4096;

/// What is told of snapshots of a raw device is what their bytes say, to whoever may read them and to nobody else.
pub(crate) fn changed_blocks(scene: &Scene<'_>) {
    let device = Claim { size: "64Mi", block: true, ..Claim::default() };
    scene.claim("data", &device);
    scene.pod("writer", &Pod { device: Some("data"), ..Pod::default() });
    let write = |what: &str, block: u32, count: u32| {
        let range = format!("seek={block} count={count} conv=fsync");
        scene.kubectl.shell("writer", &format!("dd if=/dev/{what} of=/dev/data bs=4k {range} 2>/dev/null"));
    };
    write("urandom", 800, 2000);
    scene.snapshot("first", "data");
    for (what, block, count) in
        [("urandom", 1000, 10), ("zero", 2000, 5), ("urandom", 10_000, 1), ("urandom", 16_383, 1)]
    {
        write(what, block, count);
    }
    scene.snapshot("second", "data");

    let folder = Scratch::new("varve-changed-").expect("a folder can be made");
    let (before, after) = (restored(scene, "first", folder.path()), restored(scene, "second", folder.path()));
    let changed = selected(before.chunks(BLOCK).zip(after.chunks(BLOCK)).map(|(before, after)| before != after));
    assert_eq!(changed, [(1000, 10), (2000, 5), (10_000, 1), (16_383, 1)], "what was written");
    let held = selected(after.chunks(BLOCK).map(|block| block.iter().any(|byte| *byte != 0)));

    scene.driver.announce_metadata();
    account(scene, "backup");
    let_read(scene, "backup");
    account(scene, "stranger");
    let asked = |account: &str, of: &[&str]| told(scene, account, of);
    assert_eq!(asked("backup", &["-snapshot", "second", "-base", "first"]).expect("it is told"), changed);
    assert_eq!(asked("backup", &["-snapshot", "second"]).expect("it is told"), held);
    // On from behind the first range, one range a message.
    let end = ((1000 + 10) * BLOCK).to_string();
    let on = ["-snapshot", "second", "-base", "first", "-starting-offset", &end, "-max-results", "1"];
    assert_eq!(asked("backup", &on).expect("it is told"), changed[1..]);
    let error =
        asked("stranger", &["-snapshot", "second", "-base", "first"]).expect_err("it may not read the snapshot");
    assert!(error.contains("PermissionDenied"), "{error}");
    let past = (64_u64 << 20) + 1;
    let error =
        asked("backup", &["-snapshot", "second", "-starting-offset", &past.to_string()]).expect_err("it is too far");
    assert!(error.contains("OutOfRange") && error.contains("starting_offset is 67108865"), "{error}");
}

/// Makes a service account that may do nothing.
fn account(scene: &Scene<'_>, name: &str) {
    scene.kubectl.run(["create", "serviceaccount", name]);
}

/// Lets a service account read snapshots.
fn let_read(scene: &Scene<'_>, account: &str) {
    let account = format!("{}:{account}", scene.namespace());
    scene.kubectl.run(["create", "role", "reader", "--verb=get", "--resource=volumesnapshots.snapshot.storage.k8s.io"]);
    scene.kubectl.run(["create", "rolebinding", "reader", "--role=reader", &format!("--serviceaccount={account}")]);
    // The API server takes a moment to go by it.
    let user = format!("system:serviceaccount:{account}");
    wait_for("the role is in force", || {
        scene.kubectl.attempt(&["auth", "can-i", "get", "volumesnapshots", "--as", &user], None).ok()
    });
}

/// The bytes of a snapshot, restored from the repository on this machine.
fn restored(scene: &Scene<'_>, snapshot: &str, folder: &Path) -> Vec<u8> {
    let content = scene.kubectl.field(&format!("volumesnapshot/{snapshot}"), ".status.boundVolumeSnapshotContentName");
    let handle = scene.kubectl.field(&format!("volumesnapshotcontent/{content}"), ".status.snapshotHandle");
    let image = folder.join(snapshot);
    scene.driver.varve(&["snapshot", "restore", &handle, "--to", &image.display().to_string()]);
    fs::read(image).expect("it was restored")
}

/// Which blocks are selected, as ranges: the first one, and how many.
fn selected(blocks: impl Iterator<Item = bool>) -> Vec<(u64, u64)> {
    joined((0..).zip(blocks).filter(|(_, selected)| *selected).map(|(block, _)| (block, 1)))
}

/// Joins ranges that touch.
fn joined(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (first, count) in ranges {
        match joined.last_mut() {
            Some(last) if last.0 + last.1 == first => last.1 += count,
            _ => joined.push((first, count)),
        }
    }
    joined
}

/// Asks as a backup program does; the blocks that are told, or the complaint.
fn told(scene: &Scene<'_>, account: &str, of: &[&str]) -> Result<Vec<(u64, u64)>, String> {
    let kubeconfig = run_cluster(&["kubeconfig"]);
    let output = Command::new(project().join("target/tools/bin/metadata-client"))
        .args(["-kubeconfig", kubeconfig.trim(), "-namespace", scene.namespace(), "-service-account", account])
        .args(of)
        .output()
        .expect("scripts/kubernetes has built it");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let messages: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let mut ranges = Vec::new();
    for message in messages.as_array().expect("a list of messages") {
        assert_eq!(message["volume_capacity_bytes"], 64 << 20, "{message}");
        for range in message["block_metadata"].as_array().into_iter().flatten() {
            // A field that is 0 is left out.
            let blocks = |field: &str| {
                let bytes = range.get(field).map_or(0, |bytes| bytes.as_u64().expect("a number"));
                assert!(bytes.is_multiple_of(BLOCK as u64), "{range}");
                bytes / BLOCK as u64
            };
            ranges.push((blocks("byte_offset"), blocks("size_bytes")));
        }
    }
    Ok(joined(ranges.into_iter()))
}
