//! ValidateVolumeCapabilities: confirmed, unconfirmed with a reason, or refused.

use tonic::Code;
use varve_proto::csi::{self, ValidateVolumeCapabilitiesRequest as Request, volume_capability::access_mode::Mode};

use crate::testing::{Bench, block, capability, mount, order, parameters};

#[tokio::test]
async fn what_holds_is_confirmed_and_what_does_not_is_explained() {
    let bench = Bench::new(&["a"]).await;
    let class = parameters(&[("compression", "3")]);
    let volume = csi::CreateVolumeRequest { parameters: class.clone(), ..order("data") };
    let volume = bench.controller.create_volume(volume).await.unwrap().volume.unwrap();
    let right = Request {
        volume_id: volume.volume_id.clone(),
        volume_context: volume.volume_context.clone(),
        volume_capabilities: vec![mount("ext4"), mount("")],
        parameters: class,
        mutable_parameters: parameters(&[("bandwidth", "none")]),
        ..Request::default()
    };
    let answer = bench.controller.validate_volume_capabilities(right.clone()).await.unwrap();
    let confirmed = answer.confirmed.unwrap();
    assert_eq!(confirmed.volume_capabilities, right.volume_capabilities);
    assert_eq!(confirmed.volume_context, right.volume_context);
    assert_eq!(
        (confirmed.parameters, confirmed.mutable_parameters),
        (right.parameters.clone(), right.mutable_parameters.clone())
    );
    let many = capability(mount("").access_type.unwrap(), Mode::MultiNodeMultiWriter);
    let table: [(Request, &str); 7] = [
        (Request { volume_capabilities: vec![block()], ..right.clone() }, "block"),
        (Request { volume_capabilities: vec![mount("xfs")], ..right.clone() }, "xfs"),
        (Request { volume_capabilities: vec![many], ..right.clone() }, "MULTI_NODE_MULTI_WRITER"),
        (Request { volume_capabilities: vec![mount(""), block()], ..right.clone() }, "volume_capabilities"),
        (Request { volume_context: parameters(&[("other", "context")]), ..right.clone() }, "volume_context"),
        (Request { parameters: parameters(&[("compression", "4")]), ..right.clone() }, "parameters"),
        (Request { mutable_parameters: parameters(&[("bandwidth", "1M")]), ..right.clone() }, "mutable_parameters"),
    ];
    for (request, reason) in table {
        let answer = bench.controller.validate_volume_capabilities(request).await.unwrap();
        assert_eq!(answer.confirmed, None, "{reason}");
        assert!(answer.message.contains(reason), "{reason}: {}", answer.message);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    let with =
        |id: &str, volume_capabilities| Request { volume_id: id.to_owned(), volume_capabilities, ..Request::default() };
    let table = [
        (with("", vec![mount("")]), Code::InvalidArgument),
        (with(&id, Vec::new()), Code::InvalidArgument),
        (with(&id, vec![csi::VolumeCapability { access_mode: None, ..mount("") }]), Code::InvalidArgument),
        (with(&id, vec![csi::VolumeCapability { access_type: None, ..mount("") }]), Code::InvalidArgument),
        (with("fake-vol-id-0123456789", vec![mount("")]), Code::NotFound),
        (with("vol-00000000000000000000000000000000", vec![mount("")]), Code::NotFound),
    ];
    for (request, expected) in table {
        let status = bench.controller.validate_volume_capabilities(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), expected, "{request:?}");
    }
}
