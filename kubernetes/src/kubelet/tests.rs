use std::{fs, os::unix::fs::FileTypeExt as _, sync::Arc};

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{net::UnixStream, time::timeout};
use tonic::transport::{Channel, Uri};
use tower::service_fn;
use varve_proto::registration::registration_client::RegistrationClient;

use super::*;

/// Longer than anything here takes, and no part of what is asserted.
const PLENTY: Duration = Duration::from_secs(60);

/// Where the CSI socket is, as the kubelet sees it.
const PLUGIN: &str = "/var/lib/kubelet/plugins/csi.varve.io/csi.sock";

/// A kubelet's folder of registrations, and a plugin that is to be known by it.
struct Place {
    folder: TempDir,
    cancel: CancellationToken,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), cancel: CancellationToken::new() }
    }

    fn start(&self) -> Registration {
        Registration::start(socket(self.folder.path()).unwrap(), PLUGIN.into(), self.cancel.clone())
    }

    /// The sockets in the folder, which is how the kubelet finds plugins.
    fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(Result::unwrap);
        let sockets = entries.filter(|entry| entry.file_type().unwrap().is_socket());
        sockets.map(|entry| entry.path()).collect()
    }

    /// Waits for one socket that takes connections, and connects to it as the kubelet does.
    async fn kubelet(&self) -> RegistrationClient<Channel> {
        let found = async {
            loop {
                if let [socket] = self.sockets().as_slice()
                    && UnixStream::connect(socket).await.is_ok()
                {
                    return socket.clone();
                }
                tokio::task::yield_now().await;
            }
        };
        dial(timeout(PLENTY, found).await.expect("a socket appears")).await
    }

    async fn end(&self, registration: Registration) {
        self.cancel.cancel();
        timeout(PLENTY, registration.end()).await.expect("it ends");
        assert_eq!(self.sockets(), Vec::<PathBuf>::new());
    }
}

/// What gRPC in Go sends as the authority of a path that is dialled as it is: everything but what may stand in an authority
/// is escaped, and an `@` may.
fn authority(path: &Path) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'@' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    path.to_str().unwrap().bytes().map(escape).collect()
}

async fn dial(socket: PathBuf) -> RegistrationClient<Channel> {
    let origin = Uri::builder().scheme("http").authority(authority(&socket)).path_and_query("/").build().unwrap();
    let socket = Arc::new(socket);
    let connector = service_fn(move |_: Uri| {
        let socket = Arc::clone(&socket);
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(&*socket).await?)) }
    });
    let channel = tonic::transport::Endpoint::from(origin).connect_with_connector(connector).await.unwrap();
    RegistrationClient::new(channel)
}

/// Says to the plugin what came of its registration.
async fn tell(kubelet: &mut RegistrationClient<Channel>, registered: bool, error: &str) {
    let status = RegistrationStatus { plugin_registered: registered, error: error.into() };
    kubelet.notify_registration_status(status).await.unwrap();
}

/// Waits until the plugin stands as told.
async fn stands(registration: &Registration, state: &State) {
    let mut states = registration.state();
    timeout(PLENTY, states.wait_for(|now| now == state)).await.expect("it stands so in time").unwrap();
}

#[tokio::test]
async fn the_kubelet_is_told_what_the_plugin_is_and_tells_what_came_of_it() {
    let place = Place::new();
    let registration = place.start();
    assert_eq!(*registration.state().borrow(), State::Waiting);
    let mut kubelet = place.kubelet().await;
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    let expected = PluginInfo {
        r#type: "CSIPlugin".into(),
        name: "csi.varve.io".into(),
        endpoint: PLUGIN.into(),
        supported_versions: vec!["1.0.0".into()],
    };
    assert_eq!(info, expected);
    assert_eq!(*registration.state().borrow(), State::Waiting, "asking is no answer");

    tell(&mut kubelet, false, "no such driver").await;
    assert_eq!(*registration.state().borrow(), State::Refused("no such driver".into()));
    tell(&mut kubelet, true, "").await;
    assert_eq!(*registration.state().borrow(), State::Registered);
    place.end(registration).await;
}

#[test]
fn the_socket_s_path_makes_an_authority_that_http_takes() {
    let socket = socket(Path::new("/var/lib/kubelet/plugins_registry")).unwrap();
    let authority = authority(socket.path());
    assert_eq!(authority, "%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fvarve@csi.varve.io-reg.sock");
    Uri::builder().scheme("http").authority(authority).path_and_query("/").build().unwrap();
    // Without the at sign there is none: this is what it is for.
    let plain = Uri::builder().scheme("http").authority("%2Fvar%2Flib%2Fkubelet%2Fcsi.varve.io-reg.sock");
    assert!(plain.path_and_query("/").build().is_err());
    // The kubelet passes names over that begin with a dot.
    assert!(!socket.path().file_name().unwrap().to_str().unwrap().starts_with('.'));
}

#[tokio::test]
async fn what_a_killed_process_left_is_replaced() {
    let place = Place::new();
    let path = socket(place.folder.path()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(path.path()).unwrap());
    let registration = place.start();
    place.kubelet().await.get_info(InfoRequest {}).await.unwrap();
    place.end(registration).await;
}

#[tokio::test]
async fn a_socket_that_goes_is_made_again_and_the_plugin_is_not_registered_meanwhile() {
    let place = Place::new();
    let registration = place.start();
    tell(&mut place.kubelet().await, true, "").await;
    fs::remove_file(&place.sockets()[0]).unwrap();
    stands(&registration, &State::Waiting).await;
    let mut kubelet = place.kubelet().await;
    kubelet.get_info(InfoRequest {}).await.unwrap();
    tell(&mut kubelet, true, "").await;
    stands(&registration, &State::Registered).await;
    place.end(registration).await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet_is_waited_for() {
    let place = Place::new();
    let folder = place.folder.path().join("plugins_registry");
    let registration = Registration::start(socket(&folder).unwrap(), PLUGIN.into(), place.cancel.clone());
    let mut states = registration.state();
    let unserved = states.wait_for(|state| matches!(state, State::Unserved(_)));
    let reason = timeout(PLENTY, unserved).await.expect("it is noticed").unwrap().clone();
    assert!(matches!(&reason, State::Unserved(reason) if reason.contains("No such file")), "{reason:?}");
    fs::create_dir(&folder).unwrap();
    let found = async {
        while fs::read_dir(&folder).unwrap().next().is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PLENTY, found).await.expect("it is made");
    let mut kubelet = dial(socket(&folder).unwrap().path().into()).await;
    tell(&mut kubelet, true, "").await;
    stands(&registration, &State::Registered).await;
    place.end(registration).await;
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_path_that_no_socket_can_have_is_refused() {
    for folder in ["plugins_registry".to_owned(), format!("/{}", "f".repeat(90))] {
        let refused = socket(Path::new(&folder));
        assert!(matches!(refused, Err(server::Error::Endpoint(_))), "{refused:?}");
    }
}
