//! What has to hold for a process to be ready, and whether it lives.
//!
//! Ready is who does what it is there for. Alive is who is not helped by being started anew: a store that does not answer
//! leaves a process alive, and so does a pool that cannot be read, which a new process would not even start on. What a new
//! process does help is one that hangs, which answers nothing, and one whose socket somebody removed.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{net::UnixStream, sync::watch, time::timeout};
use varve_csi::{server::Endpoint, status::chain};
use varve_kubernetes::{directory::Known, kubelet};
use varve_node::agent::{Agent, Severity};
use varve_repository::Repository;

use super::look::Look;

/// How often to look whether the repository's store answers, while it does: it costs a small read.
const REPOSITORY: Duration = Duration::from_secs(15);

/// How often to look whether the pool can be read, while it can.
const POOL: Duration = Duration::from_secs(5);

/// How long the process's own socket may take to be connected to.
const OWN_SOCKET: Duration = Duration::from_secs(5);

/// What a process is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::serve) enum Phase {
    /// It prepares what it needs.
    #[default]
    Starting,
    /// It serves.
    Serving,
    /// It was told to end.
    Ending,
}

/// Something that has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Condition {
    /// The process serves CSI.
    Serving,
    /// The repository's store answers.
    Repository,
    /// The pool can be read.
    Pool,
    /// The kubelet knows the plugin.
    Kubelet,
    /// It is known which nodes there are.
    Nodes,
}

impl Condition {
    /// Its name.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Repository => "repository",
            Self::Pool => "pool",
            Self::Kubelet => "kubelet",
            Self::Nodes => "nodes",
        }
    }
}

/// The conditions of a process: those that concern it.
#[derive(Default)]
pub(in crate::serve) struct Conditions {
    phase: Mutex<Phase>,
    socket: OnceLock<PathBuf>,
    repository: OnceLock<Arc<Look>>,
    pool: OnceLock<Arc<Look>>,
    kubelet: Mutex<Kubelet>,
    nodes: OnceLock<NodesKnown>,
}

/// Counts the nodes that a controller knows; `None` while it is still to be told of them.
type NodesKnown = Box<dyn Fn() -> Option<Known> + Send + Sync>;

#[derive(Debug, Default)]
enum Kubelet {
    /// None is to know of the process.
    #[default]
    Apart,
    /// One is to know of it in time.
    Awaited,
    /// One is told.
    Told(watch::Receiver<kubelet::State>),
}

impl Conditions {
    pub(super) fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    pub(super) fn watch_socket(&self, endpoint: &Endpoint) {
        let _ = self.socket.set(endpoint.path().to_owned());
    }

    pub(super) fn watch_repository(&self, repository: &Repository) {
        let repository = repository.clone();
        let _ = self.repository.set(Look::new("the repository", REPOSITORY, move || {
            let repository = repository.clone();
            async move { repository.reach().await.map_err(|error| chain(&error)) }
        }));
    }

    pub(super) fn watch_pool(&self, agent: &Agent) {
        let agent = agent.clone();
        let _ = self.pool.set(Look::new("the pool", POOL, move || {
            let agent = agent.clone();
            let look = tokio::task::spawn_blocking(move || {
                let mut ailments = agent.pool_ailments().into_iter();
                ailments.find(|ailment| ailment.severity != Severity::Degraded)
            });
            async move {
                match look.await {
                    Ok(None) => Ok(()),
                    Ok(Some(ailment)) => Err(ailment.message),
                    Err(error) => Err(error.to_string()),
                }
            }
        }));
    }

    pub(super) fn watch_nodes(&self, known: NodesKnown) {
        let _ = self.nodes.set(known);
    }

    /// Counts the nodes that are known; `None` where that is not the process's concern, or not known yet.
    pub(super) fn nodes(&self) -> Option<Known> {
        self.nodes.get().and_then(|known| known())
    }

    pub(super) fn watch_kubelet(&self, state: Option<watch::Receiver<kubelet::State>>) {
        *self.kubelet.lock().unwrap_or_else(PoisonError::into_inner) = state.map_or(Kubelet::Awaited, Kubelet::Told);
    }

    /// Tells of each condition that concerns the process whether it holds.
    pub(super) fn read(&self) -> Vec<(Condition, bool)> {
        let mut conditions = vec![(Condition::Serving, self.phase() == Phase::Serving)];
        conditions.extend(self.repository.get().map(|look| (Condition::Repository, look.is_well())));
        conditions.extend(self.pool.get().map(|look| (Condition::Pool, look.is_well())));
        let registered = match &*self.kubelet.lock().unwrap_or_else(PoisonError::into_inner) {
            Kubelet::Apart => None,
            Kubelet::Awaited => Some(false),
            Kubelet::Told(state) => Some(*state.borrow() == kubelet::State::Registered),
        };
        conditions.extend(registered.map(|registered| (Condition::Kubelet, registered)));
        conditions.extend(self.nodes.get().map(|known| (Condition::Nodes, known().is_some())));
        conditions
    }

    /// Tells whether CSI calls can be served, which is what Probe asks. What the kubelet knows is no part of it: Probe is
    /// called by whoever has found the socket.
    pub(in crate::serve) fn can_serve(&self) -> bool {
        self.read().iter().all(|(condition, holds)| *holds || *condition == Condition::Kubelet)
    }

    /// Tells whether the process lives.
    pub(super) async fn is_alive(&self) -> bool {
        let Some(socket) = self.socket.get().filter(|_| self.phase() == Phase::Serving) else { return true };
        match timeout(OWN_SOCKET, UnixStream::connect(socket)).await {
            Ok(Ok(_)) => true,
            // Nobody is behind it, or it is gone. It may have been told to end in between.
            Ok(Err(error)) if is_dead(&error) => self.phase() != Phase::Serving,
            Ok(Err(_)) => true,
            Err(_) => false,
        }
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conditions").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

fn is_dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn read(conditions: &Conditions) -> Vec<(&'static str, bool)> {
        conditions.read().into_iter().map(|(condition, holds)| (condition.as_str(), holds)).collect()
    }

    #[tokio::test]
    async fn a_process_is_ready_when_it_serves_and_the_kubelet_knows_it() {
        let conditions = Conditions::default();
        assert_eq!(read(&conditions), [("serving", false)]);
        conditions.watch_kubelet(None);
        conditions.enter(Phase::Serving);
        assert_eq!(read(&conditions), [("serving", true), ("kubelet", false)]);
        assert!(conditions.can_serve(), "whoever calls has found the socket");
        let (said, state) = watch::channel(kubelet::State::Refused("no".into()));
        conditions.watch_kubelet(Some(state));
        assert_eq!(read(&conditions), [("serving", true), ("kubelet", false)]);
        said.send_replace(kubelet::State::Registered);
        assert_eq!(read(&conditions), [("serving", true), ("kubelet", true)]);
        conditions.enter(Phase::Ending);
        assert!(!conditions.can_serve());
    }

    #[tokio::test]
    async fn a_process_without_its_socket_does_not_live() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("csi.sock");
        let conditions = Conditions::default();
        conditions.watch_socket(&Endpoint::parse(path.to_str().expect("text")).expect("an endpoint"));
        assert!(conditions.is_alive().await, "it is starting");
        let listener = UnixListener::bind(&path).expect("a socket");
        conditions.enter(Phase::Serving);
        assert!(conditions.is_alive().await);
        drop(listener);
        assert!(!conditions.is_alive().await, "nobody listens");
        std::fs::remove_file(&path).expect("it is there");
        assert!(!conditions.is_alive().await, "it is gone");
        conditions.enter(Phase::Ending);
        assert!(conditions.is_alive().await, "that is how it ends");
    }
}
