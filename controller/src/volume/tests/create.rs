//! CreateVolume: idempotency under every kind of failure, compatibility, sizes, places.

use tonic::Code;
use varve_proto::csi::{self, volume_capability::access_mode::Mode};

use crate::testing::{Bench, Fault, GIB, MIB, Method, block, capability, mount, order, parameters, range, requirement};

async fn create(bench: &Bench, order: csi::CreateVolumeRequest) -> Result<csi::Volume, tonic::Status> {
    Ok(bench.controller.create_volume(order).await?.volume.unwrap())
}

async fn code(bench: &Bench, order: csi::CreateVolumeRequest) -> Code {
    create(bench, order).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn a_volume_is_made_once_and_described_alike_each_time() {
    let bench = Bench::new(&["a"]).await;
    let first = create(&bench, order("data")).await.unwrap();
    let second = create(&bench, order("data")).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(first.capacity_bytes, 1 << 30);
    assert_eq!(first.accessible_topology, [crate::topology::of("a")]);
    let record = bench.record(&first.volume_id).await.unwrap();
    assert!(record.complete);
    assert_eq!(first.volume_context["varve.io/incarnation"], record.incarnation.to_string());
    let held = bench.agent("a").held(&first.volume_id).unwrap();
    assert_eq!(held.request.incarnation, record.incarnation.to_string());
    assert_eq!(held.request.presentation, "ext4");
    // A complete volume is answered for without its node.
    assert_eq!(bench.agent("a").calls(Method::CreateImage), 1);
}

#[tokio::test]
async fn a_lost_answer_is_made_good_by_the_retry() {
    let bench = Bench::new(&["a", "b"]).await;
    for node in ["a", "b"] {
        bench.agent(node).fail(Method::CreateImage, Fault::LostAnswer);
    }
    let lost = create(&bench, order("data")).await.unwrap_err();
    assert_eq!(lost.code(), Code::Unavailable);
    assert!(lost.message().contains("cannot be reached"), "{}", lost.message());
    let id = bench.repository.volume_id("data").to_string();
    let claimed = bench.record(&id).await.unwrap();
    assert!(!claimed.complete);
    let made = create(&bench, order("data")).await.unwrap();
    assert_eq!(made.volume_id, id);
    let record = bench.record(&id).await.unwrap();
    assert_eq!((record.incarnation, &record.home_node), (claimed.incarnation, &claimed.home_node));
    let images = ["a", "b"].map(|node| bench.agent(node).held(&id).is_some());
    assert_eq!(images.iter().filter(|image| **image).count(), 1);
}

#[tokio::test]
async fn transient_failures_leave_the_claim_and_verdicts_end_it() {
    for (verdict, stays) in [
        (Code::Unavailable, true),
        (Code::Aborted, true),
        (Code::DeadlineExceeded, true),
        (Code::Cancelled, true),
        (Code::ResourceExhausted, false),
        (Code::NotFound, false),
        (Code::OutOfRange, false),
        (Code::InvalidArgument, false),
        (Code::AlreadyExists, false),
        (Code::FailedPrecondition, false),
        (Code::Internal, false),
        (Code::DataLoss, false),
    ] {
        let bench = Bench::new(&["a"]).await;
        bench.agent("a").fail(Method::CreateImage, Fault::Verdict(verdict));
        let status = create(&bench, order("data")).await.unwrap_err();
        assert_eq!(status.code(), verdict);
        let id = bench.repository.volume_id("data").to_string();
        assert_eq!(bench.record(&id).await.is_some(), stays, "{verdict:?}");
        assert_eq!(create(&bench, order("data")).await.unwrap().volume_id, id, "{verdict:?}");
    }
}

#[tokio::test]
async fn a_verdict_that_comes_after_the_image_was_made_leaves_no_image() {
    let bench = Bench::new(&["a"]).await;
    bench.agent("a").fail(Method::CreateImage, Fault::LostAnswer);
    create(&bench, order("data")).await.unwrap_err();
    let id = bench.repository.volume_id("data").to_string();
    assert!(bench.agent("a").held(&id).is_some());
    bench.agent("a").fail(Method::CreateImage, Fault::Verdict(Code::Internal));
    create(&bench, order("data")).await.unwrap_err();
    assert!(bench.agent("a").held(&id).is_none());
    assert!(bench.record(&id).await.is_none());
}

#[tokio::test]
async fn an_image_of_another_incarnation_is_left_alone() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.volume("data").await;
    bench.repository.remove_volume(id.parse().unwrap()).await.unwrap();
    assert_eq!(code(&bench, order("data")).await, Code::AlreadyExists);
    assert!(bench.agent("a").held(&id).is_some());
    assert!(bench.record(&id).await.is_none());
}

#[tokio::test]
async fn a_full_node_hands_on_to_the_next() {
    let bench = Bench::new(&["a", "b"]).await;
    bench.agent("b").set_capacity(50 * GIB);
    bench.agent("a").fail(Method::CreateImage, Fault::Verdict(Code::ResourceExhausted));
    let volume = create(&bench, order("data")).await.unwrap();
    assert_eq!(volume.accessible_topology, [crate::topology::of("b")]);
    assert_eq!(bench.record(&volume.volume_id).await.unwrap().home_node, "b");
    assert!(bench.agent("a").held(&volume.volume_id).is_none());
}

#[tokio::test]
async fn the_second_volume_of_a_name_has_to_be_the_first() {
    let bench = Bench::new(&["a"]).await;
    let class = parameters(&[("compression", "3"), ("csi.storage.k8s.io/pvc/name", "data")]);
    let first = csi::CreateVolumeRequest {
        capacity_range: range(GIB, 2 * GIB),
        volume_capabilities: vec![mount("ext4")],
        parameters: class.clone(),
        mutable_parameters: parameters(&[("bandwidth", "10M")]),
        ..order("data")
    };
    create(&bench, first.clone()).await.unwrap();
    let same = |change: fn(&mut csi::CreateVolumeRequest)| {
        let mut request = first.clone();
        change(&mut request);
        request
    };
    let table = [
        (Code::Ok, same(|_| {})),
        (Code::Ok, same(|r| r.capacity_range = None)),
        (Code::Ok, same(|r| r.capacity_range = range(GIB, GIB))),
        (Code::Ok, same(|r| r.capacity_range = range(512 * MIB, 0))),
        (Code::AlreadyExists, same(|r| r.capacity_range = range(2 * GIB, 0))),
        (Code::AlreadyExists, same(|r| r.capacity_range = range(0, 512 * MIB))),
        (Code::Ok, same(|r| r.volume_capabilities = vec![mount("")])),
        (Code::AlreadyExists, same(|r| r.volume_capabilities = vec![mount("xfs")])),
        (Code::AlreadyExists, same(|r| r.volume_capabilities = vec![block()])),
        (Code::Ok, same(|r| r.parameters = parameters(&[("compression", "3")]))),
        (Code::AlreadyExists, same(|r| r.parameters = parameters(&[("compression", "4")]))),
        (Code::AlreadyExists, same(|r| r.parameters.clear())),
        (Code::Ok, same(|r| r.mutable_parameters = parameters(&[("bandwidth", "10000K")]))),
        (Code::Ok, same(|r| r.mutable_parameters.clear())),
        (Code::AlreadyExists, same(|r| r.mutable_parameters = parameters(&[("bandwidth", "none")]))),
        (Code::AlreadyExists, same(|r| r.accessibility_requirements = Some(requirement("b")))),
        (Code::Ok, same(|r| r.accessibility_requirements = Some(requirement("a")))),
    ];
    for (expected, request) in table {
        assert_eq!(code(&bench, request.clone()).await, expected, "{request:?}");
    }
}

#[tokio::test]
async fn mutable_parameters_take_precedence() {
    let bench = Bench::new(&["a"]).await;
    let request = csi::CreateVolumeRequest {
        parameters: parameters(&[("compression", "3"), ("bandwidth", "1M")]),
        mutable_parameters: parameters(&[("compression", "none")]),
        ..order("data")
    };
    let volume = create(&bench, request).await.unwrap();
    let record = bench.record(&volume.volume_id).await.unwrap();
    assert_eq!((record.offload.compression, record.offload.bandwidth), (Some(0), Some(1_000_000)));
    let held = bench.agent("a").held(&volume.volume_id).unwrap();
    assert_eq!((held.offload.compression, held.offload.bandwidth), (Some(0), Some(1_000_000)));
}

#[tokio::test]
async fn sizes_fit_the_file_system_and_the_pool() {
    let bench = Bench::new(&["a"]).await;
    let with = |required, limit, capability| csi::CreateVolumeRequest {
        capacity_range: range(required, limit),
        volume_capabilities: vec![capability],
        ..order("")
    };
    let table = [
        (0, 0, mount(""), Ok(GIB)),
        (1, 0, mount("ext4"), Ok(16 * MIB)),
        (1, 0, mount("xfs"), Ok(300 * MIB)),
        (1, 0, block(), Ok(MIB)),
        (0, 64 * MIB, mount(""), Ok(64 * MIB)),
        (MIB + 1, 0, block(), Ok(MIB + 4096)),
        (0, 15 * MIB, mount("ext4"), Err(Code::OutOfRange)),
        (0, 299 * MIB, mount("xfs"), Err(Code::OutOfRange)),
        (2 * MIB, MIB, block(), Err(Code::OutOfRange)),
        (4 * MIB + 1, 4 * MIB + 2, block(), Err(Code::OutOfRange)),
        (101 * GIB, 0, mount(""), Err(Code::OutOfRange)),
        (99 * GIB, 0, mount(""), Err(Code::ResourceExhausted)),
    ];
    for (index, (required, limit, capability, expected)) in table.into_iter().enumerate() {
        let order = csi::CreateVolumeRequest { name: format!("data-{index}"), ..with(required, limit, capability) };
        let outcome = create(&bench, order).await;
        let outcome = outcome.map(|v| u64::try_from(v.capacity_bytes).unwrap()).map_err(|s| s.code());
        assert_eq!(outcome, expected, "{required} to {limit}");
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_before_anything_is_done() {
    let bench = Bench::new(&["a"]).await;
    let negative = Some(csi::CapacityRange { required_bytes: -1, limit_bytes: 0 });
    let many = capability(mount("").access_type.unwrap(), Mode::MultiNodeMultiWriter);
    let table = [
        order(""),
        order(&"n".repeat(129)),
        csi::CreateVolumeRequest { volume_capabilities: Vec::new(), ..order("x") },
        csi::CreateVolumeRequest { volume_capabilities: vec![mount("btrfs")], ..order("x") },
        csi::CreateVolumeRequest { volume_capabilities: vec![mount(""), block()], ..order("x") },
        csi::CreateVolumeRequest { volume_capabilities: vec![many], ..order("x") },
        csi::CreateVolumeRequest { capacity_range: negative, ..order("x") },
        csi::CreateVolumeRequest { parameters: parameters(&[("speed", "fast")]), ..order("x") },
        csi::CreateVolumeRequest { mutable_parameters: parameters(&[("speed", "fast")]), ..order("x") },
        csi::CreateVolumeRequest { accessibility_requirements: Some(Default::default()), ..order("x") },
        csi::CreateVolumeRequest { volume_content_source: Some(Default::default()), ..order("x") },
    ];
    for request in table {
        assert_eq!(code(&bench, request.clone()).await, Code::InvalidArgument, "{request:?}");
    }
    assert!(bench.repository.volumes().await.unwrap().is_empty());
    assert_eq!(bench.agent("a").calls(Method::GetPool), 0);
    assert_eq!(code(&bench, order(&"n".repeat(128))).await, Code::Ok);
}

#[tokio::test]
async fn the_place_asked_for_is_the_place_given() {
    let bench = Bench::new(&["a", "b", "c"]).await;
    let volume = bench.volume_on("data", "b").await;
    assert_eq!(bench.record(&volume).await.unwrap().home_node, "b");
    let elsewhere = csi::CreateVolumeRequest { accessibility_requirements: Some(requirement("z")), ..order("other") };
    assert_eq!(code(&bench, elsewhere).await, Code::ResourceExhausted);
    bench.set_reachable("c", false);
    let cut_off = csi::CreateVolumeRequest { accessibility_requirements: Some(requirement("c")), ..order("other") };
    assert_eq!(code(&bench, cut_off).await, Code::Unavailable);
}

#[tokio::test]
async fn an_unfinished_creation_moves_once_nothing_is_left_behind() {
    let bench = Bench::new(&["a", "b"]).await;
    let at =
        |node: &str| csi::CreateVolumeRequest { accessibility_requirements: Some(requirement(node)), ..order("data") };
    bench.agent("a").fail(Method::CreateImage, Fault::LostAnswer);
    assert_eq!(code(&bench, at("a")).await, Code::Unavailable);
    let id = bench.repository.volume_id("data").to_string();
    bench.set_reachable("a", false);
    assert_eq!(code(&bench, at("b")).await, Code::Unavailable);
    assert_eq!(bench.record(&id).await.unwrap().home_node, "a");
    bench.set_reachable("a", true);
    let moved = create(&bench, at("b")).await.unwrap();
    assert_eq!(moved.accessible_topology, [crate::topology::of("b")]);
    assert!(bench.agent("a").held(&id).is_none());
    assert!(bench.agent("b").held(&id).is_some());
    // Once complete it stays where it is.
    assert_eq!(code(&bench, at("a")).await, Code::AlreadyExists);
}

#[tokio::test]
async fn an_unfinished_creation_leaves_a_node_that_is_gone() {
    let bench = Bench::new(&["a", "b"]).await;
    bench.agent("b").set_capacity(2 * GIB);
    bench.agent("a").fail(Method::CreateImage, Fault::Verdict(Code::Unavailable));
    assert_eq!(code(&bench, order("data")).await, Code::Unavailable);
    bench.remove_node("a");
    let volume = create(&bench, order("data")).await.unwrap();
    assert_eq!(volume.accessible_topology, [crate::topology::of("b")]);
}

#[tokio::test]
async fn a_second_call_on_one_name_is_aborted() {
    let bench = Bench::new(&["a"]).await;
    let id = bench.repository.volume_id("data");
    let held = bench.controller.hold(format!("volume {id}")).unwrap();
    assert_eq!(code(&bench, order("data")).await, Code::Aborted);
    drop(held);
    assert_eq!(code(&bench, order("data")).await, Code::Ok);
}

#[tokio::test]
async fn two_controllers_make_one_volume() {
    let bench = Bench::new(&["a"]).await;
    let other = crate::Controller::new(bench.repository.clone(), bench.nodes(), crate::Options::default());
    let (first, second) = tokio::join!(create(&bench, order("data")), other.create_volume(order("data")));
    let ids: Vec<String> = [first.map(|v| v.volume_id), second.map(|r| r.volume.unwrap().volume_id)]
        .into_iter()
        .filter_map(|outcome| match outcome {
            Ok(id) => Some(id),
            Err(status) => {
                assert_eq!(status.code(), Code::Aborted, "{status}");
                None
            }
        })
        .collect();
    assert!(!ids.is_empty());
    let volume = create(&bench, order("data")).await.unwrap();
    assert!(ids.iter().all(|id| *id == volume.volume_id));
    let record = bench.record(&volume.volume_id).await.unwrap();
    let held = bench.agent("a").held(&volume.volume_id).unwrap();
    assert!(record.complete);
    assert_eq!(held.image.incarnation, record.incarnation.to_string());
}

#[tokio::test]
async fn a_late_verdict_does_not_end_what_another_controller_completed() {
    let bench = Bench::new(&["a"]).await;
    bench.agent("a").fail(Method::CreateImage, Fault::LostAnswer);
    create(&bench, order("data")).await.unwrap_err();
    // This controller goes on with the claim, and while its call is under way another one completes it.
    let other = crate::Controller::new(bench.repository.clone(), bench.nodes(), crate::Options::default());
    let agent = bench.agent("a");
    agent.fail(Method::CreateImage, Fault::VerdictAfter(Code::Internal, agent.gate()));
    let late = tokio::spawn({
        let bench = bench.clone();
        async move { create(&bench, order("data")).await }
    });
    agent.gate().reached().await;
    let volume = other.create_volume(order("data")).await.unwrap().volume.unwrap();
    agent.gate().open();
    assert_eq!(late.await.unwrap().unwrap_err().code(), Code::Aborted);
    assert!(bench.record(&volume.volume_id).await.unwrap().complete);
    assert!(agent.held(&volume.volume_id).is_some());
}
