//! A node that makes itself known to a kubelet: whoever dials the socket in the kubelet's folder is led to the CSI socket,
//! and finds nothing there once the process has ended.

use std::{fs, io, path::PathBuf};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use varve_harness::{Node, Scratch, Setup, driver::free_address, wait_for};
use varve_proto::{
    csi::{NodeGetInfoRequest, node_client::NodeClient},
    registration::{InfoRequest, PluginInfo, RegistrationStatus, registration_client::RegistrationClient},
};

/// What the kubelet finds in its folder.
fn found(registry: &PathBuf) -> Vec<PathBuf> {
    fs::read_dir(registry).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}

/// Dials a socket.
async fn dial(socket: PathBuf) -> io::Result<Channel> {
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.map_err(io::Error::other)
}

/// Does what a kubelet does with a plugin that appears.
async fn register(registry: &PathBuf) -> PluginInfo {
    let [socket] = found(registry).try_into().expect("one socket");
    let mut plugin = RegistrationClient::new(dial(socket).await.expect("it is served"));
    let info = plugin.get_info(InfoRequest {}).await.expect("it answers").into_inner();
    let mut csi = NodeClient::new(dial(PathBuf::from(&info.endpoint)).await.expect("it is where it says"));
    let node = csi.node_get_info(NodeGetInfoRequest {}).await.expect("it answers").into_inner();
    assert_eq!(node.node_id, "node-1");
    let status = RegistrationStatus { plugin_registered: true, error: String::new() };
    plugin.notify_registration_status(status).await.expect("it takes it");
    info
}

#[tokio::test]
async fn a_kubelet_is_led_to_the_node_and_again_after_it_was_killed() {
    let scratch = Scratch::new("varve-kubelet-").expect("a folder can be made");
    let registry = scratch.path().join("registry");
    fs::create_dir(&registry).expect("a folder can be made");
    let mut setup = Setup::new(scratch.path());
    setup.configuration = format!("kubelet_registration = {registry:?}\n");
    let address = free_address();

    let node = Node::start(&setup, address);
    let info = register(&registry).await;
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.varve.io"));
    assert_eq!(PathBuf::from(info.endpoint), setup.socket());
    wait_for("it is logged", || node.log().contains("registered with the kubelet").then_some(()));

    // A killed process leaves its socket; the next one's takes its place.
    node.kill();
    let [left] = found(&registry).try_into().expect("one socket");
    dial(left).await.expect_err("nobody serves it");
    let node = Node::start(&setup, address);
    wait_for("the socket is replaced", || {
        let [socket] = found(&registry).try_into().ok()?;
        std::os::unix::net::UnixStream::connect(socket).ok()
    });
    register(&registry).await;

    assert!(node.terminate().success());
    assert_eq!(found(&registry), Vec::<PathBuf>::new());
}
