//! What only a server across a connection can do wrong.

use std::time::Duration;

use futures::TryStreamExt;

use super::{
    gateway::Gateway,
    proxy::{Instead, Proxy},
};
use crate::{
    Error, ErrorKind,
    seam::fixed,
    store::{Created, Store},
};

fn store(gateway: &Gateway) -> Store {
    Store::open(&gateway.url("prefix"), &gateway.options()).unwrap()
}

#[tokio::test]
async fn invariant_3_lost_answers_do_not_change_who_won() {
    let gateway = Gateway::start();
    let direct = store(&gateway);
    for instead in [Instead::Nothing, Instead::Busy, Instead::Crossed] {
        let proxy = Proxy::start(gateway.address(), 1, instead).await;
        let options = Gateway::options_at(proxy.address(), Gateway::secret());
        let through = Store::open(&gateway.url("prefix"), &options).unwrap();

        let created = through.create("snapshots/a", "mine".into(), |found| found == b"mine").await.unwrap();
        assert_eq!(created, Created::Created, "{instead:?}");
        assert_eq!(proxy.remaining(), 0, "{instead:?}: an answer was lost");
        let created = direct.create("snapshots/a", "late".into(), |found| found == b"late").await.unwrap();
        assert_eq!(created, Created::Theirs("mine".into()));

        let proxy = Proxy::start(gateway.address(), 1, instead).await;
        let options = Gateway::options_at(proxy.address(), Gateway::secret());
        let through = Store::open(&gateway.url("prefix"), &options).unwrap();
        let (_, version) = through.get("snapshots/a").await.unwrap().unwrap();
        let updated = through.replace("snapshots/a", "gone".into(), &version, |found| found == b"gone").await.unwrap();
        assert_eq!(proxy.remaining(), 0, "{instead:?}: an answer was lost");
        assert_eq!(direct.get("snapshots/a").await.unwrap().unwrap(), ("gone".into(), updated));
        direct.delete("snapshots/a").await.unwrap();
    }
}

#[tokio::test]
async fn prefixes_do_not_see_each_other() {
    let gateway = Gateway::start();
    let one = store(&gateway);
    let other = Store::open(&gateway.url("prefix2"), &gateway.options()).unwrap();
    one.put_new("packs/a", "x".into()).await.unwrap();
    assert_eq!(other.get("packs/a").await.unwrap(), None);
    assert_eq!(other.list("packs/").try_collect::<Vec<_>>().await.unwrap(), []);
    let whole = Store::open(&gateway.url(""), &gateway.options()).unwrap();
    assert!(whole.get("prefix/packs/a").await.unwrap().is_some());
}

#[tokio::test]
async fn a_wrong_secret_is_denied() {
    let gateway = Gateway::start();
    let options = Gateway::options_at(gateway.address(), "wrong");
    let store = Store::open(&gateway.url("prefix"), &options).unwrap();
    for error in [
        store.get("repository").await.unwrap_err(),
        store.put_new("packs/a", "x".into()).await.unwrap_err(),
        store.create("snapshots/a", "x".into(), |_| true).await.unwrap_err(),
        store.delete("packs/a").await.unwrap_err(),
        store.list("packs/").try_collect::<Vec<_>>().await.unwrap_err(),
        store.probe(&fixed::seams(1)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        assert!(!format!("{error} {error:?}").contains("wrong"), "{error:?}");
    }
}

#[tokio::test]
async fn a_full_server_is_told() {
    let gateway = Gateway::start();
    let proxy = Proxy::start(gateway.address(), usize::MAX, Instead::Full).await;
    let options = Gateway::options_at(proxy.address(), Gateway::secret());
    let store = Store::open(&gateway.url("prefix"), &options).unwrap();
    let error = store.put_new("packs/a", "x".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
}

#[tokio::test]
async fn a_missing_bucket_is_told_from_a_missing_object() {
    let gateway = Gateway::start();
    let store = Store::open("s3://no-such-bucket/prefix", &gateway.options()).unwrap();
    for error in [
        store.get("repository").await.unwrap_err(),
        store.put_new("packs/a", "x".into()).await.unwrap_err(),
        store.list("packs/").try_collect::<Vec<_>>().await.unwrap_err(),
    ] {
        assert!(matches!(&error, Error::Location { reason, .. } if reason.contains("no such bucket")), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_waited_for() {
    let mut gateway = Gateway::start();
    let store = store(&gateway);
    store.put_new("packs/a", "x".into()).await.unwrap();
    gateway.kill();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.create("snapshots/a", "mine".into(), |found| found == b"mine").await }
    });
    let reading = tokio::spawn(async move { store.get("packs/a").await });
    // The server is down for long enough that each has been refused at least once.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _running = tokio::task::spawn_blocking(move || {
        gateway.restart();
        gateway
    })
    .await
    .unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), Created::Created);
    assert_eq!(reading.await.unwrap().unwrap().unwrap().0, "x");
}

#[tokio::test]
async fn a_server_that_stays_away_is_unavailable() {
    let mut gateway = Gateway::start();
    let store = store(&gateway);
    gateway.kill();
    let error = store.get("repository").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let error = store.put_new("packs/a", "x".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
