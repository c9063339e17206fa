//! Making a claim from a snapshot: in the snapshot's own namespace, or in another, to which it is made known first.
//!
//! A claim names a snapshot of its own namespace, and no other. So for another namespace a second pair of objects is made
//! there, for the same snapshot of the driver's; it belongs to nobody but itself, and deleting it deletes no data.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::{
    api::{
        core::v1::{
            PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference, VolumeResourceRequirements,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{
    ResourceExt as _,
    api::ListParams,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::Serialize;
use tokio::time::timeout;
use varve_csi::{identity::DRIVER, status::chain};

use super::{DURABILITY, MANAGED_BY, MANAGER, Place, Surroundings, pair::content_name, take::LONGEST_NAME};
use crate::{
    cluster::{Cluster, Error, create, list, read},
    object::{GROUP, VolumeSnapshot, VolumeSnapshotContent},
    quantity,
};

/// A claim that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub claim: String,
    /// The snapshot's namespace.
    pub from_namespace: String,
    /// The snapshot.
    pub from: String,
    /// Its size in bytes; that of the snapshot's claim, or of the snapshot, where none is given.
    pub bytes: Option<u64>,
    /// Its storage class; that of the snapshot's claim where none is given.
    pub class: Option<String>,
    /// How it may be used; as the snapshot's claim where nothing is given, else `ReadWriteOnce`.
    pub access: Vec<String>,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The claim's namespace.
    pub namespace: String,
    /// The claim.
    pub claim: String,
    /// The snapshot of that namespace that it is made from.
    pub snapshot: String,
    /// Its size, as a quantity.
    pub size: String,
    /// Its storage class.
    pub class: String,
    /// Whether a volume is made at once; else with the first pod.
    pub at_once: bool,
}

/// What a snapshot says of claims that are made from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Origin {
    bytes: u64,
    /// `Filesystem` or `Block`.
    mode: Option<String>,
    handle: String,
    durability: Option<&'static str>,
}

/// Names a snapshot in a namespace that it is made known to.
fn foreign_name(snapshot: &str, namespace: &str) -> String {
    let suffix = format!("-from-{namespace}");
    let snapshot = &snapshot[..snapshot.len().min(LONGEST_NAME - suffix.len())];
    format!("{}{suffix}", snapshot.trim_end_matches(['-', '.']))
}

/// Says what a claim asks for: what is ordered, else what the claim asked for that the snapshot is of, else what the snapshot
/// says. `classes` are those of the driver, for who has to choose one.
fn specify(
    order: &Order,
    origin: &Origin,
    source: Option<&PersistentVolumeClaim>,
    classes: &[String],
) -> Result<PersistentVolumeClaimSpec, Error> {
    let source = source.and_then(|claim| claim.spec.as_ref());
    let asked = source.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    let bytes = match order.bytes {
        Some(bytes) if bytes < origin.bytes => {
            return Err(Error::Unusable(format!(
                "--size is {}, less than the snapshot has: expected at least {}",
                quantity::write(bytes),
                quantity::write(origin.bytes)
            )));
        }
        Some(bytes) => bytes,
        None => asked.and_then(|asked| quantity::bytes(&asked.0)).unwrap_or_default().max(origin.bytes),
    };
    if bytes == 0 {
        return Err(Error::Unusable(
            "the snapshot does not say how large it is: expected --size, as in 10Gi".to_owned(),
        ));
    }
    let class = order.class.clone().or_else(|| source.and_then(|spec| spec.storage_class_name.clone()));
    let class = class.ok_or_else(|| {
        let known = match classes {
            [] => format!("a class of {DRIVER}"),
            classes => format!("one of {}", classes.join(", ")),
        };
        Error::Unusable(format!("the claim that the snapshot is of is gone: expected --storage-class, {known}"))
    })?;
    let access = match (order.access.as_slice(), source.and_then(|spec| spec.access_modes.clone())) {
        ([], Some(modes)) => modes,
        ([], None) => vec!["ReadWriteOnce".to_owned()],
        (modes, _) => modes.to_vec(),
    };
    let mode = origin.mode.clone().or_else(|| source.and_then(|spec| spec.volume_mode.clone()));
    Ok(PersistentVolumeClaimSpec {
        access_modes: Some(access),
        resources: Some(VolumeResourceRequirements {
            requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(quantity::write(bytes)))])),
            limits: None,
        }),
        storage_class_name: Some(class),
        volume_mode: mode,
        ..PersistentVolumeClaimSpec::default()
    })
}

impl Origin {
    fn of(snapshot: &VolumeSnapshot, around: &Surroundings) -> Result<Self, Error> {
        let name = snapshot.name_any();
        let Some(described) = around.describe(snapshot) else {
            return Err(Error::Unfit(format!("VolumeSnapshot {name:?} is of another driver, not of {DRIVER}")));
        };
        if !snapshot.is_ready() {
            let why = described.error.unwrap_or_else(|| "it is on its way".to_owned());
            return Err(Error::Unfit(format!(
                "VolumeSnapshot {name:?} is not ready: {why}; \
                 `kubectl wait volumesnapshot/{name} --for=jsonpath='{{.status.readyToUse}}'=true` waits for it"
            )));
        }
        Ok(Self {
            bytes: described.size_bytes.unwrap_or_default(),
            mode: around.content(snapshot).and_then(|content| content.spec.source_volume_mode.clone()),
            handle: described.handle.unwrap_or_default(),
            durability: match described.place {
                Place::Bucket => Some("bucket"),
                Place::Node { .. } => Some("node"),
                Place::Unknown => None,
            },
        })
    }
}

impl Cluster {
    /// Makes a claim from a snapshot. Its volume is made by the provisioner, at once or with its first pod.
    ///
    /// # Errors
    /// [`Error::Unusable`] where a claim of the name is there, or something is missing that only who asks can say;
    /// [`Error::Unfit`] where the snapshot is missing or not ready; and the API server's.
    pub async fn restore(&self, order: &Order) -> Result<Restored, Error> {
        let claims = self.within::<PersistentVolumeClaim>(&order.namespace);
        if read(&claims, &order.claim).await?.is_some() {
            return Err(taken(order));
        }
        let found = read(&self.within::<VolumeSnapshot>(&order.from_namespace), &order.from).await?;
        let snapshot = found.ok_or_else(|| {
            let (from, namespace) = (&order.from, &order.from_namespace);
            Error::Unfit(format!(
                "no VolumeSnapshot {from:?} in namespace {namespace:?}: `kubectl varve snapshots -A` names those that are there"
            ))
        })?;
        let origin = Origin::of(&snapshot, &self.surroundings().await?)?;
        let source = match snapshot.claim() {
            Some(claim) => read(&self.within::<PersistentVolumeClaim>(&order.from_namespace), claim).await?,
            None => None,
        };
        let classes = match list(&self.all::<StorageClass>(), &ListParams::default()).await {
            Err(error) if error.is_forbidden() => Vec::new(),
            classes => classes?,
        };
        let ours: Vec<_> =
            classes.iter().filter(|class| class.provisioner == DRIVER).map(|class| class.name_any()).collect();
        let mut spec = specify(order, &origin, source.as_ref(), &ours)?;
        let elsewhere = order.namespace != order.from_namespace;
        let name = if elsewhere { self.make_known(order, &origin).await? } else { order.from.clone() };
        let (api_group, kind) = (Some(GROUP.to_owned()), "VolumeSnapshot".to_owned());
        spec.data_source = Some(TypedLocalObjectReference { api_group, kind, name: name.clone() });
        let metadata = ObjectMeta {
            name: Some(order.claim.clone()),
            namespace: Some(order.namespace.clone()),
            ..ObjectMeta::default()
        };
        let wanted = PersistentVolumeClaim { metadata, spec: Some(spec), status: None };
        let made = create(&claims, &wanted).await?.ok_or_else(|| taken(order))?;
        let spec = made.spec.unwrap_or_default();
        let class = spec.storage_class_name.unwrap_or_default();
        let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
        let binding = classes.iter().find(|known| known.name_any() == class);
        Ok(Restored {
            namespace: order.namespace.clone(),
            claim: order.claim.clone(),
            snapshot: name,
            size: requests.get("storage").map(|size| size.0.clone()).unwrap_or_default(),
            at_once: binding.is_none_or(|class| class.volume_binding_mode.as_deref() != Some("WaitForFirstConsumer")),
            class,
        })
    }

    /// Waits until a claim has its volume. What goes wrong meanwhile is told to `news`.
    ///
    /// # Errors
    /// [`Error::Unfit`] with what is told of the claim where it takes too long, and the API server's refusals.
    pub async fn wait_until_bound(
        &self,
        restored: &Restored,
        patience: Duration,
        mut news: impl FnMut(&str),
    ) -> Result<(), Error> {
        let Restored { namespace, claim, .. } = restored;
        let watched = watcher::watch_object(self.within::<PersistentVolumeClaim>(namespace), claim).default_backoff();
        let mut watched = pin!(watched);
        let bound = async {
            loop {
                match watched.next().await {
                    Some(Ok(Some(found))) => {
                        if found.status.and_then(|status| status.phase).as_deref() == Some("Bound") {
                            return Ok(());
                        }
                    }
                    Some(Ok(None)) | None => return Err(Error::Unfit(format!("claim {claim:?} is gone"))),
                    Some(Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)))
                        if Error::refused("", &error).is_forbidden() =>
                    {
                        return Err(Error::refused("watching claims", &error));
                    }
                    Some(Err(error)) => news(&chain(&error)),
                }
            }
        };
        match timeout(patience, bound).await {
            Ok(ended) => ended,
            Err(_) => {
                let events = self.events(namespace, "PersistentVolumeClaim", claim).await.unwrap_or_default();
                let last = events.last().map_or("nothing is told of it", String::as_str);
                Err(Error::Unfit(format!("claim {claim:?} has no volume after {patience:?}: {last}")))
            }
        }
    }

    /// Makes a snapshot of another namespace known in the claim's, and returns its name there.
    async fn make_known(&self, order: &Order, origin: &Origin) -> Result<String, Error> {
        if origin.handle.is_empty() {
            return Err(Error::Unfit(format!(
                "the driver's id of VolumeSnapshot {:?} is not known, since its content may not be read: another namespace \
                 needs it",
                order.from
            )));
        }
        let name = foreign_name(&order.from, &order.from_namespace);
        let content_name = content_name(&origin.handle, &order.namespace);
        let (handle, mode) = (&origin.handle, origin.mode.as_deref());
        let mut content = VolumeSnapshotContent::of_handle(&content_name, handle, mode, &order.namespace, &name);
        content.labels_mut().insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        if let Some(durability) = origin.durability {
            content.labels_mut().insert(DURABILITY.to_owned(), durability.to_owned());
        }
        self.make_pair(&content).await.map(|pair| pair.snapshot)
    }
}

fn taken(order: &Order) -> Error {
    let Order { claim, namespace, .. } = order;
    Error::Unusable(format!(
        "claim {claim:?} is in namespace {namespace:?} already, and is not touched: expected another name, or \
         `kubectl --namespace {namespace} delete pvc {claim}` first, which deletes what is in it"
    ))
}

#[cfg(test)]
mod tests;
