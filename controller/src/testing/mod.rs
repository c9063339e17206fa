//! What the tests of this crate stand on: a real repository on an object store in memory, and nodes whose agents are
//! served in this process.

mod agent;
mod image;
mod store;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use tokio_stream::StreamExt as _;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Server, Uri},
};
use varve_proto::{
    agent::{agent_client::AgentClient, agent_server::AgentServer},
    csi::{self, volume_capability::access_mode::Mode},
};
use varve_repository::{
    Repository, SnapshotState,
    crypto::MasterKey,
    id::{SnapshotId, VolumeId},
    record::volume::VolumeRecord,
    seam::{Seams, System},
    store::Store,
};

pub(crate) use self::{
    agent::{FakeAgent, Fault, Method},
    image::Image,
};
use crate::{
    Controller, Options,
    nodes::{Client, Error, Nodes},
    topology,
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// A controller, its repository and its nodes.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    pub(crate) controller: Controller,
    pub(crate) repository: Repository,
    pub(crate) store: Arc<store::Breakable>,
    cluster: Arc<Cluster>,
}

#[derive(Debug, Default)]
struct Cluster(Mutex<BTreeMap<String, Member>>);

#[derive(Clone, Debug)]
struct Member {
    agent: FakeAgent,
    client: Client,
    reachable: bool,
}

#[async_trait]
impl Nodes for Cluster {
    async fn names(&self) -> Result<Vec<String>, Error> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }

    async fn agent(&self, node: &str) -> Result<Client, Error> {
        match self.0.lock().unwrap().get(node) {
            None => Err(Error::Unknown { node: node.to_owned() }),
            Some(Member { reachable: false, .. }) => {
                Err(Error::Unreachable { node: node.to_owned(), reason: "connection refused".to_owned() })
            }
            Some(member) => Ok(member.client.clone()),
        }
    }
}

impl Bench {
    /// Makes a cluster of the nodes named, each with a pool of 100 GiB.
    pub(crate) async fn new(nodes: &[&str]) -> Self {
        let store = Arc::new(store::Breakable::default());
        let repository = Repository::init(
            Store::new(Arc::clone(&store) as Arc<_>, "memory:///"),
            &MasterKey::generate(&System),
            Seams::system(),
        )
        .await
        .expect("a repository in memory");
        let cluster = Arc::new(Cluster::default());
        for node in nodes {
            let agent = FakeAgent::new(node, repository.clone());
            let client = AgentClient::new(serve(agent.clone()).await);
            cluster.0.lock().unwrap().insert((*node).to_owned(), Member { agent, client, reachable: true });
        }
        let controller = Controller::new(repository.clone(), Arc::clone(&cluster) as Arc<_>, Options::default());
        Self { controller, repository, store, cluster }
    }

    /// A node's agent.
    pub(crate) fn agent(&self, node: &str) -> FakeAgent {
        self.cluster.0.lock().unwrap()[node].agent.clone()
    }

    /// The cluster, for another controller.
    pub(crate) fn nodes(&self) -> Arc<dyn Nodes> {
        Arc::clone(&self.cluster) as Arc<_>
    }

    /// Cuts a node off, or lets it be reached again.
    pub(crate) fn set_reachable(&self, node: &str, reachable: bool) {
        self.cluster.0.lock().unwrap().get_mut(node).unwrap().reachable = reachable;
    }

    /// Takes a node out of the cluster for good.
    pub(crate) fn remove_node(&self, node: &str) {
        self.cluster.0.lock().unwrap().remove(node);
    }

    /// Makes a mounted volume of 1 GiB and returns its id.
    pub(crate) async fn volume(&self, name: &str) -> String {
        self.controller.create_volume(order(name)).await.unwrap().volume.unwrap().volume_id
    }

    /// Makes a mounted volume of 1 GiB on a node and returns its id.
    pub(crate) async fn volume_on(&self, name: &str, node: &str) -> String {
        let order = csi::CreateVolumeRequest { accessibility_requirements: Some(requirement(node)), ..order(name) };
        self.controller.create_volume(order).await.unwrap().volume.unwrap().volume_id
    }

    /// Makes a snapshot and returns what the controller answers.
    pub(crate) async fn snapshot(&self, name: &str, volume: &str) -> Result<csi::Snapshot, Status> {
        let request = csi::CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: volume.to_owned(),
            ..csi::CreateSnapshotRequest::default()
        };
        Ok(self.controller.create_snapshot(request, Default::default()).await?.snapshot.unwrap())
    }

    /// Deletes a snapshot.
    pub(crate) async fn delete_snapshot(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteSnapshotRequest { snapshot_id: id.to_owned(), secrets: HashMap::new() };
        self.controller.delete_snapshot(request).await.map(drop)
    }

    /// The record of a volume.
    pub(crate) async fn record(&self, id: &str) -> Option<VolumeRecord> {
        let id: VolumeId = id.parse().unwrap();
        self.repository.volume(id).await.unwrap().map(|record| record.value)
    }

    /// What stands at a snapshot's key.
    pub(crate) async fn state(&self, id: &str) -> SnapshotState {
        let id: SnapshotId = id.parse().unwrap();
        self.repository.snapshot(id).await.unwrap()
    }
}

/// Serves an agent over a pair of connected pipes.
pub(crate) async fn serve(agent: FakeAgent) -> Channel {
    let (client, server) = tokio::io::duplex(1 << 16);
    let incoming = tokio_stream::once(Ok::<_, io::Error>(server)).chain(tokio_stream::pending());
    tokio::spawn(Server::builder().add_service(AgentServer::new(agent)).serve_with_incoming(incoming));
    connect(client).await
}

/// Makes a channel of one end of a pair of connected pipes; once that is closed, it cannot be reached any more.
pub(crate) async fn connect(client: tokio::io::DuplexStream) -> Channel {
    let mut client = Some(client);
    let connector = tower::service_fn(move |_: Uri| {
        let client = client.take().map(TokioIo::new).ok_or_else(|| io::Error::other("the other end is closed"));
        async move { client }
    });
    // The window that HTTP/2 begins with, so that an answer that nobody reads does not go far.
    let endpoint = Endpoint::from_static("http://agent").initial_stream_window_size(65_535);
    endpoint.connect_with_connector(connector).await.expect("the pipe is open")
}

/// A request for a mounted volume of 1 GiB.
pub(crate) fn order(name: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.to_owned(),
        volume_capabilities: vec![mount("")],
        ..csi::CreateVolumeRequest::default()
    }
}

/// A mounted file system for one node; the driver's choice where none is named.
pub(crate) fn mount(filesystem: &str) -> csi::VolumeCapability {
    let mount = csi::volume_capability::MountVolume { fs_type: filesystem.to_owned(), ..Default::default() };
    capability(csi::volume_capability::AccessType::Mount(mount), Mode::SingleNodeWriter)
}

/// A raw device for one node.
pub(crate) fn block() -> csi::VolumeCapability {
    let block = csi::volume_capability::BlockVolume {};
    capability(csi::volume_capability::AccessType::Block(block), Mode::SingleNodeWriter)
}

/// A capability.
pub(crate) fn capability(access: csi::volume_capability::AccessType, mode: Mode) -> csi::VolumeCapability {
    let access_mode = Some(csi::volume_capability::AccessMode { mode: mode.into() });
    csi::VolumeCapability { access_mode, access_type: Some(access) }
}

/// A capacity range; 0 leaves an end open.
pub(crate) fn range(required: u64, limit: u64) -> Option<csi::CapacityRange> {
    let bytes = |bytes| i64::try_from(bytes).unwrap();
    Some(csi::CapacityRange { required_bytes: bytes(required), limit_bytes: bytes(limit) })
}

/// A requirement of one node.
pub(crate) fn requirement(node: &str) -> csi::TopologyRequirement {
    csi::TopologyRequirement { requisite: vec![topology::of(node)], preferred: vec![topology::of(node)] }
}

/// Parameters of a class.
pub(crate) fn parameters(entries: &[(&str, &str)]) -> HashMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A source of a new volume.
pub(crate) fn from_snapshot(id: &str) -> Option<csi::VolumeContentSource> {
    use csi::volume_content_source::{SnapshotSource, Type};
    Some(csi::VolumeContentSource { r#type: Some(Type::Snapshot(SnapshotSource { snapshot_id: id.to_owned() })) })
}

/// A source of a new volume.
pub(crate) fn from_volume(id: &str) -> Option<csi::VolumeContentSource> {
    use csi::volume_content_source::{Type, VolumeSource};
    Some(csi::VolumeContentSource { r#type: Some(Type::Volume(VolumeSource { volume_id: id.to_owned() })) })
}
