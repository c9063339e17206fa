//! ControllerExpandVolume: grows, never shrinks, and says what the node still has to do.

use tonic::{Code, Status};
use varve_proto::csi;

use crate::testing::{Bench, Fault, GIB, MIB, Method, block, mount, order, range};

async fn expand(bench: &Bench, id: &str, required: u64, limit: u64) -> Result<(u64, bool), Status> {
    let request = csi::ControllerExpandVolumeRequest {
        volume_id: id.to_owned(),
        capacity_range: range(required, limit),
        ..Default::default()
    };
    let answer = bench.controller.expand_volume(request).await?;
    Ok((u64::try_from(answer.capacity_bytes).unwrap(), answer.node_expansion_required))
}

#[tokio::test]
async fn image_and_record_grow_together() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    assert_eq!(expand(&bench, &id, 2 * GIB, 0).await.unwrap(), (2 * GIB, false));
    assert_eq!(bench.record(&id).await.unwrap().capacity_bytes, 2 * GIB);
    assert_eq!(bench.agent("a").held(&id).unwrap().image.capacity_bytes, 2 * GIB);
    // Large enough already, exactly and by far.
    assert_eq!(expand(&bench, &id, 2 * GIB, 0).await.unwrap(), (2 * GIB, false));
    assert_eq!(expand(&bench, &id, GIB, 0).await.unwrap(), (2 * GIB, false));
    assert_eq!(expand(&bench, &id, 2 * GIB + 1, 0).await.unwrap(), (2 * GIB + 4096, false));
}

#[tokio::test]
async fn nothing_shrinks_and_nothing_outgrows_the_pool() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    for (required, limit) in [(0, 512 * MIB), (2 * GIB, GIB), (GIB + 1, GIB + 2), (101 * GIB, 0)] {
        assert_eq!(expand(&bench, &id, required, limit).await.unwrap_err().code(), Code::OutOfRange);
    }
    assert_eq!(bench.record(&id).await.unwrap().capacity_bytes, GIB);
}

#[tokio::test]
async fn a_staged_file_system_is_left_to_the_node_and_a_device_is_not() {
    let bench = Bench::new(&["a"]).await;
    let mounted = bench.volume("mounted").await;
    let device = csi::CreateVolumeRequest { volume_capabilities: vec![block()], ..order("device") };
    let device = bench.controller.create_volume(device).await.unwrap().volume.unwrap().volume_id;
    for id in [&mounted, &device] {
        bench.agent("a").change_image(id, |image| image.staged = true);
    }
    assert_eq!(expand(&bench, &mounted, 2 * GIB, 0).await.unwrap(), (2 * GIB, true));
    assert_eq!(expand(&bench, &device, 2 * GIB, 0).await.unwrap(), (2 * GIB, false));
    // Told again, for a caller that never heard the first answer.
    assert_eq!(expand(&bench, &mounted, 2 * GIB, 0).await.unwrap(), (2 * GIB, true));
}

#[tokio::test]
async fn a_lost_answer_is_made_good_by_the_retry() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.agent("a").fail(Method::ExpandImage, Fault::LostAnswer);
    assert_eq!(expand(&bench, &id, 2 * GIB, 0).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(bench.record(&id).await.unwrap().capacity_bytes, GIB);
    assert_eq!(expand(&bench, &id, 2 * GIB, 0).await.unwrap(), (2 * GIB, false));
    assert_eq!(bench.record(&id).await.unwrap().capacity_bytes, 2 * GIB);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    let with = |id: &str, capacity_range, volume_capability| csi::ControllerExpandVolumeRequest {
        volume_id: id.to_owned(),
        capacity_range,
        volume_capability,
        ..Default::default()
    };
    let table = [
        (with("", range(GIB, 0), None), Code::InvalidArgument),
        (with(&id, None, None), Code::InvalidArgument),
        (with(&id, range(0, 0), None), Code::InvalidArgument),
        (with(&id, range(2 * GIB, 0), Some(block())), Code::InvalidArgument),
        (with(&id, range(2 * GIB, 0), Some(mount("xfs"))), Code::InvalidArgument),
        (with("fake-vol-id", range(GIB, 0), None), Code::NotFound),
        (with("vol-00000000000000000000000000000000", range(GIB, 0), None), Code::NotFound),
    ];
    for (request, expected) in table {
        let status = bench.controller.expand_volume(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), expected, "{request:?}");
    }
    let right = with(&id, range(2 * GIB, 0), Some(mount("ext4")));
    assert_eq!(bench.controller.expand_volume(right).await.unwrap().capacity_bytes, 2 << 30);
}
