//! All that a cluster knows of one snapshot: what it is of, where it came from, and whether it can be restored.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{ResourceExt as _, api::ListParams};
use serde::Serialize;

use super::{Place, Snapshot, State, handle_of, node_of};
use crate::{
    cluster::{Cluster, Error, list, read},
    object::VolumeSnapshot,
};

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The snapshot itself.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// Whether a claim can be made from it now.
    pub restorable: bool,
    /// Why not, or what it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Whether the claim that it is of is still there.
    pub claim_is_there: Option<bool>,
    /// The driver's id of the volume that it is of.
    pub volume: Option<String>,
    /// The node of that volume, while the volume is there.
    pub node: Option<String>,
    /// The object that says what the driver has.
    pub content: Option<String>,
    /// What becomes of the driver's snapshot when its object is deleted: `Delete` or `Retain`.
    pub deletion_policy: Option<String>,
    /// Claims of its namespace that are made from it.
    pub claims_from_it: Vec<String>,
    /// What was told of it, the newest last.
    pub events: Vec<String>,
    /// What may not be read, and so is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

/// Says whether a claim can be made from a snapshot, and why not, or what it takes.
fn judge(snapshot: &Snapshot, nodes: Option<&[String]>) -> (bool, Option<String>) {
    match (snapshot.state, &snapshot.place) {
        (State::Failed, _) => {
            let why = snapshot.error.as_deref().unwrap_or("no reason is told");
            (false, Some(format!("it is not ready, and is tried again: {why}")))
        }
        (State::Pending, _) => (false, Some("it is not ready yet: it is on its way into the repository".to_owned())),
        (State::Ready, Place::Node { name: Some(name) }) => match nodes {
            Some(nodes) if !nodes.contains(name) => {
                (false, Some(format!("node {name:?}, which alone has it, is gone")))
            }
            _ => (true, Some(format!("only on node {name:?}, and only while that node has its pool"))),
        },
        (State::Ready, Place::Node { name: None }) => (true, Some("only on the node that has it".to_owned())),
        (State::Ready, Place::Bucket | Place::Unknown) => (true, None),
    }
}

impl Cluster {
    /// Gathers what is known of a snapshot.
    ///
    /// # Errors
    /// [`Error::Unfit`] where there is none, or it is another driver's; and the API server's.
    pub async fn explain(&self, namespace: &str, name: &str) -> Result<Explanation, Error> {
        let found = read(&self.within::<VolumeSnapshot>(namespace), name).await?;
        let found = found.ok_or_else(|| {
            Error::Unfit(format!(
                "no VolumeSnapshot {name:?} in namespace {namespace:?}: `kubectl varve snapshots -A` names those that are there"
            ))
        })?;
        let around = self.surroundings().await?;
        let snapshot = around
            .describe(&found)
            .ok_or_else(|| Error::Unfit(format!("VolumeSnapshot {name:?} is of another driver")))?;
        let content = around.content(&found);
        let mut unread = around.unread.clone();
        let mut note = |error: Error| match error.is_forbidden() {
            true => {
                unread.push(error.to_string());
                Ok(())
            }
            false => Err(error),
        };
        let claims = match list(&self.within::<PersistentVolumeClaim>(namespace), &ListParams::default()).await {
            Ok(claims) => Some(claims),
            Err(error) => note(error).map(|()| None)?,
        };
        let volumes = match list(&self.all::<PersistentVolume>(), &ListParams::default()).await {
            Ok(volumes) => volumes,
            // Told with the surroundings.
            Err(error) if error.is_forbidden() => Vec::new(),
            Err(error) => return Err(error),
        };
        let nodes = match self.nodes_with_driver().await {
            Ok(nodes) => Some(nodes),
            Err(error) => note(error).map(|()| None)?,
        };
        let claim_is_there = claims.as_ref().zip(snapshot.claim.as_ref());
        let claim_is_there = claim_is_there.map(|(claims, name)| claims.iter().any(|claim| claim.name_any() == *name));
        let volume = content.and_then(|content| content.spec.source.volume_handle.clone());
        let of_volume = volumes.iter().find(|one| volume.is_some() && handle_of(one) == volume.as_deref());
        let (restorable, condition) = judge(&snapshot, nodes.as_deref());
        Ok(Explanation {
            restorable,
            condition,
            claim_is_there,
            node: of_volume.and_then(node_of).map(str::to_owned),
            volume,
            content: content.map(|content| content.name_any()),
            deletion_policy: content.map(|content| content.spec.deletion_policy.clone()),
            claims_from_it: claims
                .iter()
                .flatten()
                .filter(|claim| is_from(claim, name))
                .map(|claim| claim.name_any())
                .collect(),
            events: self.events(namespace, "VolumeSnapshot", name).await?,
            unread,
            snapshot,
        })
    }
}

fn is_from(claim: &PersistentVolumeClaim, snapshot: &str) -> bool {
    let source = claim.spec.as_ref().and_then(|spec| spec.data_source.as_ref());
    source.is_some_and(|source| source.kind == "VolumeSnapshot" && source.name == snapshot)
}

#[cfg(test)]
mod tests;
