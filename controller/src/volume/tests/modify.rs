//! ControllerModifyVolume: what is named changes, and nothing else.

use tonic::{Code, Status};
use varve_proto::csi;

use crate::testing::{Bench, Fault, Method, parameters};

async fn modify(bench: &Bench, id: &str, entries: &[(&str, &str)]) -> Result<(), Status> {
    let request = csi::ControllerModifyVolumeRequest {
        volume_id: id.to_owned(),
        mutable_parameters: parameters(entries),
        ..Default::default()
    };
    bench.controller.modify_volume(request).await.map(drop)
}

#[tokio::test]
async fn record_and_agent_learn_what_is_named() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    modify(&bench, &id, &[("compression", "7")]).await.unwrap();
    modify(&bench, &id, &[("bandwidth", "20Mi")]).await.unwrap();
    let record = bench.record(&id).await.unwrap().offload;
    assert_eq!((record.compression, record.bandwidth), (Some(7), Some(20 << 20)));
    let held = bench.agent("a").held(&id).unwrap().offload;
    assert_eq!((held.compression, held.bandwidth), (Some(7), Some(20 << 20)));
    modify(&bench, &id, &[("bandwidth", "none")]).await.unwrap();
    assert_eq!(bench.agent("a").held(&id).unwrap().offload.bandwidth, None);
    modify(&bench, &id, &[]).await.unwrap();
    assert_eq!(bench.record(&id).await.unwrap().offload.compression, Some(7));
}

#[tokio::test]
async fn nothing_changes_where_anything_is_wrong() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    for entries in
        [[("XXX_FakeKey", "XXX_FakeValue"), ("compression", "7")], [("compression", "7"), ("bandwidth", "0")]]
    {
        assert_eq!(modify(&bench, &id, &entries).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(bench.record(&id).await.unwrap().offload, Default::default());
    assert_eq!(bench.agent("a").calls(Method::ModifyImage), 0);
    assert_eq!(modify(&bench, "", &[]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(modify(&bench, "non-existing-volume-id", &[]).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_retry_tells_an_agent_that_was_not_told() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.agent("a").fail(Method::ModifyImage, Fault::Verdict(Code::Unavailable));
    assert_eq!(modify(&bench, &id, &[("compression", "7")]).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(bench.agent("a").held(&id).unwrap().offload.compression, None);
    modify(&bench, &id, &[("compression", "7")]).await.unwrap();
    assert_eq!(bench.agent("a").held(&id).unwrap().offload.compression, Some(7));
}
