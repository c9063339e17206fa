//! The examples, as they stand: applied with `kubectl`, as docs/kubernetes.md says. Only the image of their pods is the one
//! that this cluster has.

use std::{collections::BTreeSet, fs};

use varve_harness::wait_for;

use crate::{
    kubectl::{Answer, project, with_plugin},
    scene::{Claim, Pod, Scene},
};

/// A file of `examples/`.
fn example(path: &str) -> String {
    let path = project().join("examples").join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.replace("image: busybox:1.37", "image: localhost/busybox:1")
}

/// A claim, a snapshot and what is made from it, in one file.
pub(crate) fn manual_snapshot(scene: &Scene<'_>) {
    let kubectl = &scene.kubectl;
    kubectl.apply_text(&example("manual-snapshot.yaml"));
    for pod in ["data-writer", "data-reader"] {
        kubectl.wait_for_condition(&format!("pod/{pod}"), "Ready");
    }
    wait_for("the writer has written", || {
        kubectl.shell("data-writer", "cat /data/log || true").lines().nth(2).map(drop)
    });
    // Once more, now that there is something to see.
    for object in ["pod/data-reader", "pvc/data-restored", "volumesnapshot/data-snapshot"] {
        kubectl.delete(object);
    }
    kubectl.apply_text(&example("manual-snapshot.yaml"));
    kubectl.wait_for_field("volumesnapshot/data-snapshot", ".status.readyToUse", "true");
    kubectl.wait_for_condition("pod/data-reader", "Ready");
    let restored = kubectl.shell("data-reader", "cat /data/log");
    let written = kubectl.shell("data-writer", "cat /data/log");
    assert!(restored.lines().count() > 2 && written.starts_with(&restored), "{restored}\n---\n{written}");
}

/// A StatefulSet with two volumes, which come back as of one instant, under another name.
pub(crate) fn group(scene: &Scene<'_>) {
    let kubectl = &scene.kubectl;
    kubectl.apply_text(&example("group/store.yaml"));
    kubectl.wait_for_condition("pod/store-0", "Ready");
    wait_for("the store has stored", || kubectl.shell("store-0", "cat /data/data || true").lines().nth(9).map(drop));
    kubectl.apply_text(&example("group/snapshot.yaml"));
    kubectl.wait_for_field("volumegroupsnapshot/store", ".status.readyToUse", "true");
    let members = "jsonpath={.items[?(@.status.volumeGroupSnapshotName==\"store\")].metadata.name}";
    let members = kubectl.run(["get", "volumesnapshots", "--output", members]);
    assert_eq!(members.split_whitespace().count(), 2, "{members}");
    for member in members.split_whitespace() {
        kubectl.wait_for_field(&format!("volumesnapshot/{member}"), ".status.readyToUse", "true");
    }
    let script = project().join("examples/group/restore.sh").display().to_string();
    let restore = || Answer::of(with_plugin(&script).args(["store", scene.namespace()]));
    restore().good();
    kubectl.apply_text(&example("group/restored.yaml"));
    kubectl.wait_for_condition("pod/restored-0", "Ready");
    let numbers = |pod: &str, file: &str| -> Vec<u64> {
        let text = kubectl.shell(pod, &format!("cat {file}"));
        text.lines().map(|line| line.parse().expect("a number")).collect()
    };
    // The data first: what comes to it later is in the log before.
    let data = numbers("restored-0", "/data/data");
    let log = numbers("restored-0", "/log/log");
    let last = log.last().copied().unwrap_or_default();
    assert!(last >= 10 && log == (1..=last).collect::<Vec<_>>(), "{log:?}");
    let logged: BTreeSet<u64> = log.into_iter().collect();
    assert!(
        data.iter().all(|number| logged.contains(number)),
        "nothing is in the data that is not in the log: {data:?}"
    );
    // One number may have been on its way to the data when the group was cut.
    let most = data.last().copied().unwrap_or_default();
    let missing = (1..=most).filter(|number| !data.contains(number)).count();
    assert!(missing <= 1, "{missing} numbers are missing: {data:?}");
    // Claims that are there are not touched.
    assert!(restore().bad(2).contains("is not touched"));
    kubectl.run(["delete", "statefulset", "--all", "--timeout", "180s"]);
}

/// Nine nights: the newest seven snapshots stay, and those that are not of the series.
pub(crate) fn nightly(scene: &Scene<'_>) {
    let kubectl = &scene.kubectl;
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
    let written = scene.write("writer", "first");
    scene.snapshot("by-hand", "data");
    let folder = project().join("examples/nightly").display().to_string();
    kubectl.run(["apply", "--kustomize", &folder]);
    let mut nights = Vec::new();
    for night in 1..=9 {
        let job = format!("nightly-{night}");
        kubectl.run(["create", "job", "--from=cronjob/nightly", &job]);
        kubectl.wait_for_condition(&format!("job/{job}"), "Complete");
        let all = || -> BTreeSet<String> {
            let names = ["get", "volumesnapshots", "--selector", "varve.io/series=nightly", "--output", "name"];
            kubectl.run(names).lines().map(str::to_owned).collect()
        };
        let new: Vec<_> = all().into_iter().filter(|name| !nights.contains(name)).collect();
        assert_eq!(new.len(), 1, "night {night}: {new:?}");
        nights.extend(new);
        let kept: BTreeSet<String> = nights.iter().rev().take(7).cloned().collect();
        // One that is deleted stays until the driver has deleted its data.
        wait_for(&format!("after night {night} the newest are left"), || (all() == kept).then_some(()));
    }
    assert_eq!(kubectl.field("volumesnapshot/by-hand", ".status.readyToUse"), "true");
    let newest = nights.last().and_then(|name| name.split_once('/')).expect("a kind and a name").1.to_owned();
    scene.claim("restored", &Claim { source: Some(("VolumeSnapshot", &newest)), ..Claim::default() });
    scene.pod("reader", &Pod { claim: Some("restored"), ..Pod::default() });
    assert_eq!(scene.read("reader"), written);
    for kind in ["cronjobs", "jobs"] {
        kubectl.run(["delete", kind, "--all", "--timeout", "180s"]);
    }
}

/// The Job succeeds with a snapshot that can be restored, and fails without one, saying why.
pub(crate) fn pipeline(scene: &Scene<'_>) {
    let kubectl = &scene.kubectl;
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
    scene.write("writer", "first");
    let manifest = example("pipeline/snapshot.yaml");
    kubectl.apply_text(&manifest);
    kubectl.wait_for_condition("job/before-release", "Complete");
    let log = kubectl.run(["logs", "job/before-release"]);
    // Before the answer the log has what went wrong on the way, and passed.
    let answer = log.find("{\n").map_or("", |begin| &log[begin..]);
    let taken: serde_json::Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {log}"));
    assert_eq!((taken["ready"].as_bool(), taken["claim"].as_str()), (Some(true), Some("data")), "{log}");
    let snapshot = format!("volumesnapshot/{}", taken["name"].as_str().expect("a name"));
    assert_eq!(kubectl.field(&snapshot, ".status.readyToUse"), "true");

    kubectl.delete("job/before-release");
    assert!(manifest.contains("--class=varve,"), "{manifest}");
    kubectl.apply_text(&manifest.replace("--class=varve,", "--class=missing,"));
    kubectl.wait_for_condition("job/before-release", "Failed");
    let log = kubectl.run(["logs", "job/before-release"]);
    assert!(log.contains("does not become ready") && log.contains("missing"), "{log}");
    // By hand it is the same, and as who may read classes it is known at once.
    let failed = kubectl.plugin(&["snapshot", "data", "--class", "missing", "--wait"]);
    assert!(failed.bad(1).contains("no VolumeSnapshotClass \"missing\""), "{failed:?}");
    kubectl.run(["delete", "jobs", "--all", "--timeout", "180s"]);
}
