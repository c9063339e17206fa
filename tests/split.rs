//! Controller and nodes as processes of their own: volumes that move between nodes, processes that are killed, nodes that
//! are down, and callers that have no business there.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tonic::Code;
use varve_controller::nodes::Nodes as _;
use varve_harness::{
    Controller, Node, Scratch, Setup,
    csi::{Client, Published, from_snapshot, mount, volume},
    driver::free_address,
    wait_for,
};
use varve_link::{
    Trust,
    directory::{Directory, Table},
    nodes::Dialled,
};
use varve_proto::{
    agent::GetPoolRequest,
    csi::{CreateVolumeRequest, ListSnapshotsRequest, Topology, TopologyRequirement},
};
use varve_repository::{
    Repository,
    crypto::MasterKey,
    seam::{Clock, Seams, System},
    store::Store,
};

/// Two nodes and a controller of one repository.
struct Cluster {
    scratch: Scratch,
    controller: Setup,
    nodes: [(Setup, SocketAddr); 2],
}

impl Cluster {
    fn new() -> Self {
        let scratch = Scratch::new("varve-split-").expect("a folder can be made");
        let base = Setup::new(scratch.path());
        let node = |name: &str| {
            let setup = Setup { folder: scratch.path().join(name), node: name.into(), ..base.clone() };
            (setup, free_address())
        };
        let nodes = [node("node-1"), node("node-2")];
        let controller = Setup { folder: scratch.path().join("controller"), ..base };
        Self { scratch, controller, nodes }
    }

    fn node(&self, number: usize) -> Node {
        let (setup, address) = &self.nodes[number];
        Node::start(setup, *address)
    }

    fn controller(&self) -> Controller {
        let nodes = self.nodes.each_ref().map(|(setup, address)| (setup.node.as_str(), *address));
        Controller::start(&self.controller, &nodes)
    }

    /// Checks that nothing that a process mounted or attached is left.
    fn nothing_stands(&self) {
        assert_eq!(self.scratch.standing().expect("the kernel's tables can be read"), Vec::<String>::new());
    }
}

/// Bytes that do not compress, the same for the same name.
fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a file and makes it durable.
fn write(file: &Path, bytes: &[u8]) {
    let mut made = fs::File::create(file).expect("a file can be made");
    made.write_all(bytes).and_then(|()| made.sync_all()).expect("a file can be written");
}

/// A request for a volume of 64 MiB on one node.
fn on(node: &str, name: &str) -> CreateVolumeRequest {
    let topology = Topology { segments: [("topology.varve.io/node".to_owned(), node.to_owned())].into() };
    CreateVolumeRequest {
        accessibility_requirements: Some(TopologyRequirement { requisite: vec![topology], preferred: Vec::new() }),
        ..volume(name, 64 << 20, &mount("ext4"))
    }
}

/// Makes and fills a volume on the first node whose offloads take some seconds; its handle, where it is, what is in it.
async fn slow(client: &Client, name: &str) -> (String, Published, Vec<u8>) {
    let mut request = on("node-1", name);
    request.parameters.insert("bandwidth".into(), "500K".into());
    let made = client.create(request).await.expect("it can be made");
    let published = client.publish(&made.volume_id, &mount("ext4")).await.expect("it can be published");
    let bytes = noise(name, 3_000_000);
    write(&published.path("file"), &bytes);
    (made.volume_id, published, bytes)
}

#[tokio::test]
async fn a_volume_is_restored_on_another_node() {
    let cluster = Cluster::new();
    let (first, second, controller) = (cluster.node(0), cluster.node(1), cluster.controller());
    let here = Client::between(&controller, &first).await;
    let there = Client::between(&controller, &second).await;
    let made = here.create(on("node-1", "source")).await.expect("it can be made");
    assert_eq!(made.accessible_topology[0].segments["topology.varve.io/node"], "node-1");
    let source = here.publish(&made.volume_id, &mount("ext4")).await.expect("it can be published");
    let bytes = noise("content", 5_000_000);
    write(&source.path("file"), &bytes);
    let snapshot = here.snapshot(&made.volume_id, "of-source").await;

    let mut request = on("node-2", "restored");
    request.volume_content_source = from_snapshot(&snapshot.snapshot_id);
    let restored = there.create(request).await.expect("it can be restored");
    assert_eq!(restored.accessible_topology[0].segments["topology.varve.io/node"], "node-2");
    let target = there.publish(&restored.volume_id, &mount("ext4")).await.expect("it can be published");
    assert!(fs::read(target.path("file")).expect("it is there") == bytes, "it is not what was written");

    let elsewhere = there.publish(&made.volume_id, &mount("ext4")).await.expect_err("it is on the other node");
    assert_eq!(elsewhere.code(), Code::NotFound);
    for (client, published) in [(&here, &source), (&there, &target)] {
        client.unpublish(published).await.expect("it can be unpublished");
        client.delete(&published.id).await.expect("it can be deleted");
    }
    assert!(controller.terminate().success());
    assert!(first.terminate().success());
    assert!(second.terminate().success());
    cluster.nothing_stands();
}

#[tokio::test]
async fn a_controller_killed_in_the_middle_of_a_call_is_followed_by_one_that_ends_it() {
    let mut cluster = Cluster::new();
    // Longer than the offload takes, so that the call is under way until then.
    cluster.controller.configuration = "snapshot_wait_ms = 60000\n".into();
    let (first, controller) = (cluster.node(0), cluster.controller());
    let client = Client::between(&controller, &first).await;
    let (made, published, _) = slow(&client, "busy").await;
    let call = tokio::spawn({
        let (client, id) = (client.clone(), made.clone());
        async move { client.cut(&id, "halfway").await }
    });
    let cuts = first.setup().folder.join("pool.img.mount/cuts");
    while !fs::read_dir(&cuts).is_ok_and(|mut entries| entries.next().is_some()) {
        assert!(!call.is_finished(), "the call ended before there was a cut");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    controller.kill();
    let status = call.await.expect("it does not panic").expect_err("nobody is there to answer it");
    assert!(matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{status}");

    let controller = cluster.controller();
    let client = Client::between(&controller, &first).await;
    let snapshot = client.snapshot(&made, "halfway").await;
    let listed = client.controller.clone().list_snapshots(ListSnapshotsRequest::default()).await;
    let listed = listed.expect("they can be listed").into_inner().entries;
    let ids: Vec<_> =
        listed.into_iter().filter_map(|entry| entry.snapshot).map(|snapshot| snapshot.snapshot_id).collect();
    assert_eq!(ids, [snapshot.snapshot_id]);
    client.unpublish(&published).await.expect("it can be unpublished");
    client.delete(&made).await.expect("it can be deleted");
    assert!(controller.terminate().success());
    assert!(first.terminate().success());
    cluster.nothing_stands();
}

#[tokio::test]
async fn a_node_killed_in_the_middle_of_an_offload_goes_on_with_it() {
    let cluster = Cluster::new();
    let (first, controller) = (cluster.node(0), cluster.controller());
    let client = Client::between(&controller, &first).await;
    let (made, published, bytes) = slow(&client, "busy").await;
    let cut = client.cut(&made, "interrupted").await.expect("it is cut");
    assert!(!cut.ready_to_use, "it cannot have been offloaded yet");
    first.kill();
    let status = client.cut(&made, "another").await.expect_err("the node is down");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("node-1"), "{status}");

    let first = cluster.node(0);
    let client = Client::between(&controller, &first).await;
    let snapshot = client.snapshot(&made, "interrupted").await;
    assert_eq!((&snapshot.snapshot_id, &snapshot.creation_time), (&cut.snapshot_id, &cut.creation_time));
    let mut request = on("node-1", "restored");
    request.volume_content_source = from_snapshot(&snapshot.snapshot_id);
    let restored = client.create(request).await.expect("it can be restored");
    let second = client.publish(&restored.volume_id, &mount("ext4")).await.expect("it can be published");
    assert!(fs::read(second.path("file")).expect("it is there") == bytes, "it is not what was written");
    for published in [&published, &second] {
        client.unpublish(published).await.expect("it can be unpublished");
        client.delete(&published.id).await.expect("it can be deleted");
    }
    assert!(first.terminate().success());
    cluster.nothing_stands();
}

#[tokio::test]
async fn a_node_that_is_down_is_named_and_the_other_goes_on() {
    let cluster = Cluster::new();
    let (first, second, controller) = (cluster.node(0), cluster.node(1), cluster.controller());
    let client = Client::between(&controller, &first).await;
    let lost = client.create(on("node-2", "lost")).await.expect("it can be made");
    second.kill();
    let mut calls = client.controller.clone();
    let status = calls.create_volume(on("node-2", "more")).await.expect_err("its node is down");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("node-2"), "{status}");
    let status = client.cut(&lost.volume_id, "of-lost").await.expect_err("its node is down");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("node-2"), "{status}");

    let made = client.create(on("node-1", "going-on")).await.expect("the other node makes it");
    assert!(client.snapshot(&made.volume_id, "of-going-on").await.ready_to_use);

    let _second = cluster.node(1);
    client.snapshot(&lost.volume_id, "of-lost").await;
    client.create(on("node-2", "more")).await.expect("its node is back");
}

/// A clock that is behind.
struct Behind(Duration);

impl Clock for Behind {
    fn now(&self) -> jiff::Timestamp {
        System.now() - self.0
    }
}

/// Asks a node's agent for its pool in the name of a repository.
async fn ask(repository: &Repository, node: &str, address: SocketAddr) -> Result<(), tonic::Status> {
    let table = Table::new([(node.to_owned(), address.to_string())].into());
    let nodes = Dialled::new(&Trust::of(repository), Arc::new(table) as Arc<dyn Directory>);
    let mut client = nodes.agent(node).await.expect("it is in the table");
    client.get_pool(GetPoolRequest {}).await.map(drop)
}

async fn open(url: &str, key: &MasterKey, seams: Seams) -> Repository {
    let store = Store::open(url, &[]).expect("it is a location");
    Repository::open_or_init(store, key, seams).await.expect("it can be opened")
}

#[tokio::test]
async fn strangers_are_refused_and_both_sides_say_so() {
    let cluster = Cluster::new();
    let node = cluster.node(0);
    let (setup, address) = &cluster.nodes[0];
    let key = MasterKey::from_file(&setup.key_file).expect("it is a key");
    let own = open(&setup.repository, &key, Seams::system()).await;
    ask(&own, "node-1", *address).await.expect("who has the key is answered");

    let refused = async |repository: &Repository, node_name: &str, told: &str, logged: &str| {
        let status = ask(repository, node_name, *address).await.expect_err(told);
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let said = varve_csi::status::chain(&status);
        assert!(said.contains(told), "{said}");
        wait_for("the node says so", || node.log().contains(logged).then_some(()));
    };
    let stranger = MasterKey::generate(&System);
    let other = format!("file://{}", cluster.scratch.path().join("other").display());
    let foreign = open(&other, &stranger, Seams::system()).await;
    refused(&foreign, "node-1", "not of this repository", "it has another repository's key").await;

    let behind = Seams { clock: Arc::new(Behind(Duration::from_secs(3 * 86_400))), ..Seams::system() };
    let late = open(&setup.repository, &key, behind).await;
    refused(&late, "node-1", "is one of the clocks wrong", "refused our certificate").await;
    refused(&own, "node-2", "varve:node:node-1", "refused us").await;

    // Plain HTTP/2, as whoever knows the API but not the key would speak it.
    let mut plain = TcpStream::connect(address).expect("it listens");
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("it takes bytes");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.len() < 16 && !answer.starts_with(&[0, 0]), "it answered more than an alert: {answer:?}");
    wait_for("the node says so", || node.log().contains("the other side does not speak TLS").then_some(()));

    ask(&own, "node-1", *address).await.expect("who has the key is still answered");
}
