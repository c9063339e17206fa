//! Growth while in use, and what is found of it at the next staging.

use std::fs;

use tonic::Code;
use varve_node::pool::Kind;
use varve_proto::csi::volume_usage::Unit;

use crate::{
    fixture::{MIB, SIZE, Site, fails_with},
    on_both_pools,
};

on_both_pools!(a_volume_in_use_grows, a_volume_that_grew_meanwhile_is_grown_when_staged);

const LARGER: u64 = SIZE + 128 * MIB;
/// What a file system may keep for itself: XFS its log.
const OVERHEAD: u64 = 96 * MIB;

async fn a_volume_in_use_grows(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.start().await;
    for presentation in ["ext4", "xfs", "block"] {
        let claim = node.create(presentation, presentation).await;
        node.stage(&claim).await.expect("staged");
        let target = node.publish(&claim, "pod", false).await.expect("published");
        fails_with(node.expand(&claim, &target, LARGER).await, Code::OutOfRange);
        node.grow(&claim, LARGER).await;
        for path in [&target, &claim.staging, &target] {
            assert_eq!(node.expand(&claim, path, LARGER).await.expect("grown"), LARGER);
        }
        let usage = node.statistics(&claim, &target).await.expect("measured");
        assert_eq!(usage[0].unit(), Unit::Bytes);
        let total = usage[0].total.unsigned_abs();
        assert!(total <= LARGER && total > LARGER - OVERHEAD, "{presentation}: {total}");
        if claim.block {
            assert_eq!((usage.len(), total), (1, LARGER));
        } else {
            assert_eq!((usage.len(), usage[1].unit()), (2, Unit::Inodes));
            assert_eq!(usage[1].used + usage[1].available, usage[1].total);
            fs::write(target.join("file"), vec![1; 1 << 20]).expect("written");
            let after = node.statistics(&claim, &target).await.expect("measured");
            assert_eq!(after[1].used, usage[1].used + 1);
        }
        node.put_away(&claim, &["pod"]).await;
    }
}

async fn a_volume_that_grew_meanwhile_is_grown_when_staged(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.start().await;
    for presentation in ["ext4", "xfs"] {
        let claim = node.create(presentation, presentation).await;
        node.stage(&claim).await.expect("staged");
        node.unstage(&claim).await.expect("unstaged");
        node.grow(&claim, LARGER).await;
        node.stage(&claim).await.expect("staged");
        let usage = node.statistics(&claim, &claim.staging).await.expect("measured");
        assert!(usage[0].total.unsigned_abs() > LARGER - OVERHEAD, "{presentation}: {usage:?}");
        node.put_away(&claim, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_where_it_is_can_a_volume_grow_or_be_measured() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    let claim = node.create("claim", "ext4").await;
    let other = node.create("other", "ext4").await;
    fails_with(node.statistics(&claim, &claim.staging).await, Code::NotFound);
    fails_with(node.expand(&claim, &claim.staging, SIZE).await, Code::NotFound);
    node.stage(&claim).await.expect("staged");
    node.stage(&other).await.expect("staged");
    for path in [claim.target("nowhere").as_path(), "some/path".as_ref(), &other.staging, "/".as_ref()] {
        fails_with(node.statistics(&claim, path).await, Code::NotFound);
        fails_with(node.expand(&claim, path, SIZE).await, Code::NotFound);
    }
    let wrong = crate::fixture::Claim { block: true, ..claim.clone() };
    fails_with(node.expand(&wrong, &claim.staging, SIZE).await, Code::InvalidArgument);
    node.unstage(&other).await.expect("unstaged");
    node.put_away(&claim, &[]).await;
}
