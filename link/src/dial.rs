//! A controller's side: one node's connection, made when it is first needed, kept, and made again when it broke.
//!
//! # Concurrency
//! All calls to one node share one connection. While none can be made, calls fail at once with the reason of the last
//! attempt, and attempts are made ever less often, up to a bound that is short enough for a node that comes back.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::AsyncBufReadExt as _,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::refusal;

/// How long it may take until a connection stands.
const CONNECT: Duration = Duration::from_secs(3);

/// How long a connection may be silent before the node is asked whether it is still there, and how long that may take:
/// a node that lost its power is noticed after both.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// How long the first pause between two attempts is, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What stands for the node where TLS wants a name. Nobody looks at it: the certificate is verified for the node's own
/// name, which need not be one of the DNS.
const NAME: &str = "agent.invalid";

/// The way to one node.
struct Way {
    node: String,
    address: String,
    tls: TlsConnector,
    failed: Mutex<Option<Failed>>,
}

/// The last attempt, where it came to nothing.
#[derive(Clone)]
struct Failed {
    reason: String,
    pause: Duration,
    again: Instant,
}

/// Makes the connection of a node at an address, as `host:port`; nothing is dialled before the first call.
pub(crate) fn channel(node: &str, address: &str, tls: rustls::ClientConfig) -> Channel {
    let way = Arc::new(Way {
        node: node.to_owned(),
        address: address.to_owned(),
        tls: TlsConnector::from(Arc::new(tls)),
        failed: Mutex::new(None),
    });
    let connector = service_fn(move |_: Uri| {
        let way = Arc::clone(&way);
        async move { way.dial().await.map(TokioIo::new) }
    });
    // The name is not looked up: the connector decides where it goes.
    Endpoint::from_static("http://agent.invalid")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

impl Way {
    /// Makes a connection, or says why there is none.
    async fn dial(&self) -> io::Result<TlsStream<TcpStream>> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(failed) = &failed
            && Instant::now() < failed.again
        {
            return Err(io::Error::other(failed.reason.clone()));
        }
        let made = match timeout(CONNECT, self.connect()).await {
            Ok(made) => made.map_err(|error| format!("{}: {}", self.address, refusal::explain(&error))),
            Err(_) => Err(format!("{}: no connection within {CONNECT:?}", self.address)),
        };
        match made {
            Ok(connection) => {
                tracing::info!(node = self.node, address = self.address, "connected to the node");
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(connection)
            }
            Err(reason) => {
                if failed.as_ref().is_none_or(|failed| failed.reason != reason) {
                    tracing::warn!(node = self.node, reason, "the node cannot be connected to");
                }
                let pause = failed.map_or(PAUSES.0, |failed| (failed.pause * 2).min(PAUSES.1));
                let failed = Failed { reason: reason.clone(), pause, again: Instant::now() + pause };
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(failed);
                Err(io::Error::other(reason))
            }
        }
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let connection = TcpStream::connect(&self.address).await?;
        connection.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).expect("a constant that is a name");
        let mut connection = self.tls.connect(name, connection).await?;
        // In TLS 1.3 a client takes the handshake for done before the server has looked at its certificate. The first
        // thing that arrives tells: a refusal, or the settings with which every HTTP/2 server begins. They stay in
        // the buffer.
        if connection.fill_buf().await?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(connection)
    }
}
