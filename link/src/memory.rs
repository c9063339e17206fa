//! The controller's way to the agent inside one process: gRPC over an in-memory stream, as it would be over a network.
//! There is nobody else on such a stream, so nobody has to show who they are.

use std::io;

use hyper_util::rt::TokioIo;
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Channel, Endpoint, Server, Uri},
};
use tower::service_fn;

/// Bytes that either side may be ahead of the other.
const BUFFER: usize = 64 * 1024;

/// Serves `routes` on connections of this process alone. They end, and with them the task, when `shutdown` is cancelled
/// and the calls in flight are answered.
pub fn link(routes: Routes, shutdown: CancellationToken) -> (Channel, JoinHandle<Result<(), tonic::transport::Error>>) {
    let (connections, accepted) = mpsc::channel::<DuplexStream>(1);
    let incoming = ReceiverStream::new(accepted).map(Ok::<_, io::Error>);
    let server = tokio::spawn(async move {
        Server::builder().add_routes(routes).serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await
    });
    let connector = service_fn(move |_: Uri| {
        let connections = connections.clone();
        async move {
            let (near, far) = duplex(BUFFER);
            connections
                .send(far)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::ConnectionRefused, "the agent has ended"))?;
            Ok::<_, io::Error>(TokioIo::new(near))
        }
    });
    // The name is not looked up: the connector decides where it goes.
    (Endpoint::from_static("http://agent.invalid").connect_with_connector_lazy(connector), server)
}
