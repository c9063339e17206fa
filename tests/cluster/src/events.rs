//! What users are told of what is going on: events on their claims and snapshots.

use crate::scene::{Claim, Pod, Scene};

/// A claim that is filled from the repository says so, and when it is done; its snapshot says that it was backed up.
pub(crate) fn restore_is_told_of(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { node: Some("node-1"), claim: Some("data"), ..Pod::default() });
    let written = scene.write("writer", "first");
    scene.snapshot("snapshot", "data");
    scene.kubectl.wait_for_event("volumesnapshot/snapshot", &["the snapshot is backed up", "changed", "sent"]);
    // On the other node nothing of it is there.
    scene.claim("restored", &Claim { source: Some(("VolumeSnapshot", "snapshot")), ..Claim::default() });
    scene.pod("reader", &Pod { node: Some("node-2"), claim: Some("restored"), ..Pod::default() });
    assert_eq!(scene.read("reader"), written);
    scene.kubectl.wait_for_event("pvc/restored", &["the volume is restored from snapshot", "written", "fetched"]);
    // Two controllers run, and each step is told once.
    let of_claim = "involvedObject.kind=PersistentVolumeClaim,involvedObject.name=restored,reason=Hydrated";
    let path = "jsonpath={range .items[*]}{.type} {.count}{\"\\n\"}{end}";
    let events = scene.kubectl.run(["get", "events", "--field-selector", of_claim, "--output", path]);
    assert_eq!(events.trim(), "Normal 1");
    let hydrating =
        scene.kubectl.field("pvc/restored", ".status.conditions[?(@.type==\"csi.varve.io/Hydrating\")].status");
    assert!(hydrating.is_empty() || hydrating == "False", "{hydrating}");
}

/// While the store is away a snapshot says so, and that it is tried again; when the store is back, it becomes ready.
pub(crate) fn silent_store_is_told_of(scene: &Scene<'_>) {
    scene.claim("data", &Claim::default());
    scene.pod("writer", &Pod { claim: Some("data"), ..Pod::default() });
    scene.write("writer", "first");
    scene.driver.stop_store();
    scene.begin_snapshot("snapshot", "data");
    let told = ["the store does not answer", "it is tried again by itself"];
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        scene.kubectl.wait_for_event("volumesnapshot/snapshot", &told);
    }));
    // Whatever came of it: the cases behind this one need the store.
    scene.driver.start_store();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    scene.kubectl.wait_for_field("volumesnapshot/snapshot", ".status.readyToUse", "true");
    scene.kubectl.wait_for_event("volumesnapshot/snapshot", &["the snapshot is backed up"]);
}
