//! The socket that a process serves on.
//!
//! # Cancellation
//! Dropping the future of [`serve`] removes the socket and takes no more calls; those in flight go on for as long as
//! the runtime does.

mod socket;

use std::{
    fmt,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

use self::socket::Socket;
use crate::call::{CallLayer, Observer};

/// Longest path of a socket, in bytes: what `sockaddr_un` holds besides the closing NUL (unix(7)).
const LONGEST_PATH: usize = 107;

/// How long a listener rests after the system refused a connection, for want of descriptors as a rule.
const REST: Duration = Duration::from_millis(100);

/// How long callers have to take the answers of calls that were cut off.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    /// Something that is not a socket has the name; it is left alone.
    #[error("{0} exists and is not a socket")]
    NotSocket(PathBuf),
    /// The system refused.
    #[error("serving {path}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The server failed.
    #[error("serving {0}")]
    Serve(PathBuf, #[source] tonic::transport::Error),
}

impl Endpoint {
    /// Reads `unix:///path`, `unix:/path`, or the path alone.
    ///
    /// # Errors
    /// `Endpoint` for any other text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
        let names_a_file = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
        if names_a_file && path.len() <= LONGEST_PATH {
            Ok(Self(path.into()))
        } else {
            Err(Error::Endpoint(text.to_owned()))
        }
    }

    /// Returns the socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// Serves until `shutdown` resolves, then takes no more calls and lets those in flight end within `grace`; the ones
/// that do not are dropped and answered `UNAVAILABLE`.
/// The socket has mode 0600; a stale one is replaced, a live one is an error; it is removed at the end.
/// Every call is logged with its method, ids, status and duration, never with its secrets ([`crate::call`]).
///
/// # Errors
/// See [`Error`].
pub async fn serve(
    endpoint: &Endpoint,
    routes: Routes,
    shutdown: impl Future<Output = ()> + Send,
    grace: Duration,
) -> Result<(), Error> {
    serve_observed(endpoint, routes, shutdown, grace, None).await
}

/// Serves as [`serve`] does, and has an observer told of every call.
///
/// # Errors
/// See [`Error`].
pub async fn serve_observed(
    endpoint: &Endpoint,
    routes: Routes,
    shutdown: impl Future<Output = ()> + Send,
    grace: Duration,
    observer: Option<Arc<dyn Observer>>,
) -> Result<(), Error> {
    let path = endpoint.path();
    let (socket, listener) = off_runtime(path, {
        let path = path.to_owned();
        move || Socket::bind(path)
    })
    .await?;
    let listener = UnixListener::from_std(listener).map_err(|source| Error::Io { path: path.into(), source })?;
    tracing::info!(%endpoint, "serving");

    let (last_call, stop) = (CancellationToken::new(), CancellationToken::new());
    let layer = CallLayer::new(stop.clone()).observed(observer);
    let server = Server::builder().layer(layer).serve_with_incoming_shutdown(
        routes,
        connections(listener),
        last_call.cancelled(),
    );
    let mut server = std::pin::pin!(server);
    let ended = tokio::select! {
        ended = &mut server => ended,
        () = shutdown => {
            tracing::info!(%endpoint, grace_ms = grace.as_millis(), "stopping");
            last_call.cancel();
            match timeout(grace, &mut server).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!(%endpoint, "calls are still running: they are dropped");
                    stop.cancel();
                    // Who does not take the answer by then is left with a broken connection.
                    timeout(LAST_WORDS, &mut server).await.unwrap_or(Ok(()))
                }
            }
        }
    };
    off_runtime(path, move || {
        drop(socket);
        Ok(())
    })
    .await?;
    ended.map_err(|source| Error::Serve(path.into(), source))
}

/// Gives connections as they come. A refusal of the system passes, so that it ends neither the server nor, by being
/// repeated at once, everything else.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(connection), listener)),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no connection could be taken");
                    sleep(REST).await;
                }
            }
        }
    })
}

/// Runs system calls where they may block.
async fn off_runtime<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|source| Err(Error::Io { path: path.into(), source: io::Error::other(source) }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_endpoint_is_an_absolute_path() {
        for text in ["unix:///run/csi.sock", "unix:/run/csi.sock", "/run/csi.sock"] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.path(), Path::new("/run/csi.sock"));
            assert_eq!(endpoint.to_string(), "unix:///run/csi.sock");
        }
        let longest = format!("/{}", "s".repeat(106));
        assert_eq!(Endpoint::parse(&longest).unwrap().path(), Path::new(&longest));
    }

    #[test]
    fn other_endpoints_are_refused() {
        let too_long = format!("unix:///{}", "s".repeat(107));
        for text in
            ["", "unix://", "unix://run/csi.sock", "csi.sock", "/run/", "/", "tcp://127.0.0.1:1", "/a\0b", &too_long]
        {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(matches!(&error, Error::Endpoint(given) if given == text), "{text:?}");
        }
        let message = "--endpoint is \"tcp://x\": expected unix:// and an absolute path of at most 107 bytes";
        assert_eq!(Endpoint::parse("tcp://x").unwrap_err().to_string(), message);
    }

    proptest! {
        #[test]
        fn an_endpoint_reads_back(text in "(unix:|unix://|)/{0,2}[a-z./]{0,120}") {
            if let Ok(endpoint) = Endpoint::parse(&text) {
                prop_assert!(endpoint.path().is_absolute());
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()).unwrap(), endpoint);
            }
        }
    }
}
