//! Making, growing and deleting images.

use std::fs;

use tonic::Code;
use varve_node::pool::Kind;
use varve_proto::agent as proto;

use crate::fixture::{MIB, Site, fails_with, write};

crate::on_both_pools!(
    an_image_is_made_once,
    what_is_promised_stays_within_the_overcommit,
    an_image_grows_also_while_it_is_attached,
    a_staged_volume_is_not_deleted,
    a_lost_image_is_data_loss,
    a_clone_of_a_staged_volume_is_of_one_instant,
);

async fn an_image_is_made_once(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    let wanted = site.wanted("one", 64 * MIB);
    let (first, second) = tokio::join!(node.create(wanted.clone()), node.create(wanted.clone()));
    first.expect("made");
    second.expect("joined, or found");
    node.create(wanted.clone()).await.expect("found");

    let images = node.images().await;
    assert_eq!(images.len(), 1);
    assert_eq!((images[0].capacity_bytes, images[0].staged), (64 * MIB, false));
    assert!(images[0].ailments.is_empty(), "{images:?}");
    let image = node.volume(site.volume("one")).image();
    assert_eq!(fs::metadata(&image).expect("the image is there").len(), 64 * MIB);

    let other =
        proto::CreateImageRequest { incarnation: "0190e5c4-0000-4000-8000-000000000002".into(), ..wanted.clone() };
    fails_with(node.create(other).await, Code::AlreadyExists);
    let larger = proto::CreateImageRequest { capacity_bytes: 65 * MIB, ..wanted.clone() };
    fails_with(node.create(larger).await, Code::AlreadyExists);
    for (bytes, presentation) in [(0, "ext4"), (4097, "ext4"), (4096, "ntfs")] {
        let wrong =
            proto::CreateImageRequest { capacity_bytes: bytes, presentation: presentation.into(), ..wanted.clone() };
        fails_with(node.create(wrong).await, Code::InvalidArgument);
    }

    node.delete(site.volume("one")).await.expect("deleted");
    node.delete(site.volume("one")).await.expect("nothing there is fine");
    assert!(node.images().await.is_empty());
    assert!(!image.exists());
    fails_with(node.create(site.wanted_from("two", MIB, "unknown")).await, Code::NotFound);
    assert_eq!(fs::read_dir(node.agent.pool().making_dir()).expect("listed").count(), 0, "nothing is left");
}

async fn what_is_promised_stays_within_the_overcommit(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    let pool = node.pool().await;
    assert_eq!((pool.node_id.as_str(), pool.filesystem.as_str()), ("a", kind.name()));
    let all = pool.provisionable_bytes;
    let usable = pool.capacity_bytes - node.agent.config().marks.refuse_snapshots_below.of(pool.capacity_bytes);
    assert_eq!(all / 4096, usable * 2 / 4096, "twice the pool may be promised, but for what has to stay free");
    assert!(pool.largest_volume_bytes <= pool.capacity_bytes);

    let larger_than_pool = site.wanted("larger", 4096 * (pool.capacity_bytes / 4096 + 1));
    fails_with(node.create(larger_than_pool).await, Code::ResourceExhausted);
    let most = all / 2 / 4096 * 4096;
    node.create(site.wanted("first", most)).await.expect("half of it");
    // Two calls, and room for one of them.
    let (one, other) = tokio::join!(node.create(site.wanted("second", most)), node.create(site.wanted("third", most)));
    let refused = one.and(other).expect_err("one is refused");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(node.images().await.len(), 2);
    assert_eq!(node.pool().await.provisionable_bytes, all - 2 * most);

    fails_with(node.expand(site.volume("first"), 2 * most).await, Code::OutOfRange);
    node.delete(site.volume("first")).await.expect("deleted");
    assert_eq!(node.pool().await.provisionable_bytes, all - most);
}

async fn an_image_grows_also_while_it_is_attached(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    let id = site.volume("one");
    fails_with(node.expand(id, 64 * MIB).await, Code::NotFound);
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let grown = node.expand(id, 80 * MIB).await.expect("grown");
    assert_eq!((grown.capacity_bytes, grown.staged), (80 * MIB, false));
    let same = node.expand(id, 64 * MIB).await.expect("as large already");
    assert_eq!(same.capacity_bytes, 80 * MIB);

    let mounted = node.stage(id);
    let grown = node.expand(id, 96 * MIB).await.expect("grown while staged");
    assert_eq!((grown.capacity_bytes, grown.staged), (96 * MIB, true));
    assert_eq!(mounted.device.size().expect("measured"), 96 * MIB);
}

async fn a_staged_volume_is_not_deleted(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    let id = site.volume("one");
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let mounted = node.stage(id);
    fails_with(node.delete(id).await, Code::FailedPrecondition);
    assert!(node.images().await[0].staged);
    // Also where nothing is written down and only the kernel knows.
    node.volume(id).set_staged(None).expect("written down");
    fails_with(node.delete(id).await, Code::FailedPrecondition);
    drop(mounted);
    node.delete(id).await.expect("deleted");
}

async fn a_lost_image_is_data_loss(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let image = node.volume(site.volume("one")).image();
    fs::File::options().write(true).open(&image).and_then(|file| file.set_len(MIB)).expect("cut short");
    let ailment = node.images().await[0].ailments[0].clone();
    assert_eq!((ailment.severity(), ailment.reason.as_str()), (proto::ailment::Severity::DataLoss, "ImageShort"));
    fs::remove_file(&image).expect("removed");
    let ailment = node.images().await[0].ailments[0].clone();
    assert_eq!((ailment.severity(), ailment.reason.as_str()), (proto::ailment::Severity::DataLoss, "ImageMissing"));
}

async fn a_clone_of_a_staged_volume_is_of_one_instant(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    node.create(site.wanted("one", 64 * MIB)).await.expect("made");
    let mounted = node.stage(site.volume("one"));
    // Not synced: the freeze flushes it.
    fs::write(mounted.target.join("file"), "before").expect("written");
    let source = Some(proto::create_image_request::Source::SourceVolumeId(site.volume("one").to_string()));
    let wanted = proto::CreateImageRequest { source, ..site.wanted("two", 96 * MIB) };
    node.create(wanted).await.expect("cloned");
    fs::write(mounted.target.join("file"), "after").expect("written: the source is thawed");

    let small = proto::CreateImageRequest {
        source: Some(proto::create_image_request::Source::SourceVolumeId(site.volume("one").to_string())),
        ..site.wanted("three", 32 * MIB)
    };
    fails_with(node.create(small).await, Code::OutOfRange);
    let clone = node.volume(site.volume("two"));
    assert_eq!(fs::metadata(clone.image()).expect("the image is there").len(), 96 * MIB);
    let mounted_clone = node.stage(site.volume("two"));
    assert_eq!(fs::read_to_string(mounted_clone.target.join("file")).expect("read"), "before");
    drop((mounted, mounted_clone));
    write(&clone.image(), 0, 7, 4096);
    assert_eq!(fs::read_dir(node.agent.pool().making_dir()).expect("listed").count(), 0, "nothing is left");
}
