//! Events and conditions, as they are written.
//!
//! # Concurrency
//! An event's name follows from its object, its reason and the step that it tells. Of several controllers that tell the same, one
//! makes it and the others find it there. One that tells of what lasts is counted up by whoever finds that it was not for a
//! while, on the version that was read: of two at once one does so.
//!
//! Each kind of condition is applied by a field manager of its own (server-side apply), so that nobody else's conditions are
//! touched.

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    objects::Claim,
    plan::{AGAIN, Condition, Telling},
};

/// Who tells.
const COMPONENT: &str = "varve-controller";

/// How long the API may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest part of an object's name in that of an event, which has room for 253 bytes.
const LONGEST_NAME: usize = 200;

/// Why something was not told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The API refused, or cannot be reached.
    #[error("asking the Kubernetes API")]
    Api(#[from] kube::Error),
    /// The API did not answer.
    #[error("the Kubernetes API did not answer within {PATIENCE:?}")]
    Silent,
}

impl Failure {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            Self::Api(_) | Self::Silent => None,
        }
    }

    /// Whether asking again is of no use.
    pub(super) fn is_final(&self) -> bool {
        self.code().is_some_and(|code| (400..500).contains(&code) && code != 408 && code != 429)
    }

    /// Whether the object is not there any more, or about to go with its namespace.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Api(kube::Error::Api(status)) => {
                let mut causes = status.details.iter().flat_map(|details| &details.causes);
                status.code == 404 || causes.any(|cause| cause.reason == "NamespaceTerminating")
            }
            Self::Api(_) | Self::Silent => false,
        }
    }
}

/// Waits for an answer of the API, for a while.
pub(super) async fn asked<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    Ok(timeout(PATIENCE, call).await.map_err(|_| Failure::Silent)??)
}

/// Writes an event about an object, or counts the one that is there.
pub(super) async fn event(
    client: &Client,
    object: &ObjectReference,
    telling: &Telling,
    now: Timestamp,
) -> Result<(), Failure> {
    let namespace = object.namespace.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let name = name_of(object, telling);
    let event = Event {
        metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: object.clone(),
        type_: Some(if telling.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(telling.reason.clone()),
        message: Some(telling.message.clone()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        ..Event::default()
    };
    match asked(events.create(&PostParams::default(), &event)).await {
        Ok(_) => Ok(()),
        // It is told already; what lasts is told again.
        Err(failure) if failure.code() == Some(409) => {
            if telling.step.lasts() {
                count(&events, &name, telling, now).await
            } else {
                Ok(())
            }
        }
        Err(failure) => Err(failure),
    }
}

/// Counts up an event that is there, unless that was done just now.
async fn count(events: &Api<Event>, name: &str, telling: &Telling, now: Timestamp) -> Result<(), Failure> {
    let Some(present) = asked(events.get_opt(name)).await? else { return Ok(()) };
    let recent = |Time(last): &Time| now.duration_since(*last) < AGAIN / 2;
    if present.last_timestamp.as_ref().is_some_and(recent) {
        return Ok(());
    }
    let change = json!({
        "metadata": { "resourceVersion": present.metadata.resource_version },
        "message": telling.message, "lastTimestamp": Time(now),
        "count": present.count.unwrap_or(1).saturating_add(1),
    });
    match asked(events.patch(name, &PatchParams::default(), &Patch::Merge(&change))).await {
        // Another controller was first.
        Err(failure) if failure.code() == Some(409) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Says of a claim that a condition holds, or does not. One that never held is not mentioned.
pub(super) async fn condition(
    client: &Client,
    claim: &Claim,
    condition: &Condition,
    now: Timestamp,
) -> Result<(), Failure> {
    let status = if condition.holds { "True" } else { "False" };
    let present = claim.conditions.iter().find(|present| present.type_ == condition.kind);
    if !condition.holds && present.is_none_or(|present| present.status == status) {
        return Ok(());
    }
    let since =
        present.filter(|present| present.status == status).and_then(|present| present.last_transition_time.clone());
    let ObjectReference { namespace, name, uid, .. } = &claim.reference;
    let applied = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "namespace": namespace, "name": name, "uid": uid },
        "status": { "conditions": [{
            "type": condition.kind, "status": status, "reason": condition.reason, "message": condition.message,
            "lastTransitionTime": since.unwrap_or(Time(now)),
        }] },
    });
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace.as_deref().unwrap_or_default());
    let manager = PatchParams::apply(&format!("{COMPONENT}-{}", manager_of(condition.kind))).force();
    asked(claims.patch_status(name.as_deref().unwrap_or_default(), &manager, &Patch::Apply(&applied))).await.map(drop)
}

/// The part of a condition's type behind the driver's name.
fn manager_of(kind: &str) -> String {
    kind.rsplit('/').next().unwrap_or(kind).to_lowercase()
}

/// The event's name: the object's, and a hash of what is told of which object.
fn name_of(object: &ObjectReference, telling: &Telling) -> String {
    let text = format!("{}\0{}\0{:?}", object.uid.as_deref().unwrap_or_default(), telling.reason, telling.step);
    let name = object.name.as_deref().unwrap_or_default();
    let name = name[..name.floor_char_boundary(LONGEST_NAME)].trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{name}.{:016x}", fnv1a(text.as_bytes()))
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo): the same in every version of the program, so that those that run beside one another
/// agree.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
