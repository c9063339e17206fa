//! ListVolumes and ControllerGetVolume.

use tonic::Code;
use varve_proto::csi;

use crate::testing::{Bench, Fault, Method, from_volume, order};

async fn page(bench: &Bench, max_entries: i32, starting_token: &str) -> (Vec<String>, String) {
    let request = csi::ListVolumesRequest { max_entries, starting_token: starting_token.to_owned() };
    let answer = bench.controller.list_volumes(request).await.unwrap();
    (answer.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect(), answer.next_token)
}

#[tokio::test]
async fn pages_add_up_to_the_whole_also_while_volumes_go() {
    let bench = Bench::new(&["a"]).await;
    let mut all = Vec::new();
    for number in 0..5 {
        all.push(bench.volume(&format!("data-{number}")).await);
    }
    all.sort();
    assert_eq!(page(&bench, 0, "").await, (all.clone(), String::new()));
    let (first, token) = page(&bench, 2, "").await;
    assert_eq!(first, all[..2]);
    let request = csi::DeleteVolumeRequest { volume_id: all[1].clone(), ..Default::default() };
    bench.controller.delete_volume(request).await.unwrap();
    let (second, token) = page(&bench, 2, &token).await;
    assert_eq!(second, all[2..4]);
    assert_eq!(page(&bench, 2, &token).await, (all[4..].to_vec(), String::new()));
}

#[tokio::test]
async fn tokens_that_are_none_are_aborted() {
    let bench = Bench::new(&["a"]).await;
    let request = csi::ListVolumesRequest { max_entries: 0, starting_token: "invalid-token".to_owned() };
    assert_eq!(bench.controller.list_volumes(request).await.unwrap_err().code(), Code::Aborted);
    let request = csi::ListVolumesRequest { max_entries: -1, starting_token: String::new() };
    assert_eq!(bench.controller.list_volumes(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_volume_is_described_as_at_its_creation() {
    let bench = Bench::new(&["a"]).await;
    let source = bench.volume("source").await;
    let clone = csi::CreateVolumeRequest { volume_content_source: from_volume(&source), ..order("clone") };
    let made = bench.controller.create_volume(clone).await.unwrap().volume.unwrap();
    let request = csi::ControllerGetVolumeRequest { volume_id: made.volume_id.clone() };
    let answer = bench.controller.get_volume(request).await.unwrap();
    assert_eq!(answer.volume.unwrap(), made);
    assert_eq!(answer.status, Some(Default::default()));
    assert_eq!(made.content_source, from_volume(&source));
    for (id, expected) in [("", Code::InvalidArgument), ("fake", Code::NotFound)] {
        let request = csi::ControllerGetVolumeRequest { volume_id: id.to_owned() };
        assert_eq!(bench.controller.get_volume(request).await.unwrap_err().code(), expected);
    }
}

#[tokio::test]
async fn a_creation_that_broke_off_can_be_found_and_deleted() {
    let bench = Bench::new(&["a"]).await;
    bench.agent("a").fail(Method::CreateImage, Fault::LostAnswer);
    bench.controller.create_volume(order("data")).await.unwrap_err();
    let (ids, _) = page(&bench, 0, "").await;
    assert_eq!(ids, [bench.repository.volume_id("data").to_string()]);
    let request = csi::DeleteVolumeRequest { volume_id: ids[0].clone(), ..Default::default() };
    bench.controller.delete_volume(request).await.unwrap();
    assert!(bench.agent("a").held(&ids[0]).is_none());
    assert_eq!(page(&bench, 0, "").await.0, Vec::<String>::new());
}
