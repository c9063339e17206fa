//! Making the node known to the kubelet: a socket of its own in the kubelet's folder of registrations, so that no sidecar
//! has to do it.
//!
//! The kubelet watches that folder. It asks whoever appears in it what it is, calls `NodeGetInfo` on the CSI socket that it
//! is told of, and says what came of it; where that was nothing, it tries again by itself for as long as the socket stands.
//! It forgets a plugin whose socket goes, so the socket goes with the process, and a new process makes a new one.
//!
//! # Concurrency
//! One task serves the socket, and looks now and then whether it is still in its place: a folder that was emptied behind
//! it, as by whoever sets a machine up anew, would otherwise leave a node that nobody knows of.
//!
//! # Cancellation
//! When the token is cancelled the socket is removed, and [`Registration::end`] waits for that.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};
use varve_csi::{
    identity::DRIVER,
    server::{self, Endpoint},
    status::chain,
};
use varve_proto::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
    registration_server::{self, RegistrationServer},
};

/// What the kubelet calls a CSI driver among its plugins.
const KIND: &str = "CSIPlugin";

/// Versions of CSI, as the kubelet compares them: 1.0.0 stands for all of 1.x.
const VERSIONS: [&str; 1] = ["1.0.0"];

/// How often to look whether the socket is still there.
const LOOK: Duration = Duration::from_secs(2);

/// How long the kubelet has to take an answer when the process ends.
const GRACE: Duration = Duration::from_secs(1);

/// How the plugin stands with the kubelet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// The kubelet has not said anything yet.
    #[default]
    Waiting,
    /// The kubelet knows the plugin.
    Registered,
    /// The kubelet refused, for this reason; it tries again.
    Refused(String),
    /// The socket cannot be served, for this reason; it is tried again.
    Unserved(String),
}

/// A plugin that makes itself known.
#[derive(Debug)]
pub struct Registration {
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Registration {
    /// Makes the plugin known on its [`socket`] until cancelled. `plugin` is the path of the CSI socket as the kubelet sees
    /// it; it must be served by now, since the kubelet calls it at once.
    #[must_use]
    pub fn start(socket: Endpoint, plugin: PathBuf, cancel: CancellationToken) -> Self {
        let (said, state) = watch::channel(State::default());
        let task = tokio::spawn(keep(socket, Plugin { plugin, said }, cancel));
        Self { state, task }
    }

    /// How the plugin stands with the kubelet, now and whenever that changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the socket is gone, once the token is cancelled.
    pub async fn end(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the registration with the kubelet ended too early");
        }
    }
}

/// Names the plugin's socket in the kubelet's folder of registrations.
///
/// The `@` in its name is what lets the kubelet in. It gives no authority of its own when it dials, so gRPC takes the
/// socket's path, with `%2F` for each slash; and percent signs are allowed in an authority only before an `@` (RFC 3986,
/// 3.2). The HTTP/2 server here resets streams whose authority is not one.
///
/// # Errors
/// `Endpoint` where no socket can have that path.
pub fn socket(folder: &Path) -> Result<Endpoint, server::Error> {
    Endpoint::parse(&folder.join(format!("varve@{DRIVER}-reg.sock")).to_string_lossy())
}

/// Serves the socket until cancelled, again and again where it goes or cannot be made.
async fn keep(socket: Endpoint, plugin: Plugin, cancel: CancellationToken) {
    while !cancel.is_cancelled() {
        let routes = Routes::new(RegistrationServer::new(plugin.clone()));
        let lost = async {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = gone(socket.path()) => {
                    tracing::warn!(%socket, "the socket for the kubelet is gone from its folder: it is made again");
                }
            }
            plugin.take(State::Waiting);
        };
        if let Err(error) = server::serve(&socket, routes, lost, GRACE).await {
            // The folder may still be the kubelet's to make, or another process on its way out.
            let reason = chain(&error);
            if plugin.take(State::Unserved(reason.clone())) {
                tracing::warn!(reason, "the node cannot be made known to the kubelet: it is tried again");
            }
            let _ = cancel.run_until_cancelled(sleep(LOOK)).await;
        }
    }
}

/// Waits until something else than now is at a path, or nothing.
async fn gone(path: &Path) {
    let look = async || tokio::fs::symlink_metadata(path).await.map(|found| (found.dev(), found.ino())).ok();
    let own = look().await;
    while own.is_some() && look().await == own {
        sleep(LOOK).await;
    }
}

/// What the kubelet is told, and what it says.
#[derive(Clone, Debug)]
struct Plugin {
    plugin: PathBuf,
    said: watch::Sender<State>,
}

impl Plugin {
    /// Takes how things stand; `false` where they stood so before.
    fn take(&self, state: State) -> bool {
        self.said.send_if_modified(|said| {
            let changed = *said != state;
            *said = state;
            changed
        })
    }
}

#[tonic::async_trait]
impl registration_server::Registration for Plugin {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: KIND.into(),
            name: DRIVER.into(),
            endpoint: self.plugin.to_string_lossy().into_owned(),
            supported_versions: VERSIONS.map(str::to_owned).into(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            self.take(State::Registered);
            tracing::info!("registered with the kubelet");
        } else if self.take(State::Refused(error.clone())) {
            tracing::error!(reason = error, "the kubelet refuses the registration: it tries again");
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests;
