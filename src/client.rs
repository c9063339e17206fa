//! Speaking CSI to a driver: what the commands and the demo use.

use std::{io, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::failure::Usage;

/// Connects to the driver that serves on `unix:///path`.
///
/// # Errors
/// `Usage` for another kind of endpoint; that nobody answers there.
pub(crate) async fn connect(endpoint: &str) -> anyhow::Result<Channel> {
    let path = endpoint.strip_prefix("unix://").filter(|path| path.starts_with('/')).ok_or_else(|| {
        Usage(format!("--endpoint is {endpoint:?}: expected a socket, as in unix:///run/varve/csi.sock"))
    })?;
    let path: Arc<PathBuf> = Arc::new(path.into());
    let connector = service_fn(move |_: Uri| {
        let path = Arc::clone(&path);
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(&*path).await?)) }
    });
    // The name is not looked up: the connector decides where it goes.
    Endpoint::from_static("http://driver.invalid")
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("connecting to the driver at {endpoint}"))
}
