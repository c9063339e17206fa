//! Volumes of a group (`VOLUME_MOUNT_GROUP`).

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use varve_node::pool::Kind;

use crate::fixture::{Claim, Site};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_volume_belongs_to_the_group() {
    let site = Site::new(Kind::Xfs).await;
    let node = site.start().await;
    for presentation in ["ext4", "xfs"] {
        let claim = node.create(presentation, presentation).await;
        let owned = |gid: u32| Claim { group: gid.to_string(), ..claim.clone() };
        node.stage(&owned(4321)).await.expect("staged");
        let target = node.publish(&owned(4321), "pod", false).await.expect("published");
        let root = fs::metadata(&target).expect("there");
        assert_eq!((root.gid(), root.mode() & 0o2070), (4321, 0o2070));
        let file = target.join("file");
        fs::write(&file, "").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
        assert_eq!(fs::metadata(&file).expect("there").gid(), 4321);
        // Another pod's group, at the same time and at the next staging.
        node.publish(&owned(5000), "second", false).await.expect("published");
        let found = fs::metadata(&file).expect("there");
        assert_eq!((found.gid(), found.mode() & 0o777), (5000, 0o660));
        node.put_away(&claim, &["pod", "second"]).await;
        node.stage(&owned(6000)).await.expect("staged");
        node.stage(&owned(6000)).await.expect("staged");
        assert_eq!(fs::metadata(claim.staging.join("file")).expect("there").gid(), 6000);
        // A reader changes nothing.
        node.publish(&owned(7000), "pod", true).await.expect("published");
        assert_eq!(fs::metadata(claim.staging.join("file")).expect("there").gid(), 6000);
        node.put_away(&claim, &["pod"]).await;
    }
}
