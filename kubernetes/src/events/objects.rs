//! Which claim, and which snapshot, something is about.
//!
//! What the sidecars make is found by its name, which follows from the object's uid: a volume is called `pvc-<uid of the claim>`,
//! as is its PersistentVolume; a snapshot `snapshot-<uid of the VolumeSnapshot>`, and its content `snapcontent-<uid>`. A name is a
//! hint and no more: what is found has to have the handle. Whatever has another name, such as what was imported or is a member
//! of a group, is looked for among all, page by page, and that no more than once in a while.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition},
    jiff::{SignedDuration, Timestamp},
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::Value;
use varve_csi::identity::DRIVER;

use super::{
    plan::{Object, Volume},
    write::{Failure, asked},
};

/// How often all are looked at for one that is not found by its name.
const LISTED: SignedDuration = SignedDuration::from_secs(60);

/// How many are asked for at a time.
const PAGE: u32 = 500;

/// Most handles that are remembered.
const MOST: usize = 10_000;

const SNAPSHOTS: &str = "snapshot.storage.k8s.io";

/// A claim, and what it says of itself.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) reference: ObjectReference,
    pub(super) conditions: Vec<PersistentVolumeClaimCondition>,
}

/// What the API knows of volumes and snapshots.
pub(super) struct Objects {
    client: Client,
    contents: Handles,
    volumes: Handles,
}

/// To whom handles belong, as of the last look at all of them.
#[derive(Debug, Default)]
struct Handles {
    looked: Option<Timestamp>,
    known: BTreeMap<String, ObjectReference>,
}

impl Handles {
    /// Whether it is time to look at all of them again.
    fn is_due(&self, now: Timestamp) -> bool {
        self.looked.is_none_or(|looked| now.duration_since(looked) >= LISTED)
    }

    fn replace(&mut self, known: BTreeMap<String, ObjectReference>, now: Timestamp) {
        *self = Self { looked: Some(now), known };
    }
}

impl Objects {
    pub(super) fn new(client: Client) -> Self {
        Self { client, contents: Handles::default(), volumes: Handles::default() }
    }

    /// Finds what somebody is to be told of; `None` where there is no such object, or it is not this driver's.
    pub(super) async fn find(&mut self, object: &Object, now: Timestamp) -> Result<Option<ObjectReference>, Failure> {
        match object {
            Object::Snapshot { id, name } => self.snapshot(id, name, now).await,
            Object::Claim(volume) => Ok(self.claim(volume, now).await?.map(|claim| claim.reference)),
        }
    }

    async fn snapshot(&mut self, id: &str, name: &str, now: Timestamp) -> Result<Option<ObjectReference>, Failure> {
        let contents: Api<DynamicObject> = Api::all_with(self.client.clone(), &contents());
        if let Some(uid) = name.strip_prefix("snapshot-")
            && let Some(content) = asked(contents.get_opt(&format!("snapcontent-{uid}"))).await?
            && let Some(found) = snapshot_of(&content)
            && (found.handle.is_none_or(|handle| handle == id) || id.is_empty())
        {
            return Ok(Some(found.reference));
        }
        if id.is_empty() {
            return Ok(None);
        }
        if !self.contents.known.contains_key(id) && self.contents.is_due(now) {
            let known = every(&contents, |content| {
                let found = snapshot_of(content)?;
                Some((found.handle?.to_owned(), found.reference))
            });
            self.contents.replace(known.await?, now);
        }
        Ok(self.contents.known.get(id).cloned())
    }

    /// Finds the claim that a volume is bound to, or made for.
    pub(super) async fn claim(&mut self, volume: &Volume, now: Timestamp) -> Result<Option<Claim>, Failure> {
        if let Some((namespace, name)) = &volume.claim {
            let claim = self.read_claim(namespace, name).await?;
            return Ok(claim.filter(|claim| claim.reference.uid.as_deref().is_some_and(|uid| is_of(&volume.name, uid))));
        }
        let Some(reference) = self.bound_to(volume, now).await? else { return Ok(None) };
        let (Some(namespace), Some(name)) = (&reference.namespace, &reference.name) else { return Ok(None) };
        let claim = self.read_claim(namespace, name).await?;
        Ok(claim.filter(|claim| claim.reference.uid == reference.uid))
    }

    /// What the volume's PersistentVolume says that it is bound to.
    async fn bound_to(&mut self, volume: &Volume, now: Timestamp) -> Result<Option<ObjectReference>, Failure> {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        if !volume.name.is_empty()
            && let Some(found) = asked(volumes.get_opt(&volume.name)).await?
            && let Some((handle, reference)) = claim_of(&found)
            && handle == volume.id
        {
            return Ok(Some(reference));
        }
        if !self.volumes.known.contains_key(&volume.id) && self.volumes.is_due(now) {
            self.volumes.replace(every(&volumes, claim_of).await?, now);
        }
        Ok(self.volumes.known.get(&volume.id).cloned())
    }

    async fn read_claim(&self, namespace: &str, name: &str) -> Result<Option<Claim>, Failure> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        Ok(asked(claims.get_opt(name)).await?.map(|claim| Claim {
            reference: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                uid: claim.metadata.uid,
                ..ObjectReference::default()
            },
            conditions: claim.status.and_then(|status| status.conditions).unwrap_or_default(),
        }))
    }
}

/// Whether a name is the one that the provisioner gives to what it makes for an object.
fn is_of(name: &str, uid: &str) -> bool {
    !uid.is_empty() && name.ends_with(uid)
}

/// VolumeSnapshotContents, of which no more is read than is looked for.
pub(super) fn contents() -> ApiResource {
    ApiResource {
        group: SNAPSHOTS.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{SNAPSHOTS}/v1"),
        kind: "VolumeSnapshotContent".to_owned(),
        plural: "volumesnapshotcontents".to_owned(),
    }
}

/// What a content says of its snapshot.
struct Snapshot<'a> {
    handle: Option<&'a str>,
    reference: ObjectReference,
}

fn snapshot_of(content: &DynamicObject) -> Option<Snapshot<'_>> {
    let (spec, status) = (content.data.get("spec")?, content.data.get("status"));
    if spec.get("driver")?.as_str()? != DRIVER {
        return None;
    }
    let handle = status.and_then(|status| status.get("snapshotHandle")?.as_str());
    let given = || spec.get("source")?.get("snapshotHandle")?.as_str();
    Some(Snapshot { handle: handle.or_else(given), reference: reference_of(spec.get("volumeSnapshotRef")?)? })
}

/// The snapshot that a content names as its own.
pub(super) fn reference_of(snapshot: &Value) -> Option<ObjectReference> {
    let text = |field: &str| snapshot.get(field).and_then(Value::as_str).map(str::to_owned);
    Some(ObjectReference {
        api_version: Some(format!("{SNAPSHOTS}/v1")),
        kind: Some("VolumeSnapshot".to_owned()),
        namespace: Some(text("namespace")?),
        name: Some(text("name")?),
        uid: Some(text("uid")?),
        ..ObjectReference::default()
    })
}

fn claim_of(volume: &PersistentVolume) -> Option<(String, ObjectReference)> {
    let spec = volume.spec.as_ref()?;
    let csi = spec.csi.as_ref().filter(|csi| csi.driver == DRIVER)?;
    Some((csi.volume_handle.clone(), spec.claim_ref.clone()?))
}

/// Looks at all objects of a kind, page by page, and keeps what is to be remembered of each.
async fn every<K>(
    api: &Api<K>,
    keep: impl Fn(&K) -> Option<(String, ObjectReference)>,
) -> Result<BTreeMap<String, ObjectReference>, Failure>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut kept = BTreeMap::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = asked(api.list(&page)).await?;
        kept.extend(list.items.iter().filter_map(&keep).take(MOST - kept.len()));
        match list.metadata.continue_ {
            Some(next) if !next.is_empty() && kept.len() < MOST => page = page.continue_token(&next),
            _ => return Ok(kept),
        }
    }
}
