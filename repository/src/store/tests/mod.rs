//! What every store must do, run against each; and what happens when one does not.

mod conformance;
pub(crate) mod faulty;
#[path = "../../../tests/gateway/mod.rs"]
pub(crate) mod gateway;
mod hazards;
mod proxy;
mod s3;

use std::sync::Arc;

use object_store::memory::InMemory;

use super::Store;

/// A store in memory.
pub(crate) fn memory() -> Store {
    Store::new(Arc::new(InMemory::new()), "memory:///")
}

#[tokio::test]
async fn memory_conforms() {
    conformance::suite(&memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_conforms() {
    let parent = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}/repository", parent.path().display()), &[]).unwrap();
    store.prepare().await.unwrap();
    conformance::suite(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s3_conforms() {
    let gateway = gateway::Gateway::start();
    let store = Store::open(&gateway.url("a/prefix"), &gateway.options()).unwrap();
    conformance::suite(&store).await;
}
