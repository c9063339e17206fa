//! DeleteVolume: idempotent, and never a record without its image being gone first.

use std::collections::HashMap;

use tonic::{Code, Status};
use varve_proto::csi;

use crate::testing::{Bench, Fault, Method};

async fn delete(bench: &Bench, id: &str) -> Result<(), Status> {
    let request = csi::DeleteVolumeRequest { volume_id: id.to_owned(), secrets: HashMap::new() };
    bench.controller.delete_volume(request).await.map(drop)
}

#[tokio::test]
async fn image_and_record_go_and_a_second_call_is_fine() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    delete(&bench, &id).await.unwrap();
    assert!(bench.record(&id).await.is_none());
    assert!(bench.agent("a").held(&id).is_none());
    delete(&bench, &id).await.unwrap();
    // The name can be used again, for another volume of the same id.
    assert_eq!(bench.volume("data").await, id);
}

#[tokio::test]
async fn what_is_no_volume_is_gone_already() {
    let bench = Bench::new(&["a"]).await;
    for id in ["fake-vol-id", "snap-00000000000000000000000000000000", "vol-00000000000000000000000000000000"] {
        delete(&bench, id).await.unwrap();
    }
    for id in [String::new(), "v".repeat(129)] {
        assert_eq!(delete(&bench, &id).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(bench.agent("a").calls(Method::DeleteImage), 0);
}

#[tokio::test]
async fn a_volume_in_use_stays_whole() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.agent("a").change_image(&id, |image| image.staged = true);
    assert_eq!(delete(&bench, &id).await.unwrap_err().code(), Code::FailedPrecondition);
    assert!(bench.record(&id).await.is_some());
    bench.agent("a").change_image(&id, |image| image.staged = false);
    delete(&bench, &id).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_is_made_good_by_the_retry() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.agent("a").fail(Method::DeleteImage, Fault::LostAnswer);
    assert_eq!(delete(&bench, &id).await.unwrap_err().code(), Code::Unavailable);
    assert!(bench.record(&id).await.is_some());
    delete(&bench, &id).await.unwrap();
    assert!(bench.record(&id).await.is_none());
}

#[tokio::test]
async fn a_silent_node_is_waited_for_and_a_gone_one_is_not() {
    let bench = Bench::new(&["a", "b"]).await;
    let id = bench.volume_on("data", "a").await;
    bench.set_reachable("a", false);
    let status = delete(&bench, &id).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("\"a\""), "{}", status.message());
    bench.remove_node("a");
    delete(&bench, &id).await.unwrap();
    assert!(bench.record(&id).await.is_none());
}

#[tokio::test]
async fn snapshots_outlive_their_volume() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    let pending = bench.snapshot("pending", &id).await.unwrap();
    let committed = bench.snapshot("committed", &id).await.unwrap();
    bench.agent("a").offload(&committed.snapshot_id).await;
    delete(&bench, &id).await.unwrap();
    let listed = bench.controller.list_snapshots(Default::default()).await.unwrap();
    let mut ids: Vec<_> = listed.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect();
    let mut expected = vec![pending.snapshot_id, committed.snapshot_id];
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
}
