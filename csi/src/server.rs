//! The socket that a process serves on.

use std::{future::Future, path::PathBuf};

use tonic::service::Routes;

/// Where to listen: `unix:///path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

/// What can go wrong with the socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint's text cannot be used.
    #[error("--endpoint is {0:?}: expected unix:// and an absolute path of at most 107 bytes")]
    Endpoint(String),
    /// Another process answers on the socket.
    #[error("{0} is served by another process")]
    InUse(PathBuf),
    /// The system refused.
    #[error("serving {path}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The server failed.
    #[error("serving {0}")]
    Serve(PathBuf, #[source] tonic::transport::Error),
}

impl Endpoint {
    /// Reads `unix:///path`, or the path alone.
    ///
    /// # Errors
    /// `Endpoint` for any other text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let _ = text;
        unimplemented!()
    }
}

/// Serves until `shutdown` resolves, then lets calls in flight end within `grace`.
/// The socket has mode 0600; a stale one is replaced, a live one is an error; it is removed at the end.
/// Every call is logged with its method, ids, status and duration, never with its secrets.
///
/// # Errors
/// See [`Error`].
pub async fn serve(
    endpoint: &Endpoint,
    routes: Routes,
    shutdown: impl Future<Output = ()> + Send,
    grace: std::time::Duration,
) -> Result<(), Error> {
    let _ = (endpoint, routes, shutdown, grace);
    unimplemented!()
}
