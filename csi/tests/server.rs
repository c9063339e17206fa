//! A server on a real socket, called as a sidecar calls it.

use std::{
    fs,
    future::Future,
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    sync::{Notify, oneshot},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tonic::{
    Code, Status,
    service::Routes,
    transport::{Channel, Endpoint as ClientEndpoint},
};
use varve_csi::{
    identity::{DRIVER, Identity, Readiness},
    server::{Endpoint, Error, serve},
};
use varve_proto::csi::{
    GetPluginInfoRequest, ProbeRequest, identity_client::IdentityClient, identity_server::IdentityServer,
};

/// Longer than anything here takes, and no part of what is asserted.
const PLENTY: Duration = Duration::from_secs(60);

type Ready = Pin<Box<dyn Future<Output = Result<bool, Status>> + Send>>;

/// A folder with a place for a socket.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("csi.sock")
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&format!("unix://{}", self.socket().display())).unwrap()
    }

    async fn client(&self) -> IdentityClient<Channel> {
        let endpoint = ClientEndpoint::from_shared(format!("unix://{}", self.socket().display())).unwrap();
        IdentityClient::new(endpoint.connect().await.unwrap())
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// A server at work, and what stops it.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Starts a server that answers Probe with what `ready` comes to, and waits until it listens.
    async fn start(place: &Place, grace: Duration, ready: impl Fn() -> Ready + Send + Sync + 'static) -> Self {
        let (stop, stopped) = oneshot::channel();
        let endpoint = place.endpoint();
        let routes = routes(ready);
        let task = tokio::spawn(async move {
            let shutdown = async move { stopped.await.unwrap_or(()) };
            serve(&endpoint, routes, shutdown, grace).await
        });
        while UnixStream::connect(place.socket()).is_err() {
            assert!(!task.is_finished(), "{:?}", task.await);
            tokio::task::yield_now().await;
        }
        Self { stop, task }
    }

    /// Stops the server and returns what it ended with.
    async fn stop(self) -> Result<(), Error> {
        self.stop.send(()).unwrap();
        timeout(PLENTY, self.task).await.expect("the server ends").unwrap()
    }
}

fn routes(ready: impl Fn() -> Ready + Send + Sync + 'static) -> Routes {
    let readiness: Readiness = Arc::new(ready);
    Routes::new(IdentityServer::new(Identity::new(Vec::new(), readiness)))
}

fn at_once() -> Ready {
    Box::pin(async { Ok(true) })
}

/// Tries to serve and expects a refusal.
async fn refused(place: &Place) -> Error {
    let endpoint = place.endpoint();
    let served = serve(&endpoint, routes(at_once), std::future::pending(), PLENTY);
    timeout(PLENTY, served).await.expect("a refusal at once").expect_err("a refusal")
}

/// Leaves a socket behind that nobody serves, as a killed process does.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert_eq!(UnixStream::connect(path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_server_answers_on_a_private_socket_and_removes_it() {
    let place = Place::new();
    let server = Running::start(&place, PLENTY, at_once).await;
    let metadata = fs::symlink_metadata(place.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);

    let mut client = place.client().await;
    let info = client.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, DRIVER);
    assert_eq!(client.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));

    // The client stays connected, which holds nothing up.
    timeout(PLENTY / 2, server.stop()).await.expect("an idle client is not waited for").unwrap();
    assert_eq!(place.names(), Vec::<String>::new());
    assert_eq!(client.probe(ProbeRequest {}).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let place = Place::new();
    leave_stale(&place.socket());
    let server = Running::start(&place, PLENTY, at_once).await;
    assert_eq!(fs::symlink_metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    place.client().await.probe(ProbeRequest {}).await.unwrap();
    server.stop().await.unwrap();
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn a_live_socket_is_left_alone() {
    let place = Place::new();
    let server = Running::start(&place, PLENTY, at_once).await;
    let inode = fs::symlink_metadata(place.socket()).unwrap().ino();
    let error = refused(&place).await;
    assert!(matches!(&error, Error::InUse(path) if *path == place.socket()), "{error:?}");
    assert_eq!(fs::symlink_metadata(place.socket()).unwrap().ino(), inode);
    place.client().await.probe(ProbeRequest {}).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_socket_whose_queue_is_full_is_live() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    // A queue of none takes one connection; nobody takes it out.
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = UnixStream::connect(place.socket()).unwrap();
    assert!(matches!(refused(&place).await, Error::InUse(_)));
    assert!(place.socket().exists());
}

#[tokio::test]
async fn what_is_not_a_socket_is_never_removed() {
    let place = Place::new();
    fs::write(place.socket(), "precious").unwrap();
    assert!(matches!(refused(&place).await, Error::NotSocket(path) if path == place.socket()));
    assert_eq!(fs::read_to_string(place.socket()).unwrap(), "precious");

    let place = Place::new();
    fs::create_dir(place.socket()).unwrap();
    assert!(matches!(refused(&place).await, Error::NotSocket(_)));
    assert!(place.socket().is_dir());

    let place = Place::new();
    let target = place.0.path().join("target");
    leave_stale(&target);
    symlink(&target, place.socket()).unwrap();
    assert!(matches!(refused(&place).await, Error::NotSocket(_)));
    assert!(fs::symlink_metadata(place.socket()).unwrap().is_symlink() && target.exists());
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let place = Place::new();
    let socket = place.0.path().join("missing/csi.sock");
    let endpoint = Endpoint::parse(socket.to_str().unwrap()).unwrap();
    let error = serve(&endpoint, routes(at_once), std::future::pending(), PLENTY).await.unwrap_err();
    let Error::Io { path, source } = error else { panic!("{error:?}") };
    assert_eq!((path.as_path(), source.kind()), (endpoint.path(), io::ErrorKind::NotFound));
}

#[tokio::test]
async fn a_call_in_flight_is_waited_for() {
    let place = Place::new();
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = Running::start(&place, PLENTY, {
        let (entered, release) = (entered.clone(), release.clone());
        move || {
            let (entered, release) = (entered.clone(), release.clone());
            Box::pin(async move {
                entered.notify_one();
                release.notified().await;
                Ok(true)
            })
        }
    })
    .await;
    let mut client = place.client().await;
    let call = tokio::spawn(async move { client.probe(ProbeRequest {}).await });
    entered.notified().await;

    let stopping = tokio::spawn(server.stop());
    while UnixStream::connect(place.socket()).is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!stopping.is_finished() && !call.is_finished());
    release.notify_one();
    assert_eq!(call.await.unwrap().unwrap().into_inner().ready, Some(true));
    stopping.await.unwrap().unwrap();
    assert_eq!(place.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_call_that_outlasts_the_grace_is_told() {
    let place = Place::new();
    let entered = Arc::new(Notify::new());
    let server = Running::start(&place, Duration::from_millis(1), {
        let entered = entered.clone();
        move || {
            entered.notify_one();
            Box::pin(std::future::pending())
        }
    })
    .await;
    let mut client = place.client().await;
    let call = tokio::spawn(async move { client.probe(ProbeRequest {}).await });
    entered.notified().await;
    server.stop().await.unwrap();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the driver is stopping: try again"));
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn a_successor_keeps_its_socket() {
    let place = Place::new();
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let first = Running::start(&place, PLENTY, {
        let (entered, release) = (entered.clone(), release.clone());
        move || {
            let (entered, release) = (entered.clone(), release.clone());
            Box::pin(async move {
                entered.notify_one();
                release.notified().await;
                Ok(true)
            })
        }
    })
    .await;
    let mut client = place.client().await;
    let call = tokio::spawn(async move { client.probe(ProbeRequest {}).await });
    entered.notified().await;
    let first = tokio::spawn(first.stop());
    while UnixStream::connect(place.socket()).is_ok() {
        tokio::task::yield_now().await;
    }
    // The first no longer listens and still works: its socket looks stale, and the second replaces it.
    let second = Running::start(&place, PLENTY, at_once).await;
    release.notify_one();
    call.await.unwrap().unwrap();
    first.await.unwrap().unwrap();
    place.client().await.probe(ProbeRequest {}).await.unwrap();
    second.stop().await.unwrap();
    assert!(!place.socket().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_servers_that_start_at_once_one_serves() {
    for _ in 0..20 {
        let place = Place::new();
        leave_stale(&place.socket());
        let mut servers = JoinSet::new();
        for _ in 0..8 {
            let endpoint = place.endpoint();
            servers.spawn(async move { serve(&endpoint, routes(at_once), std::future::pending(), PLENTY).await });
        }
        for _ in 0..7 {
            let ended = timeout(PLENTY, servers.join_next()).await.expect("seven are refused").unwrap().unwrap();
            assert!(matches!(ended, Err(Error::InUse(_))), "{ended:?}");
        }
        place.client().await.probe(ProbeRequest {}).await.unwrap();
        servers.shutdown().await;
        assert!(!place.socket().exists(), "a server that is dropped removes its socket");
    }
}

#[tokio::test]
async fn a_panic_ends_its_call_alone() {
    let place = Place::new();
    let server = Running::start(&place, PLENTY, || Box::pin(async { panic!("on purpose") })).await;
    let mut client = place.client().await;
    for _ in 0..2 {
        assert_eq!(client.probe(ProbeRequest {}).await.unwrap_err().code(), Code::Internal);
        client.get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
    }
    server.stop().await.unwrap();
}
