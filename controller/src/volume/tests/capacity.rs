//! GetCapacity: what the nodes asked for can still take.

use tonic::Code;
use varve_proto::csi;

use crate::{
    testing::{Bench, GIB, MIB, block, mount, parameters},
    topology,
};

async fn capacity(bench: &Bench, request: csi::GetCapacityRequest) -> (u64, u64, u64) {
    let answer = bench.controller.get_capacity(request).await.unwrap();
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap();
    (
        bytes(answer.available_capacity),
        bytes(answer.maximum_volume_size.unwrap()),
        bytes(answer.minimum_volume_size.unwrap()),
    )
}

#[tokio::test]
async fn nodes_add_up_and_one_volume_fits_one_node() {
    let bench = Bench::new(&["a", "b"]).await;
    bench.agent("b").set_capacity(50 * GIB);
    bench.volume_on("data", "a").await;
    assert_eq!(capacity(&bench, Default::default()).await, (149 * GIB, 99 * GIB, MIB));
    let within =
        |node: &str| csi::GetCapacityRequest { accessible_topology: Some(topology::of(node)), ..Default::default() };
    assert_eq!(capacity(&bench, within("b")).await, (50 * GIB, 50 * GIB, MIB));
    assert_eq!(capacity(&bench, within("z")).await, (0, 0, MIB));
    bench.set_reachable("b", false);
    assert_eq!(capacity(&bench, Default::default()).await, (99 * GIB, 99 * GIB, MIB));
    assert_eq!(bench.controller.get_capacity(within("b")).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn the_smallest_volume_follows_from_the_capabilities() {
    let bench = Bench::new(&["a"]).await;
    for (capability, smallest) in
        [(block(), MIB), (mount(""), 16 * MIB), (mount("ext4"), 16 * MIB), (mount("xfs"), 300 * MIB)]
    {
        let request = csi::GetCapacityRequest { volume_capabilities: vec![capability], ..Default::default() };
        assert_eq!(capacity(&bench, request).await.2, smallest);
    }
    let request = csi::GetCapacityRequest { parameters: parameters(&[("speed", "fast")]), ..Default::default() };
    assert_eq!(bench.controller.get_capacity(request).await.unwrap_err().code(), Code::InvalidArgument);
}
