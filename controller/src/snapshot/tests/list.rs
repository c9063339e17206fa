//! ListSnapshots and GetSnapshot: cuts and roots side by side, each once.

use object_store::{ObjectStore as _, PutOptions, path::Path};
use tonic::{Code, Status};
use varve_proto::csi::{self, ListSnapshotsRequest as Request};

use crate::testing::{Bench, Fault, Method};

async fn list(bench: &Bench, request: Request) -> Vec<(String, bool)> {
    let answer = bench.controller.list_snapshots(request).await.unwrap();
    let snapshots = answer.entries.into_iter().map(|entry| entry.snapshot.unwrap());
    snapshots.map(|snapshot| (snapshot.snapshot_id, snapshot.ready_to_use)).collect()
}

async fn get(bench: &Bench, id: &str) -> Result<csi::Snapshot, Status> {
    let request = csi::GetSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
    Ok(bench.controller.get_snapshot(request).await?.snapshot.unwrap())
}

#[tokio::test]
async fn cuts_and_roots_are_listed_once_each_ordered_by_id() {
    let bench = Bench::new(&["a", "b"]).await;
    let first = bench.volume_on("first", "a").await;
    let second = bench.volume_on("second", "b").await;
    let mut expected = Vec::new();
    for (name, volume, node) in [("1", &first, "a"), ("2", &second, "b"), ("3", &first, "a"), ("4", &second, "b")] {
        let snapshot = bench.snapshot(name, volume).await.unwrap().snapshot_id;
        let ready = name < "3";
        if ready {
            bench.agent(node).offload(&snapshot).await;
        }
        expected.push((snapshot, ready));
    }
    let deleted = bench.snapshot("5", &first).await.unwrap().snapshot_id;
    bench.agent("a").offload(&deleted).await;
    bench.delete_snapshot(&deleted).await.unwrap();
    let of_first = [expected[0].clone(), expected[2].clone()];
    expected.sort();
    assert_eq!(list(&bench, Request::default()).await, expected);
    let mut of = list(&bench, Request { source_volume_id: first.clone(), ..Default::default() }).await;
    of.sort_by_key(|entry| entry.0 != of_first[0].0);
    assert_eq!(of, of_first);
    for (id, ready) in &expected {
        let one = Request { snapshot_id: id.clone(), ..Default::default() };
        assert_eq!(list(&bench, one).await, [(id.clone(), *ready)]);
        assert_eq!(get(&bench, id).await.unwrap().ready_to_use, *ready);
    }
    let both = Request { snapshot_id: of_first[0].0.clone(), source_volume_id: second, ..Default::default() };
    assert_eq!(list(&bench, both).await, []);
}

#[tokio::test]
async fn a_snapshot_that_is_committed_between_the_looks_is_listed_once() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let snapshot = bench.snapshot("monday", &volume).await.unwrap().snapshot_id;
    bench.agent("a").fail(Method::ListCuts, Fault::OffloadFirst);
    assert_eq!(list(&bench, Request::default()).await, [(snapshot.clone(), true)]);
    assert!(get(&bench, &snapshot).await.unwrap().ready_to_use);
}

#[tokio::test]
async fn a_damaged_record_hides_no_other_snapshot() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let mut snapshots = Vec::new();
    for name in ["monday", "tuesday"] {
        let snapshot = bench.snapshot(name, &volume).await.unwrap().snapshot_id;
        bench.agent("a").offload(&snapshot).await;
        snapshots.push(snapshot);
    }
    let [hurt, whole] = &snapshots[..] else { panic!("there are two") };
    let path = Path::from(format!("snapshots/{hurt}"));
    bench.store.put_opts(&path, "damaged".into(), PutOptions::default()).await.unwrap();
    assert_eq!(list(&bench, Request::default()).await, [(whole.clone(), true)]);
    assert_eq!(get(&bench, hurt).await.unwrap_err().code(), Code::DataLoss);
    assert!(get(&bench, whole).await.unwrap().ready_to_use);
}

#[tokio::test]
async fn what_cannot_be_selects_nothing() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    bench.snapshot("monday", &volume).await.unwrap();
    for (snapshot_id, source_volume_id) in [
        ("none-exist-id", ""),
        ("snap-00000000000000000000000000000000", ""),
        ("", "fake-vol-id-0123456789"),
        ("", "vol-00000000000000000000000000000000"),
    ] {
        let request = Request {
            snapshot_id: snapshot_id.to_owned(),
            source_volume_id: source_volume_id.to_owned(),
            ..Default::default()
        };
        assert_eq!(list(&bench, request).await, []);
    }
    for (id, expected) in [
        ("", Code::InvalidArgument),
        ("none-exist-id", Code::NotFound),
        ("snap-00000000000000000000000000000000", Code::NotFound),
    ] {
        assert_eq!(get(&bench, id).await.unwrap_err().code(), expected);
    }
}

#[tokio::test]
async fn a_silent_node_hides_its_cuts_and_none_is_said_to_be_missing() {
    let bench = Bench::new(&["a", "b"]).await;
    let here = bench.volume_on("here", "a").await;
    let there = bench.volume_on("there", "b").await;
    let seen = bench.snapshot("seen", &here).await.unwrap().snapshot_id;
    let hidden = bench.snapshot("hidden", &there).await.unwrap().snapshot_id;
    bench.set_reachable("b", false);
    assert_eq!(list(&bench, Request::default()).await, [(seen.clone(), false)]);
    assert_eq!(get(&bench, &seen).await.unwrap().source_volume_id, here);
    let status = get(&bench, &hidden).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("\"b\""), "{}", status.message());
    let one = Request { snapshot_id: hidden, ..Default::default() };
    assert_eq!(bench.controller.list_snapshots(one).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn pages_add_up_to_the_whole() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    for number in 0..5 {
        bench.snapshot(&format!("snapshot-{number}"), &volume).await.unwrap();
    }
    let whole = bench.controller.list_snapshots(Request::default()).await.unwrap();
    assert_eq!((whole.entries.len(), whole.next_token.as_str()), (5, ""));
    let first = bench.controller.list_snapshots(Request { max_entries: 2, ..Default::default() }).await.unwrap();
    assert_eq!(first.entries, whole.entries[..2]);
    let rest = Request { starting_token: first.next_token, ..Default::default() };
    assert_eq!(bench.controller.list_snapshots(rest).await.unwrap().entries, whole.entries[2..]);
    let wrong = Request { starting_token: "invalid-token".to_owned(), ..Default::default() };
    assert_eq!(bench.controller.list_snapshots(wrong).await.unwrap_err().code(), Code::Aborted);
}
