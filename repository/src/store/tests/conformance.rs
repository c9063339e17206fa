//! The suite.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::{
    Error,
    seam::fixed,
    store::{Created, Store},
};

const WRITERS: usize = 16;

/// Runs everything against an empty store.
pub(super) async fn suite(store: &Store) {
    what_was_put_is_read(store).await;
    what_is_missing_is_told(store).await;
    ranges_are_exact(store).await;
    objects_of_one_writer_may_be_put_again(store).await;
    a_creation_is_won_once(store).await;
    creators_race(store).await;
    an_update_needs_the_version_read(store).await;
    updaters_race(store).await;
    listings_show_a_folder(store).await;
    many_are_deleted(store).await;
    store.probe(&fixed::seams(1)).await.unwrap();
    assert_eq!(list(store, "probe/").await, [""; 0], "the probe leaves nothing");
}

async fn list(store: &Store, prefix: &str) -> Vec<String> {
    let mut keys: Vec<String> = store.list(prefix).map_ok(|entry| entry.key).try_collect().await.unwrap();
    keys.sort();
    keys
}

async fn read(store: &Store, key: &str) -> Option<Bytes> {
    store.get(key).await.unwrap().map(|(bytes, _)| bytes)
}

fn assert_corrupt<T: std::fmt::Debug>(result: Result<T, Error>, key: &str) {
    match result {
        Err(Error::Corrupt { object, .. }) => assert_eq!(object, key),
        other => panic!("{other:?} is not corrupt"),
    }
}

fn assert_conflict<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
}

async fn what_was_put_is_read(store: &Store) {
    for length in [0, 1, 4096, 5 << 20] {
        let bytes = Bytes::from((0..length).map(|at: u32| at.to_le_bytes()[at as usize % 4]).collect::<Vec<u8>>());
        let key = format!("packs/{length}");
        store.put_new(&key, bytes.clone()).await.unwrap();
        assert_eq!(read(store, &key).await, Some(bytes));
        assert_eq!(store.head(&key).await.unwrap().unwrap().size, u64::from(length));
        store.delete(&key).await.unwrap();
        assert_eq!(read(store, &key).await, None);
    }
}

async fn what_is_missing_is_told(store: &Store) {
    assert_eq!(read(store, "packs/none").await, None);
    assert_eq!(store.head("packs/none").await.unwrap(), None);
    store.delete("packs/none").await.unwrap();
    assert_corrupt(store.get_range("packs/none", 0..1).await, "packs/none");
    assert_eq!(list(store, "nowhere/").await, [""; 0]);
}

async fn ranges_are_exact(store: &Store) {
    store.put_new("packs/ranges", "0123456789".into()).await.unwrap();
    assert_eq!(store.get_range("packs/ranges", 0..10).await.unwrap(), "0123456789");
    assert_eq!(store.get_range("packs/ranges", 3..5).await.unwrap(), "34");
    assert_eq!(store.get_range("packs/ranges", 5..5).await.unwrap(), "");
    for past in [0..11, 9..11, 10..11, 20..30] {
        assert_corrupt(store.get_range("packs/ranges", past).await, "packs/ranges");
    }
}

async fn objects_of_one_writer_may_be_put_again(store: &Store) {
    store.put_new("packs/again", "same".into()).await.unwrap();
    store.put_new("packs/again", "same".into()).await.unwrap();
    assert_conflict(store.put_new("packs/again", "else".into()).await);
    assert_eq!(read(store, "packs/again").await, Some("same".into()));
}

async fn a_creation_is_won_once(store: &Store) {
    let create = |text: &'static str| store.create("snapshots/a", text.into(), move |found| found == text.as_bytes());
    assert_eq!(create("first").await.unwrap(), Created::Created);
    assert_eq!(create("second").await.unwrap(), Created::Theirs("first".into()));
    assert_eq!(create("first").await.unwrap(), Created::Created, "what is there is this writer's own");
}

async fn creators_race(store: &Store) {
    for round in 0..5 {
        let key = format!("snapshots/race-{round}");
        let writers = (0..WRITERS).map(|writer| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move {
                let mine = Bytes::from(format!("writer {writer}"));
                let created = store.create(&key, mine.clone(), |found| found == mine).await.unwrap();
                (mine, created)
            })
        });
        let outcomes = futures::future::try_join_all(writers).await.unwrap();
        let standing = read(store, &key).await.unwrap();
        let winners: Vec<_> = outcomes.iter().filter(|(_, created)| *created == Created::Created).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(winners[0].0, standing);
        let losers = outcomes.iter().filter(|(_, created)| *created == Created::Theirs(standing.clone()));
        assert_eq!(losers.count(), WRITERS - 1);
    }
}

async fn an_update_needs_the_version_read(store: &Store) {
    let key = "volumes/a";
    let replace = async |text: &'static str, version: &_| {
        store.replace(key, text.into(), version, move |found| found == text.as_bytes()).await
    };
    store.create(key, "one".into(), |_| false).await.unwrap();
    let (_, first) = store.get(key).await.unwrap().unwrap();
    let second = replace("two", &first).await.unwrap();
    assert_eq!(read(store, key).await, Some("two".into()));
    assert_conflict(replace("six", &first).await);
    assert_eq!(read(store, key).await, Some("two".into()));
    let third = replace("ten", &second).await.unwrap();
    assert_eq!(store.get(key).await.unwrap().unwrap().1, third);
    store.delete(key).await.unwrap();
    assert_conflict(replace("new", &third).await);
    assert_eq!(read(store, key).await, None);
}

async fn updaters_race(store: &Store) {
    let key = "volumes/race";
    store.create(key, "start".into(), |_| false).await.unwrap();
    for round in 0..5 {
        let (_, version) = store.get(key).await.unwrap().unwrap();
        let writers = (0..WRITERS).map(|writer| {
            let (store, version) = (store.clone(), version.clone());
            tokio::spawn(async move {
                let mine = Bytes::from(format!("{round} {writer:02}"));
                match store.replace(key, mine.clone(), &version, |found| found == mine).await {
                    Ok(_) => Some(mine),
                    Err(Error::Conflict { .. }) => None,
                    Err(error) => panic!("{error}"),
                }
            })
        });
        let outcomes = futures::future::try_join_all(writers).await.unwrap();
        let winners: Vec<Bytes> = outcomes.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(read(store, key).await, Some(winners[0].clone()));
    }
}

async fn listings_show_a_folder(store: &Store) {
    let mut expected = BTreeSet::new();
    for number in 0..30 {
        let key = format!("runs/{number:02}");
        store.put_new(&key, vec![b'x'; number].into()).await.unwrap();
        expected.insert((key, number as u64));
    }
    // A name that merely begins like the folder is outside of it.
    store.put_new("runsx", "x".into()).await.unwrap();
    let listed: BTreeSet<_> = store.list("runs/").map_ok(|entry| (entry.key, entry.size)).try_collect().await.unwrap();
    assert_eq!(listed, expected);

    let version = async || {
        let entries: Vec<_> = store.list("volumes/").try_collect().await.unwrap();
        entries.into_iter().find(|entry| entry.key == "volumes/v").unwrap().version
    };
    store.create("volumes/v", "one".into(), |_| false).await.unwrap();
    let (before, (_, read_at)) = (version().await, store.get("volumes/v").await.unwrap().unwrap());
    assert!(before.is_some());
    store.replace("volumes/v", "three".into(), &read_at, |_| false).await.unwrap();
    assert_ne!(version().await, before, "a replaced object is listed with another version");
}

async fn many_are_deleted(store: &Store) {
    store.delete_many(Vec::new()).await.unwrap();
    let mut keys = list(store, "runs/").await;
    assert_eq!(keys.len(), 30);
    keys.insert(7, "runs/none".into());
    store.delete_many(keys).await.unwrap();
    assert_eq!(list(store, "runs/").await, [""; 0]);
    assert_eq!(read(store, "runsx").await, Some("x".into()));
}
