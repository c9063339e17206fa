//! A snapshot of one repository as the image and the change list of an offload into another.
//!
//! An offload reads its image front to back on a thread of its own. What it is about to read is known from the change
//! list, so it is fetched ahead in windows, several reads of packs at once: a copy is bound by bandwidth and not by
//! latency. The few blocks that are read out of that order, the sample of what did not change, are fetched one by one.
//!
//! # Invariants
//! Every byte given out has matched its chunk's id, the table, the run and the root. Memory: five windows of 8 MiB, the
//! reads under way, some 32 MiB, and 65,536 ranges of the change list.
//!
//! # Concurrency
//! Where work is done on threads, those block until the runtime has fetched what they wait for. Where all is done
//! in one thread nothing can wait so: the snapshot is then read into memory first.
//!
//! # Cancellation
//! By the token: whoever reads is told so at once.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, stream};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::fetch::{Fetcher, Window, blocks};
use crate::{
    Error, Repository, Result,
    block::{BLOCK_SIZE, BlockRange, BlockSource, BlockTarget, Blocks, Change, ChangeSource},
    difference::{Ranges, Walk},
    progress::Progress,
    record::snapshot::Root,
    run::{Extent, Place, Segment, View},
    seam::Work,
};

/// Most ranges of a change list that are kept; a longer one is walked again wherever it is needed.
const KEPT_RANGES: usize = 1 << 16;

/// A window ends once it has this many blocks, 8 MiB, or this many segments.
const WINDOW_BLOCKS: u64 = 2048;
const WINDOW_SEGMENTS: usize = 4096;

/// Windows being fetched at once.
const WINDOWS: usize = 2;

/// What failed while the first repository was read.
#[derive(Debug)]
pub(super) struct Fault {
    /// Whether it was found on the way to what changed; then it may be the base's.
    pub(super) in_difference: bool,
    /// The failure.
    pub(super) error: Error,
}

impl Fault {
    fn difference(error: Error) -> Self {
        Self { in_difference: true, error }
    }

    fn data(error: Error) -> Self {
        Self { in_difference: false, error }
    }
}

/// A snapshot to be copied.
pub(super) struct Source {
    repository: Repository,
    base: Option<Arc<Root>>,
    root: Arc<Root>,
    capacity: Blocks,
    /// The change list, where it is short enough to be kept.
    kept: Option<Vec<Change>>,
    image: Image,
    fault: Mutex<Option<Fault>>,
    stop: CancellationToken,
}

enum Image {
    /// Fetched as it is read.
    Fetched { fetcher: Fetcher, runtime: Handle, ahead: Mutex<Option<Ahead>> },
    /// All of it, in memory.
    Held { bytes: Vec<u8>, fetched: u64 },
}

/// Windows that are fetched before they are read.
struct Ahead {
    first: Blocks,
    window: Window,
    windows: mpsc::Receiver<Result<Window, Fault>>,
    _fetching: AbortOnDropHandle<()>,
}

impl Source {
    /// Prepares to read what a snapshot holds otherwise than its base, or all that it holds.
    ///
    /// # Errors
    /// What is damaged of it, as far as it is looked at already, and those of the store.
    pub(super) async fn open(
        repository: &Repository,
        base: Option<Arc<Root>>,
        root: Arc<Root>,
        stop: CancellationToken,
    ) -> Result<Self, Fault> {
        let place = repository.seams().work;
        let mut ranges = Ranges::new(Walk::new(repository, base.as_deref(), &root, Blocks::ZERO));
        let mut kept = Vec::new();
        let whole = loop {
            match ranges.next().await.map_err(Fault::difference)? {
                Some(_) if place == Work::Threads && kept.len() >= KEPT_RANGES => break false,
                Some(range) => kept.push(range),
                None => break true,
            }
        };
        let image = match place {
            Work::Threads => Image::Fetched {
                fetcher: Fetcher::new(repository),
                runtime: Handle::current(),
                ahead: Mutex::default(),
            },
            Work::Inline => held(repository, &root, &stop).await.map_err(Fault::data)?,
        };
        Ok(Self {
            repository: repository.clone(),
            base,
            capacity: Blocks(root.description.capacity_bytes / BLOCK_SIZE),
            root,
            kept: whole.then_some(kept),
            image,
            fault: Mutex::default(),
            stop,
        })
    }

    /// Bytes of packs fetched so far.
    pub(super) fn fetched(&self) -> u64 {
        match &self.image {
            Image::Fetched { fetcher, .. } => fetcher.fetched(),
            Image::Held { fetched, .. } => *fetched,
        }
    }

    /// Takes what was the matter when a read failed. An offload says no more of it than that its image cannot be read.
    pub(super) fn take_fault(&self) -> Option<Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps what was the matter, and makes of it what an image's reader expects.
    fn failed(&self, fault: Fault) -> io::Error {
        let error = io::Error::other(fault.error.to_string());
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
        error
    }

    /// Waits for the runtime; on a thread that may block.
    fn wait<T>(&self, runtime: &Handle, work: impl Future<Output = Result<T>>) -> Result<T> {
        runtime.block_on(self.stop.run_until_cancelled(work)).unwrap_or(Err(Error::Interrupted))
    }

    /// Starts to fetch what changed from `first` on, if that did.
    fn look_ahead(&self, fetcher: &Fetcher, runtime: &Handle, first: Blocks) -> io::Result<Option<Ahead>> {
        let next = self.changes(first)?.next().transpose()?;
        if !matches!(next, Some(Change::Data(range)) if range.first <= first) {
            return Ok(None);
        }
        let walk = Walk::new(&self.repository, self.base.as_deref(), &self.root, first);
        let (sender, windows) = mpsc::channel(1);
        let (fetcher, stop) = (fetcher.clone(), self.stop.clone());
        let fetching = async move {
            let batches = stream::unfold(Batches { walk, failed: false }, async |mut batches| {
                batches.next().await.map(|batch| (batch, batches))
            });
            let mut windows = Box::pin(
                batches
                    .map(|batch| {
                        let fetcher = fetcher.clone();
                        async move { fetcher.load(batch.map_err(Fault::difference)?).await.map_err(Fault::data) }
                    })
                    .buffered(WINDOWS),
            );
            while let Some(window) = windows.next().await {
                if sender.send(window).await.is_err() {
                    return;
                }
            }
        };
        let fetching = runtime.spawn(async move {
            stop.run_until_cancelled(fetching).await;
        });
        Ok(Some(Ahead { first, window: Window::default(), windows, _fetching: AbortOnDropHandle::new(fetching) }))
    }

    /// Fills as much of the start of `buffer` as was fetched ahead; none where `first` is not among what is.
    fn read_ahead(
        &self,
        fetcher: &Fetcher,
        runtime: &Handle,
        ahead: &Mutex<Option<Ahead>>,
        first: Blocks,
        buffer: &mut [u8],
    ) -> io::Result<Blocks> {
        let mut ahead = ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead.as_ref().is_none_or(|ahead| first < ahead.first) {
            match self.look_ahead(fetcher, runtime, first)? {
                Some(started) => *ahead = Some(started),
                None => return Ok(Blocks::ZERO),
            }
        }
        let Some(ahead) = ahead.as_mut() else { return Ok(Blocks::ZERO) };
        while ahead.window.end() <= first {
            match ahead.windows.blocking_recv() {
                Some(Ok(window)) => {
                    ahead.first = ahead.window.end().max(ahead.first);
                    ahead.window = window;
                }
                Some(Err(fault)) => return Err(self.failed(fault)),
                None if self.stop.is_cancelled() => return Err(self.failed(Fault::data(Error::Interrupted))),
                None => return Ok(Blocks::ZERO),
            }
        }
        Ok(ahead.window.read(first, buffer))
    }

    /// Fetches a range as the snapshot holds it, holes included.
    async fn fetch(&self, fetcher: &Fetcher, range: BlockRange, buffer: &mut [u8]) -> Result<()> {
        let mut view = View::of(&self.repository, &self.root.runs, range);
        let mut segments = Vec::new();
        while let Some(segment) = view.next().await? {
            segments.push(segment);
        }
        let places: Vec<BlockRange> = segments.iter().map(|segment| segment.range).collect();
        let window = fetcher.load(segments).await?;
        buffer.fill(0);
        for place in places {
            let start = usize::try_from((place.first - range.first).bytes()).unwrap_or(usize::MAX);
            let length = usize::try_from(place.count.bytes()).unwrap_or(usize::MAX);
            if let Some(part) = buffer.get_mut(start..).and_then(|rest| rest.get_mut(..length)) {
                window.read(place.first, part);
            }
        }
        Ok(())
    }
}

impl ChangeSource for Source {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        match (&self.kept, &self.image) {
            (Some(kept), _) => {
                let behind = kept.partition_point(|change| change.range().end() <= from);
                Ok(Box::new(kept[behind..].iter().copied().map(Ok)))
            }
            (None, Image::Fetched { runtime, .. }) => {
                let walk = Walk::new(&self.repository, self.base.as_deref(), &self.root, from);
                let mut ranges = Ranges::new(walk);
                let next = move || self.wait(runtime, ranges.next()).map_err(Fault::difference);
                Ok(Box::new(std::iter::from_fn(next_of(next)).map(|next| next.map_err(|fault| self.failed(fault)))))
            }
            (None, Image::Held { .. }) => Err(io::Error::other("an image in memory comes with its change list")),
        }
    }
}

/// Turns what yields `Ok(None)` at its end into what an iterator is made from.
fn next_of<T>(mut next: impl FnMut() -> Result<Option<T>, Fault>) -> impl FnMut() -> Option<Result<T, Fault>> {
    move || next().transpose()
}

impl BlockSource for Source {
    fn capacity(&self) -> Blocks {
        self.capacity
    }

    /// What is fetched for one read serves those behind it.
    fn reads_at_once(&self) -> bool {
        false
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        match &self.image {
            Image::Held { bytes, .. } => {
                let start = usize::try_from(first.bytes()).unwrap_or(usize::MAX);
                let held = bytes.get(start..).and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(held.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Image::Fetched { fetcher, runtime, ahead } => {
                let count = blocks(buffer.len());
                let mut read = Blocks::ZERO;
                while read < count {
                    let start = usize::try_from(read.bytes()).unwrap_or(usize::MAX);
                    let rest = buffer.get_mut(start..).unwrap_or_default();
                    let more = self.read_ahead(fetcher, runtime, ahead, first + read, rest)?;
                    if more == Blocks::ZERO {
                        let range = BlockRange { first: first + read, count: count - read };
                        let fetched = self.wait(runtime, self.fetch(fetcher, range, rest));
                        return fetched.map_err(|error| self.failed(Fault::data(error)));
                    }
                    read += more;
                }
                Ok(())
            }
        }
    }
}

/// The segments of a walk that hold data, in batches that make a window each.
struct Batches {
    walk: Walk,
    failed: bool,
}

impl Batches {
    async fn next(&mut self) -> Option<Result<Vec<Segment>>> {
        if self.failed {
            return None;
        }
        let (mut batch, mut count) = (Vec::new(), Blocks::ZERO);
        while count.0 < WINDOW_BLOCKS && batch.len() < WINDOW_SEGMENTS {
            match self.walk.next().await {
                Ok(Some(Extent { place: Place::Zero, .. })) => {}
                Ok(Some(segment)) => {
                    count += segment.range.count;
                    batch.push(segment);
                }
                Ok(None) => break,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

/// Reads a whole snapshot into memory.
async fn held(repository: &Repository, root: &Root, stop: &CancellationToken) -> Result<Image> {
    let length = usize::try_from(root.description.capacity_bytes).map_err(|_| Error::Local {
        what: "taking a snapshot into memory".into(),
        source: io::ErrorKind::OutOfMemory.into(),
    })?;
    let target = Arc::new(Memory(Mutex::new(vec![0; length])));
    let to = Arc::clone(&target) as Arc<dyn BlockTarget>;
    let statistics = repository.hydrate(root, to, Progress::default(), stop.clone()).await?;
    let bytes = std::mem::take(&mut *target.0.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Image::Held { bytes, fetched: statistics.fetched_bytes })
}

/// An image in memory.
struct Memory(Mutex<Vec<u8>>);

impl BlockTarget for Memory {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(first.bytes()).unwrap_or(usize::MAX);
        let place = bytes.get_mut(start..).and_then(|rest| rest.get_mut(..data.len()));
        place.ok_or(io::ErrorKind::StorageFull)?.copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
