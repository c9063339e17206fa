//! A store in memory that counts what is done to it and stops when told, as if the process had died.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use varve_repository::store::Store;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put(String, u64),
    Get(String),
    Delete(String),
    List(String),
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Before the request of that number is applied.
    Before(usize),
    /// After it was applied, and before it is answered.
    After(usize),
}

#[derive(Debug, Default)]
pub(crate) struct Memory {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    operations: Vec<Operation>,
    stop: Option<Stop>,
    stopped: bool,
    replacement: Option<(String, String, Vec<u8>)>,
    latency: Duration,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn store(self: &Arc<Self>) -> Store {
        Store::new(Arc::clone(self) as Arc<dyn ObjectStore>, "memory:///")
    }

    /// A fresh copy of what is there, which nothing has been done to.
    pub(crate) async fn fork(&self) -> Arc<Self> {
        let fork = Self::new();
        for (key, bytes) in self.objects().await {
            fork.inner.put(&Path::from(key), bytes.into()).await.unwrap();
        }
        fork
    }

    /// Forgets what was done, and stops at a later request.
    pub(crate) fn arm(&self, stop: Option<Stop>) {
        *self.state.lock().unwrap() = State { stop, ..State::default() };
    }

    /// Puts other bytes at a key right before the first put below a folder, as another process would.
    pub(crate) fn replace_before(&self, folder: &str, key: String, bytes: Vec<u8>) {
        self.state.lock().unwrap().replacement = Some((folder.into(), key, bytes));
    }

    /// Has every request take a while, until the store is armed the next time.
    pub(crate) fn delay(&self, latency: Duration) {
        self.state.lock().unwrap().latency = latency;
    }

    async fn wait(&self) {
        let latency = self.state.lock().unwrap().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.state.lock().unwrap().operations.clone()
    }

    /// Keys and sizes put since the store was armed.
    pub(crate) fn puts(&self) -> Vec<(String, u64)> {
        let puts = self.operations().into_iter().filter_map(|operation| match operation {
            Operation::Put(key, size) => Some((key, size)),
            _ => None,
        });
        puts.collect()
    }

    pub(crate) fn stopped(&self) -> bool {
        self.state.lock().unwrap().stopped
    }

    pub(crate) async fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let mut keys: Vec<String> =
            self.inner.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
        keys.sort();
        let mut objects = Vec::new();
        for key in keys {
            let bytes = self.read(&key).await;
            objects.push((key, bytes));
        }
        objects
    }

    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.objects().await.into_iter().map(|(key, _)| key);
        keys.filter(|key| key.starts_with(prefix)).collect()
    }

    pub(crate) async fn read(&self, key: &str) -> Vec<u8> {
        self.inner.get(&Path::from(key)).await.unwrap().bytes().await.unwrap().to_vec()
    }

    /// Writes an object behind everybody's back.
    pub(crate) async fn overwrite(&self, key: &str, bytes: Vec<u8>) {
        self.inner.put(&Path::from(key), bytes.into()).await.unwrap();
    }

    pub(crate) async fn remove(&self, key: &str) {
        self.inner.delete(&Path::from(key)).await.unwrap();
    }

    /// Notes a request; tells whether it is applied and whether it is answered.
    fn note(state: &Mutex<State>, operation: Operation) -> (bool, bool) {
        let mut state = state.lock().unwrap();
        if state.stopped {
            return (false, false);
        }
        let number = state.operations.len();
        state.operations.push(operation);
        match state.stop {
            Some(Stop::Before(at)) if number == at => {
                state.stopped = true;
                (false, false)
            }
            Some(Stop::After(at)) if number == at => {
                state.stopped = true;
                (true, false)
            }
            _ => (true, true),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

/// Not a transient error, so that nothing waits and tries again: the process is dead.
fn dead() -> Error {
    Error::PermissionDenied { path: String::new(), source: "the process has died".into() }
}

#[async_trait]
impl ObjectStore for Memory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.wait().await;
        let is_due = |due: &mut (String, String, Vec<u8>)| location.as_ref().starts_with(&due.0);
        let due = self.state.lock().unwrap().replacement.take_if(is_due);
        if let Some((_, key, bytes)) = due {
            self.overwrite(&key, bytes).await;
        }
        let operation = Operation::Put(location.to_string(), payload.content_length() as u64);
        match Self::note(&self.state, operation) {
            (false, _) => Err(dead()),
            (true, false) => self.inner.put_opts(location, payload, options).await.and(Err(dead())),
            (true, true) => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("nothing is put in parts")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.wait().await;
        match Self::note(&self.state, Operation::Get(location.to_string())) {
            (true, true) => self.inner.get_opts(location, options).await,
            _ => Err(dead()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, state) = (Arc::clone(&self.inner), Arc::clone(&self.state));
        let deleted = locations.and_then(move |location| {
            let (inner, state) = (Arc::clone(&inner), Arc::clone(&state));
            async move {
                let latency = state.lock().unwrap().latency;
                if !latency.is_zero() {
                    tokio::time::sleep(latency).await;
                }
                match Self::note(&state, Operation::Delete(location.to_string())) {
                    (false, _) => Err(dead()),
                    (true, answered) => {
                        inner.delete(&location).await?;
                        if answered { Ok(location) } else { Err(dead()) }
                    }
                }
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let operation = Operation::List(prefix.map(Path::to_string).unwrap_or_default());
        match Self::note(&self.state, operation) {
            (true, true) => self.inner.list(prefix),
            _ => futures::stream::once(async { Err(dead()) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("nothing is copied")
    }
}
