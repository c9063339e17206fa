//! `/healthz`, `/readyz` and `/metrics` over HTTP/1.1.
//!
//! Whoever reaches the port may ask. So nothing that is told is worth hiding, and nobody who asks much, slowly or oddly
//! costs much: a few connections are served at a time, each for one request and a bounded time, and metrics are written
//! for one of them at a time.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

use super::{conditions::Conditions, metrics::Metrics};

/// Connections served at a time; further ones wait.
const AT_ONCE: usize = 16;

/// How long a request's head may take to arrive.
const HEAD: Duration = Duration::from_secs(5);

/// How long a request may take altogether.
const WHOLE: Duration = Duration::from_secs(30);

/// How long metrics may take; a disk that hangs makes them hang.
const METRICS: Duration = Duration::from_secs(10);

/// How long the listener rests after the system refused a connection.
const REST: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What answers requests.
#[derive(Clone, Debug)]
struct Answers {
    conditions: Arc<Conditions>,
    metrics: Arc<Metrics>,
    /// Held while metrics are written, also by who is not waited for any more.
    writing: Arc<Mutex<()>>,
}

/// A listener; dropping it ends it.
#[derive(Debug)]
pub(super) struct Listener {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens and answers.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn start(
        address: SocketAddr,
        conditions: Arc<Conditions>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let failed = || format!("listening on {address} for HTTP (--http-listen)");
        let listener = TcpListener::bind(address).await.with_context(failed)?;
        let address = listener.local_addr().with_context(failed)?;
        let answers = Answers { conditions, metrics, writing: Arc::default() };
        Ok(Self { address, task: tokio::spawn(serve(listener, answers)) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, answers: Answers) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        match listener.accept().await {
            Ok((connection, _)) => {
                let answers = answers.clone();
                tokio::spawn(async move {
                    let _place = place;
                    answer(connection, answers).await;
                });
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection could be taken");
                sleep(REST).await;
            }
        }
    }
}

/// Answers one request.
async fn answer(connection: TcpStream, answers: Answers) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.to(request.method(), request.uri().path()).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), service);
    let failed = match timeout(WHOLE, served).await {
        Ok(served) => served.err().map(io::Error::other),
        Err(_) => Some(io::ErrorKind::TimedOut.into()),
    };
    if let Some(error) = failed {
        tracing::debug!(error = &error as &dyn std::error::Error, "a request for health or metrics came to nothing");
    }
}

impl Answers {
    async fn to(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if *method != Method::GET && *method != Method::HEAD {
            let mut refused = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "expected GET\n".into());
            refused.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a header's value"));
            return refused;
        }
        match path {
            "/healthz" => self.health().await,
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics().await,
            _ => respond(StatusCode::NOT_FOUND, TEXT, "expected /healthz, /readyz or /metrics\n".into()),
        }
    }

    async fn health(&self) -> Response<Full<Bytes>> {
        if self.conditions.is_alive().await {
            respond(StatusCode::OK, TEXT, "alive\n".into())
        } else {
            respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the process does not serve its socket\n".into())
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let conditions = self.conditions.read();
        let lines = conditions.iter().map(|(condition, holds)| {
            format!("{}: {}\n", condition.as_str(), if *holds { "ready" } else { "not ready, see the log" })
        });
        let ready = conditions.iter().all(|(_, holds)| *holds);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        respond(status, TEXT, lines.collect())
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let written = async {
            let writing = Arc::clone(&self.writing).lock_owned().await;
            let metrics = Arc::clone(&self.metrics);
            spawn_blocking(move || {
                let _writing = writing;
                metrics.render()
            })
            .await
        };
        match timeout(METRICS, written).await {
            Ok(Ok(text)) => respond(StatusCode::OK, OPENMETRICS, text),
            Ok(Err(_)) | Err(_) => {
                respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the metrics could not be read in time\n".into())
            }
        }
    }
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind.parse().expect("a header's value"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::serve::monitor::{Phase, readings::Readings};

    async fn start() -> (Listener, Arc<Conditions>) {
        let conditions = Arc::new(Conditions::default());
        let metrics = Arc::new(Metrics::new(Arc::new(Readings::new(Arc::clone(&conditions)))));
        let address = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::start(address, Arc::clone(&conditions), metrics).await.expect("it listens");
        (listener, conditions)
    }

    /// Sends a request's first line and returns the answer's and its last.
    async fn ask(listener: &Listener, line: &str) -> (String, String) {
        let mut connection = TcpStream::connect(listener.address()).await.expect("it listens");
        let request = format!("{line} HTTP/1.1\r\nhost: varve\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("it takes it");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().expect("a line").to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn a_process_that_starts_is_alive_and_not_ready() {
        let (listener, conditions) = start().await;
        assert_eq!(ask(&listener, "GET /healthz").await, ("HTTP/1.1 200 OK".into(), "alive\n".into()));
        let (status, body) = ask(&listener, "GET /readyz").await;
        assert_eq!(
            (status.as_str(), body.as_str()),
            ("HTTP/1.1 503 Service Unavailable", "serving: not ready, see the log\n")
        );
        conditions.enter(Phase::Serving);
        assert_eq!(ask(&listener, "GET /readyz").await, ("HTTP/1.1 200 OK".into(), "serving: ready\n".into()));
        let (status, body) = ask(&listener, "GET /metrics?x=1").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(body.contains("varve_ready{condition=\"serving\"} 1\n") && body.ends_with("# EOF\n"), "{body}");
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let (listener, _) = start().await;
        assert_eq!(ask(&listener, "GET /debug").await.0, "HTTP/1.1 404 Not Found");
        assert_eq!(ask(&listener, "GET /").await.0, "HTTP/1.1 404 Not Found");
        assert_eq!(ask(&listener, "POST /metrics").await.0, "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(ask(&listener, "HEAD /healthz").await, ("HTTP/1.1 200 OK".into(), String::new()));
    }

    #[tokio::test]
    async fn who_says_nothing_keeps_nobody_out() {
        let (listener, _) = start().await;
        let mut silent = Vec::new();
        for _ in 0..AT_ONCE - 1 {
            silent.push(TcpStream::connect(listener.address()).await.expect("it listens"));
        }
        assert_eq!(ask(&listener, "GET /healthz").await.0, "HTTP/1.1 200 OK");
        // All places taken: whoever comes waits until the silent ones' time is up.
        silent.push(TcpStream::connect(listener.address()).await.expect("it listens"));
        assert_eq!(ask(&listener, "GET /healthz").await.0, "HTTP/1.1 200 OK");
    }
}
