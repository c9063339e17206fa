//! A proxy in front of an S3 server that disturbs the requests it is told to, at points it is told.
//!
//! Each connection carries one exchange, whose request is read whole before anything is done with it. What is disturbed is
//! decided by the first rule that takes the request.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What is done to a request.
#[derive(Clone)]
pub(crate) enum Act {
    /// The connection ends before the server hears of it.
    CutBefore,
    /// Half of the request's body reaches the server, then both connections end.
    CutInRequest,
    /// The server does as it is asked, and the connection ends before a byte of its answer.
    CutAfter,
    /// Half of the answer's body reaches the client.
    CutInAnswer,
    /// The server is not asked for as long.
    Delay(Duration),
    /// Nothing is ever answered.
    Hang,
    /// This is answered instead, with the connection's end.
    Answer(String),
    /// This is done, and the request passed on.
    Call(Arc<dyn Fn() + Send + Sync>),
}

impl Act {
    /// An answer as S3 gives it.
    pub(crate) fn refusal(status: &str, code: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
        Self::Answer(format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ))
    }
}

/// Which requests are disturbed, and how.
pub(crate) struct Rule {
    pub(crate) what: Box<dyn Fn(&Request<'_>) -> bool + Send + Sync>,
    /// Of those that `what` takes, this many pass first.
    pub(crate) skip: usize,
    /// Then this many are disturbed; the rule has no effect after.
    pub(crate) times: usize,
    pub(crate) act: Act,
}

impl Rule {
    /// Disturbs requests by their method and a part of their path.
    pub(crate) fn new(method: &'static str, part: &'static str, skip: usize, times: usize, act: Act) -> Self {
        let what = Box::new(move |request: &Request<'_>| request.is(method, part));
        Self { what, skip, times, act }
    }
}

/// A request's head.
pub(crate) struct Request<'a> {
    head: &'a str,
}

impl Request<'_> {
    /// Whether it has that method and that part in its path or query.
    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        let mut words = self.head.lines().next().unwrap_or_default().split(' ');
        words.next() == Some(method) && words.next().is_some_and(|path| path.contains(part))
    }

    /// The value of a header that is named in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim()))
    }
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.head.lines().next().unwrap_or_default())
    }
}

/// A running proxy; it ends when dropped.
pub(crate) struct Disturber {
    address: SocketAddr,
    rules: Arc<Mutex<Vec<Rule>>>,
    log: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Disturber {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (rules, log) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let shared = (Arc::clone(&rules), Arc::clone(&log));
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (rules, log) = shared.clone();
                // A client, or server, that breaks off is no concern of the proxy.
                tokio::spawn(async move { pass(client, server, &rules, &log).await.ok() });
            }
        });
        Self { address, rules, log, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a rule behind those there are.
    pub(crate) fn disturb(&self, rule: Rule) {
        self.rules.lock().unwrap().push(rule);
    }

    /// Disturbs nothing any more; tells how many disturbances that had been asked for never came.
    pub(crate) fn calm(&self) -> usize {
        let rules = std::mem::take(&mut *self.rules.lock().unwrap());
        rules.iter().filter(|rule| rule.times != usize::MAX).map(|rule| rule.times).sum()
    }

    /// Requests that came since this was asked last: each one's first line, undisturbed or not.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

impl Drop for Disturber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Finds what is to be done to a request, and counts it.
fn decide(rules: &Mutex<Vec<Rule>>, request: &Request<'_>) -> Option<Act> {
    let mut rules = rules.lock().unwrap();
    let rule = rules.iter_mut().find(|rule| rule.times > 0 && (rule.what)(request))?;
    if rule.skip > 0 {
        rule.skip -= 1;
        return None;
    }
    if rule.times != usize::MAX {
        rule.times -= 1;
    }
    Some(rule.act.clone())
}

/// Passes one request through, or disturbs it.
async fn pass(
    mut client: TcpStream,
    server: SocketAddr,
    rules: &Mutex<Vec<Rule>>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let (message, body_at) = read_request(&mut client).await?;
    let head = String::from_utf8_lossy(&message[..body_at]).into_owned();
    let request = Request { head: &head };
    log.lock().unwrap().push(request.to_string());
    let act = decide(rules, &request);
    let half = |bytes: &[u8], body_at: usize| body_at + (bytes.len() - body_at) / 2;
    match &act {
        Some(Act::CutBefore) => return Ok(()),
        Some(Act::Hang) => std::future::pending().await,
        Some(Act::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Act::Answer(answer)) => {
            client.write_all(answer.as_bytes()).await?;
            return client.shutdown().await;
        }
        Some(Act::Call(call)) => {
            let call = Arc::clone(call);
            tokio::task::spawn_blocking(move || call()).await.expect("what is called does not panic");
        }
        _ => {}
    }
    let mut upstream = TcpStream::connect(server).await?;
    let sent = if matches!(act, Some(Act::CutInRequest)) { half(&message, body_at) } else { message.len() };
    let line = end_of(&message, b"\r\n").unwrap_or_default();
    upstream.write_all(&[&message[..line], b"Connection: close\r\n"].concat()).await?;
    upstream.write_all(&message[line..sent]).await?;
    if sent < message.len() {
        return Ok(());
    }
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    let line = end_of(&answer, b"\r\n").unwrap_or_default();
    let given = match act {
        Some(Act::CutAfter) => return Ok(()),
        Some(Act::CutInAnswer) => half(&answer, end_of(&answer, b"\r\n\r\n").unwrap_or(answer.len())),
        _ => answer.len(),
    };
    client.write_all(&[&answer[..line], b"Connection: close\r\n"].concat()).await?;
    client.write_all(&answer[line..given]).await?;
    client.shutdown().await
}

/// Reads a request whole; returns it and where its body begins.
async fn read_request(client: &mut TcpStream) -> std::io::Result<(Vec<u8>, usize)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(body_at) = end_of(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..body_at]).into_owned();
            let length = Request { head: &head }.header("content-length").map_or(0, |length| length.parse().unwrap());
            let read = bytes.len();
            bytes.resize((body_at + length).max(read), 0);
            client.read_exact(&mut bytes[read..]).await?;
            return Ok((bytes, body_at));
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Where the first occurrence of `mark` ends.
fn end_of(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark).map(|at| at + mark.len())
}
