//! The controller itself: what it works with, and what it can do.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;
use varve_csi::exclusive::{Exclusive, Held};
use varve_proto::csi::{
    self,
    controller_service_capability::{self, rpc::Type as Can},
    group_controller_service_capability::{self, rpc::Type as CanGroup},
    plugin_capability,
};
use varve_repository::{Repository, check::Report};

use crate::{fleet::Fleet, metadata::WALKS, nodes::Nodes, volume::health::Verdicts};

/// What a controller is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long `CreateSnapshot` waits for a small offload to end before it answers "not ready yet".
    pub snapshot_wait: Duration,
    /// How long a node may take to answer a question that costs it no work, before it counts as unreachable.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { snapshot_wait: Duration::from_secs(2), patience: Duration::from_secs(5) }
    }
}

/// The CSI Controller, GroupController and SnapshotMetadata services. Cloning is cheap and shares everything.
#[derive(Clone, Debug)]
pub struct Controller {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    repository: Repository,
    fleet: Fleet,
    options: Options,
    exclusive: Exclusive,
    verdicts: Verdicts,
    walks: Semaphore,
}

impl Controller {
    /// Makes a controller of a repository and the nodes of a cluster.
    #[must_use]
    pub fn new(repository: Repository, nodes: Arc<dyn Nodes>, options: Options) -> Self {
        let fleet = Fleet::new(nodes, options.patience);
        let inner = Inner {
            repository,
            fleet,
            options,
            exclusive: Exclusive::default(),
            verdicts: Verdicts::default(),
            walks: Semaphore::new(WALKS),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The plugin capabilities that hold wherever a controller runs, for the Identity service.
    #[must_use]
    pub fn plugin_capabilities() -> Vec<csi::PluginCapability> {
        use plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};
        let service = |capability: service::Type| Type::Service(Service { r#type: capability.into() });
        [
            service(service::Type::ControllerService),
            service(service::Type::VolumeAccessibilityConstraints),
            service(service::Type::GroupControllerService),
            service(service::Type::SnapshotMetadataService),
            service(service::Type::SnapshotAccessibilityConstraints),
            Type::VolumeExpansion(VolumeExpansion { r#type: volume_expansion::Type::Online.into() }),
        ]
        .map(|capability| csi::PluginCapability { r#type: Some(capability) })
        .into()
    }

    /// Takes what a check of the repository found: the health of volumes whose snapshots it hurts says so, until the
    /// next report.
    pub fn take_report(&self, report: &Report) {
        self.inner.verdicts.replace(report);
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.inner.repository
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.inner.fleet
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn verdicts(&self) -> &Verdicts {
        &self.inner.verdicts
    }

    /// Waits for one's turn to walk over the runs of snapshots.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub(crate) async fn walk(&self) -> SemaphorePermit<'_> {
        self.inner.walks.acquire().await.expect("the semaphore is never closed")
    }

    /// How many handles of this controller there are: its calls hold some.
    #[cfg(test)]
    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.inner)
    }

    /// Takes an object for the length of a call.
    ///
    /// # Errors
    /// `ABORTED` where another call has it.
    pub(crate) fn hold(&self, object: impl Into<String>) -> Result<Held, Status> {
        self.inner.exclusive.hold(object)
    }
}

/// What the Controller service can do.
pub(crate) fn capabilities() -> Vec<csi::ControllerServiceCapability> {
    use controller_service_capability::{Rpc, Type};
    [
        Can::CreateDeleteVolume,
        Can::PublishUnpublishVolume,
        Can::ListVolumes,
        Can::GetCapacity,
        Can::CreateDeleteSnapshot,
        Can::ListSnapshots,
        Can::CloneVolume,
        Can::PublishReadonly,
        Can::ExpandVolume,
        Can::ListVolumesPublishedNodes,
        Can::GetVolume,
        Can::SingleNodeMultiWriter,
        Can::ModifyVolume,
        Can::GetSnapshot,
        Can::GetVolumeHealth,
        Can::ListVolumeHealth,
    ]
    .map(|can| csi::ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: can.into() })) })
    .into()
}

/// What the GroupController service can do.
pub(crate) fn group_capabilities() -> Vec<csi::GroupControllerServiceCapability> {
    use group_controller_service_capability::{Rpc, Type};
    let rpc = Rpc { r#type: CanGroup::CreateDeleteGetVolumeGroupSnapshot.into() };
    vec![csi::GroupControllerServiceCapability { r#type: Some(Type::Rpc(rpc)) }]
}
