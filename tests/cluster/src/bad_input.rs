//! What users get wrong: an event on the object says what is wrong and how to right it.

use serde_json::json;

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
