//! A node's side: the agent API on TCP, for controllers of the same repository alone.
//!
//! # Concurrency
//! Handshakes go on beside one another, up to a bound, and none for longer than its time; who says nothing keeps nobody
//! else out for long. A connection that fails is one line in the log and ends nothing.
//!
//! # Cancellation
//! Once `shutdown` is cancelled no connection is taken any more, and [`Listener::serve`] ends when the calls in flight are
//! answered.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{
        Server,
        server::{Connected, TcpConnectInfo},
    },
};
use varve_csi::call::{CallLayer, Observer};

use crate::{Role, Trust, identity::Identity, refusal, verify};

/// Handshakes at the same time.
const HANDSHAKES: usize = 64;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long the listener rests after the system refused a connection, for want of descriptors as a rule.
const REST: Duration = Duration::from_millis(100);

/// How long a connection may be silent before the other side is asked whether it is still there, and how long that may
/// take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What can go wrong with the agent's address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    #[error("listening for controllers on {address}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("setting up TLS for the agent API")]
    Tls(#[from] rustls::Error),
    /// The server failed.
    #[error("serving the agent API")]
    Serve(#[from] tonic::transport::Error),
}

/// An address that connections of controllers are taken on.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    observer: Option<Arc<dyn Observer>>,
}

impl Listener {
    /// Listens; connections wait until they are [served](Self::serve).
    ///
    /// # Errors
    /// `Io`.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let failed = |source| Error::Io { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, observer: None })
    }

    /// Has somebody told of every call.
    #[must_use]
    pub fn observed(self, observer: Option<Arc<dyn Observer>>) -> Self {
        Self { observer, ..self }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the node's agent to controllers until `shutdown` is cancelled and the calls in flight are answered; those
    /// that are still running when `stop` is cancelled are dropped and answered `UNAVAILABLE`.
    ///
    /// # Errors
    /// `Tls` and `Serve`.
    pub async fn serve(
        self,
        trust: &Trust,
        node: &str,
        routes: Routes,
        shutdown: CancellationToken,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let identity = Arc::new(Identity::new(trust, Role::Node(node.to_owned())));
        let acceptor = TlsAcceptor::from(Arc::new(verify::listening(trust, identity)?));
        let served = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .layer(CallLayer::new(stop).observed(self.observer))
            .serve_with_incoming_shutdown(routes, connections(self.listener, acceptor), shutdown.cancelled_owned());
        Ok(served.await?)
    }
}

/// Gives connections of controllers as they come.
fn connections(listener: TcpListener, acceptor: TlsAcceptor) -> impl Stream<Item = io::Result<Connection>> {
    let accepted = stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok(accepted) => return Some((accepted, listener)),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no connection could be taken");
                    sleep(REST).await;
                }
            }
        }
    });
    accepted
        .map(move |(connection, peer)| welcome(acceptor.clone(), connection, peer))
        .buffer_unordered(HANDSHAKES)
        .filter_map(|connection| async { connection.map(Ok) })
}

/// Has the other side show who it is; none where it is nobody to speak to.
async fn welcome(acceptor: TlsAcceptor, connection: TcpStream, peer: SocketAddr) -> Option<Connection> {
    // Answers are small and waited for. Where this fails they are slower and no less right.
    let _ = connection.set_nodelay(true);
    let reason = match timeout(HANDSHAKE, acceptor.accept(connection)).await {
        Ok(Ok(connection)) => {
            tracing::info!(%peer, "a controller has connected");
            return Some(Connection(connection));
        }
        Ok(Err(error)) => refusal::explain(&error),
        Err(_) => format!("it did not say who it is within {HANDSHAKE:?}"),
    };
    tracing::warn!(%peer, reason, "a connection to the agent API was refused");
    None
}

/// A controller's connection.
struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.get_ref().0.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
