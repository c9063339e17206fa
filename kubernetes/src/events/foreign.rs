//! Snapshots that nobody takes: of a volume of this driver's, by a class of another driver's.
//!
//! Kubernetes takes any class for any claim and hands the snapshot to the driver that the class names. Where that one is not
//! there, nobody ever says anything; where it is, it does not know the volume. So it is said here what is wrong.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    api::DynamicObject,
    runtime::{WatchStreamExt as _, watcher},
};
use varve_controller::is_volume_handle;
use varve_csi::{identity::DRIVER, status::chain};

use super::{
    Clock,
    objects::{contents, reference_of},
    plan::Telling,
    write,
};

/// The reason that stands in the event.
pub(super) const REASON: &str = "ForeignClass";

/// Tells of each such snapshot once, as long as it is polled.
pub(super) async fn watch(client: Client, clock: Clock) {
    let every: Api<DynamicObject> = Api::all_with(client.clone(), &contents());
    let changed = watcher(every, watcher::Config::default()).default_backoff().applied_objects();
    changed
        .for_each(async |content| {
            let content = match content {
                Ok(content) => content,
                // A watch that breaks is taken up again, and a cluster may know no snapshots at all.
                Err(error) => return tracing::debug!(error = chain(&error), "snapshots are not watched"),
            };
            let Some((snapshot, message)) = foreign(&content) else { return };
            let telling = Telling::of_snapshot(REASON, message);
            if let Err(error) = write::event(&client, &snapshot, &telling, clock()).await
                && !error.is_gone()
            {
                tracing::warn!(error = chain(&error), "nobody is told of a snapshot by a class of another driver");
            }
        })
        .await;
}

/// The snapshot of a content that asks another driver for a volume of this one, and what is to be said of it.
fn foreign(content: &DynamicObject) -> Option<(ObjectReference, String)> {
    let spec = content.data.get("spec")?;
    let driver = spec.get("driver")?.as_str().filter(|driver| *driver != DRIVER)?;
    let volume = spec.get("source")?.get("volumeHandle")?.as_str().filter(|handle| is_volume_handle(handle))?;
    let class = spec.get("volumeSnapshotClassName").and_then(|class| class.as_str()).unwrap_or_default();
    let name = content.metadata.name.as_deref().unwrap_or_default();
    let message = format!(
        "VolumeSnapshotClass {class:?} is of driver {driver:?}, which does not know volume {volume} of {DRIVER}: take a \
         snapshot of a class of {DRIVER}, and delete this one (where {driver:?} is not installed, it goes once the finalizers \
         are taken off VolumeSnapshotContent {name:?})"
    );
    Some((reference_of(spec.get("volumeSnapshotRef")?)?, message))
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use serde_json::{Value, json};

    use super::*;

    fn content(driver: &str, source: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": { "name": "c" },
            "spec": {
                "driver": driver, "source": source, "volumeSnapshotClassName": "other",
                "volumeSnapshotRef": { "namespace": "shop", "name": "monday", "uid": "s1" },
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_volume_of_ours_that_another_driver_is_asked_for_is_told_of() {
        let ours = format!("vol-{}", "07".repeat(16));
        let (snapshot, message) = foreign(&content("csi.example.net", json!({ "volumeHandle": ours }))).unwrap();
        assert_eq!((snapshot.name.as_deref(), snapshot.uid.as_deref()), (Some("monday"), Some("s1")));
        for word in ["\"other\"", "\"csi.example.net\"", ours.as_str(), DRIVER] {
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn what_concerns_one_driver_alone_is_not() {
        let ours = format!("vol-{}", "07".repeat(16));
        for content in [
            content(DRIVER, json!({ "volumeHandle": ours })),
            content("csi.example.net", json!({ "volumeHandle": "its-own" })),
            content("csi.example.net", json!({ "snapshotHandle": "its-own" })),
        ] {
            assert_eq!(foreign(&content), None);
        }
    }
}
