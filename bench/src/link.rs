//! A slow link: a proxy in this process that answers later and lets bytes through at a rate.
//!
//! ```text
//! client ──> proxy ──[rate up]──> server
//!        <── [latency + jitter, rate down] ──
//! ```
//!
//! Every answer's first byte waits for the latency and a random part of the jitter, and so does a new connection, whose
//! handshake would. The rate is the link's and not a connection's, in each direction. Packets are not lost.
//!
//! # Invariants
//! A connection carries one request at a time, as HTTP/1.1 without pipelining does: bytes from the client that follow bytes
//! from the server begin another. A request's depth is one more than that of the deepest answer that was given before it
//! began; without jitter, the deepest is the number of round trips that waited for one another. What began before the link was
//! told to count anew counts for nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Bytes taken from a socket at once.
const PIECE_BYTES: usize = 32 << 10;

/// How far the link may catch up on time in which it was not used: timers are no finer than that.
const CREDIT: Duration = Duration::from_millis(10);

/// What a link is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// By how much every answer is late.
    pub latency: Duration,
    /// By how much more, at most; any part of it is as likely.
    pub jitter: Duration,
    /// Bytes a second, in each direction.
    pub rate: u64,
}

impl Shape {
    /// How late answers are on average.
    pub(crate) fn mean(self) -> Duration {
        self.latency + self.jitter / 2
    }
}

/// What went over a link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub requests: u64,
    /// Requests that waited for one another.
    pub round_trips: u64,
    pub connections: u64,
}

/// A link. Dropping it cuts it.
pub(crate) struct Link {
    address: SocketAddr,
    line: Arc<Line>,
    _accepting: AbortOnDropHandle<()>,
}

struct Line {
    shape: Mutex<Shape>,
    up: Direction,
    down: Direction,
    random: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    traffic: Traffic,
    /// How often the link was told to count anew.
    era: u64,
    /// Of the answers that were given.
    deepest: u64,
}

/// Where a request that waits for its answer is.
#[derive(Clone, Copy)]
struct Depth {
    era: u64,
    round_trips: u64,
}

impl Counts {
    /// Where a request is that begins now.
    fn next(&self) -> Depth {
        Depth { era: self.era, round_trips: self.deepest + 1 }
    }
}

/// One direction: the moment at which all that entered it has passed.
#[derive(Default)]
struct Direction(Mutex<Option<Instant>>);

impl Direction {
    async fn pass(&self, bytes: usize, rate: u64) {
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let passed = {
            let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let earliest = now.checked_sub(CREDIT).unwrap_or(now);
            let passed = free.unwrap_or(earliest).max(earliest) + takes;
            *free = Some(passed);
            passed
        };
        sleep_until(passed).await;
    }
}

impl Link {
    /// Opens a link to a server.
    pub(crate) async fn open(server: SocketAddr, shape: Shape) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening for the link")?;
        let address = listener.local_addr().context("asking where the link listens")?;
        let line = Arc::new(Line {
            shape: Mutex::new(shape),
            up: Direction::default(),
            down: Direction::default(),
            random: AtomicU64::new(1),
            counts: Mutex::default(),
        });
        let accepted = Arc::clone(&line);
        let accepting = AbortOnDropHandle::new(tokio::spawn(async move {
            let tracker = Connections(TaskTracker::new(), tokio_util::sync::CancellationToken::new());
            while let Ok((client, _)) = listener.accept().await {
                let (line, cut) = (Arc::clone(&accepted), tracker.1.clone());
                tracker.0.spawn(async move { cut.run_until_cancelled(line.carry(client, server)).await });
            }
        }));
        Ok(Self { address, line, _accepting: accepting })
    }

    /// Where it is entered.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes it another one, from the next answer on.
    pub(crate) fn reshape(&self, shape: Shape) {
        *self.line.shape.lock().unwrap_or_else(PoisonError::into_inner) = shape;
    }

    /// Counts from here on.
    pub(crate) fn restart(&self) {
        let mut counts = self.line.counts();
        *counts = Counts { era: counts.era + 1, ..Counts::default() };
    }

    /// What went over it since it was told to count.
    pub(crate) fn traffic(&self) -> Traffic {
        self.line.counts().traffic
    }
}

/// The connections of a link, which end with it.
struct Connections(TaskTracker, tokio_util::sync::CancellationToken);

impl Drop for Connections {
    fn drop(&mut self) {
        self.1.cancel();
    }
}

impl Line {
    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shape(&self) -> Shape {
        *self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws how late the next answer is.
    fn lateness(&self) -> Duration {
        let Shape { latency, jitter, .. } = self.shape();
        let random = crate::image::scrambled(self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed));
        latency + jitter.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// Carries one connection until either side ends it.
    async fn carry(&self, client: TcpStream, server: SocketAddr) {
        let opened_at = {
            let mut counts = self.counts();
            counts.traffic.connections += 1;
            counts.next()
        };
        sleep(self.lateness()).await;
        // A request that waited for the connection began when that did.
        let first = timeout(Duration::from_millis(1), client.readable()).await.is_ok().then_some(opened_at);
        let Ok(server) = TcpStream::connect(server).await else { return };
        if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
            return;
        }
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        // The depth of the request that is not answered yet.
        let waiting = Mutex::new(None);
        tokio::select! {
            _ = self.carry_requests(from_client, to_server, first, &waiting) => {}
            _ = self.carry_answers(from_server, to_client, &waiting) => {}
        }
    }

    async fn carry_requests(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        mut first: Option<Depth>,
        waiting: &Mutex<Option<Depth>>,
    ) -> std::io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = from.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.is_none() {
                    let mut counts = self.counts();
                    let next = counts.next();
                    let depth = first.take().filter(|first| first.era == next.era).unwrap_or(next);
                    counts.traffic.requests += 1;
                    counts.traffic.round_trips = counts.traffic.round_trips.max(depth.round_trips);
                    *waiting = Some(depth);
                }
            }
            self.up.pass(length, self.shape().rate).await;
            to.write_all(&piece[..length]).await?;
        }
    }

    async fn carry_answers(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        waiting: &Mutex<Option<Depth>>,
    ) -> std::io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = from.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            let answered = waiting.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if answered {
                sleep(self.lateness()).await;
                if let Some(depth) = waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    let mut counts = self.counts();
                    if depth.era == counts.era {
                        counts.deepest = counts.deepest.max(depth.round_trips);
                    }
                }
            }
            self.down.pass(length, self.shape().rate).await;
            to.write_all(&piece[..length]).await?;
        }
    }
}
