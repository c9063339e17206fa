//! A proxy that lets requests through to an S3 server and does away with the answers to some.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the client gets instead of the answer to a put that was applied.
#[derive(Clone, Copy, Debug)]
pub(super) enum Instead {
    /// The connection ends.
    Nothing,
    /// The server seems to be busy, so that the client puts again by itself.
    Busy,
    /// Requests crossed: S3's 409.
    Crossed,
    /// The server has no room.
    Full,
}

impl Instead {
    const fn answer(self) -> &'static [u8] {
        match self {
            Self::Nothing => b"",
            Self::Busy => b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            Self::Full => b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            Self::Crossed => b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        }
    }
}

/// A running proxy; it ends when dropped.
pub(super) struct Proxy {
    address: SocketAddr,
    remaining: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one that does away with the answers to the first `puts` puts.
    pub(super) async fn start(server: SocketAddr, puts: usize, instead: Instead) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let remaining = Arc::new(AtomicUsize::new(puts));
        let counter = Arc::clone(&remaining);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let counter = Arc::clone(&counter);
                // A client that breaks off is no concern of the proxy.
                tokio::spawn(async move { pass(client, server, &counter, instead).await.ok() });
            }
        });
        Self { address, remaining, task }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many answers are still to be done away with.
    pub(super) fn remaining(&self) -> usize {
        self.remaining.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes one request through; connections are not kept.
async fn pass(
    mut client: TcpStream,
    server: SocketAddr,
    remaining: &AtomicUsize,
    instead: Instead,
) -> std::io::Result<()> {
    let request = read_request(&mut client).await?;
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(&without_keeping(&request)).await?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    let is_put = request.starts_with(b"PUT ");
    let take = |count: usize| count.checked_sub(1);
    if is_put && remaining.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
        return client.write_all(instead.answer()).await;
    }
    client.write_all(&without_keeping(&answer)).await?;
    client.shutdown().await
}

async fn read_request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            let total = end + 4 + length;
            let start = bytes.len();
            bytes.resize(total.max(start), 0);
            client.read_exact(&mut bytes[start..]).await?;
            return Ok(bytes);
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Adds a header that ends the connection after this exchange.
fn without_keeping(message: &[u8]) -> Vec<u8> {
    let line = message.windows(2).position(|window| window == b"\r\n").map_or(0, |at| at + 2);
    [&message[..line], b"Connection: close\r\n", &message[line..]].concat()
}
