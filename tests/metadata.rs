//! SnapshotMetadata of a real driver: what it tells of a raw volume's snapshots, against the bytes of both.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use tonic::{Code, Status, transport::Channel};
use varve_harness::{
    Controller, Scratch, Setup, Standalone,
    csi::{Client, Published, block, volume},
    driver::{complaint, free_address, text},
};
use varve_proto::csi::{
    BlockMetadata, BlockMetadataType, GetMetadataAllocatedRequest, GetMetadataDeltaRequest,
    GetPluginCapabilitiesRequest,
    identity_client::IdentityClient,
    plugin_capability::{Type, service},
    snapshot_metadata_client::SnapshotMetadataClient,
};

const MIB: u64 = 1 << 20;
/// The volume's size.
const SIZE: u64 = 64 * MIB;
const BLOCK: u64 = 4096;

/// Bytes that do not compress, the same for the same name.
fn noise(name: &str, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).expect("it fits")];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn wire(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("it fits")
}

/// Writes to a raw volume, and makes it durable.
fn write(published: &Published, writes: &[(u64, Vec<u8>)]) {
    let device = fs::OpenOptions::new().write(true).open(&published.target).expect("it is a device");
    for (offset, bytes) in writes {
        device.write_all_at(bytes, *offset).expect("it can be written");
    }
    device.sync_all().expect("it can be synced");
}

/// The bytes of a snapshot, restored without the driver.
fn restored(setup: &Setup, id: &str, folder: &Path) -> Vec<u8> {
    let image: PathBuf = folder.join(format!("{id}.img"));
    let output = setup.varve(["snapshot", "restore", id, "--to", text(&image)]);
    assert!(output.status.success(), "{}", complaint(&output));
    fs::read(image).expect("it can be read")
}

/// The blocks that a comparison of bytes selects, as the longest ranges that there are.
fn selected(mut selects: impl FnMut(usize) -> bool) -> Vec<BlockMetadata> {
    let mut ranges: Vec<BlockMetadata> = Vec::new();
    for block in 0..SIZE / BLOCK {
        if !selects(usize::try_from(block * BLOCK).expect("it fits")) {
            continue;
        }
        let offset = wire(block * BLOCK);
        match ranges.last_mut() {
            Some(last) if last.byte_offset + last.size_bytes == offset => last.size_bytes += wire(BLOCK),
            _ => ranges.push(BlockMetadata { byte_offset: offset, size_bytes: wire(BLOCK) }),
        }
    }
    ranges
}

/// What is asked about: one snapshot, or two.
type Ids<'a> = &'a [&'a str];

/// All that is told from an offset on, after a look at the form of each message.
async fn told(
    client: &SnapshotMetadataClient<Channel>,
    ids: Ids<'_>,
    starting_offset: i64,
    max_results: i32,
) -> Result<Vec<BlockMetadata>, Status> {
    let mut ranges: Vec<BlockMetadata> = Vec::new();
    let mut check = |kind: BlockMetadataType, capacity: i64, more: Vec<BlockMetadata>| {
        assert_eq!((kind, capacity), (BlockMetadataType::VariableLength, wire(SIZE)));
        assert!(max_results == 0 || more.len() <= usize::try_from(max_results).expect("it is not below 0"));
        for range in more {
            let from = ranges.last().map_or(0, |last| last.byte_offset + last.size_bytes);
            assert!(range.byte_offset >= from && range.size_bytes > 0, "{range:?} after {from}");
            assert!(range.byte_offset + range.size_bytes > starting_offset, "{range:?} from {starting_offset}");
            ranges.push(range);
        }
    };
    match *ids {
        [id] => {
            let snapshot_id = id.to_owned();
            let request =
                GetMetadataAllocatedRequest { snapshot_id, starting_offset, max_results, ..Default::default() };
            let mut messages = client.clone().get_metadata_allocated(request).await?.into_inner();
            while let Some(message) = messages.message().await? {
                check(message.block_metadata_type(), message.volume_capacity_bytes, message.block_metadata);
            }
        }
        [base, target] => {
            let request = GetMetadataDeltaRequest {
                base_snapshot_id: base.to_owned(),
                target_snapshot_id: target.to_owned(),
                starting_offset,
                max_results,
                ..Default::default()
            };
            let mut messages = client.clone().get_metadata_delta(request).await?.into_inner();
            while let Some(message) = messages.message().await? {
                check(message.block_metadata_type(), message.volume_capacity_bytes, message.block_metadata);
            }
        }
        _ => panic!("one snapshot or two"),
    }
    Ok(ranges)
}

/// Joins ranges that touch: how a run of blocks is told depends on how it was written.
fn joined(ranges: &[BlockMetadata]) -> Vec<BlockMetadata> {
    let mut joined: Vec<BlockMetadata> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.byte_offset + last.size_bytes == range.byte_offset => {
                last.size_bytes += range.size_bytes;
            }
            _ => joined.push(*range),
        }
    }
    joined
}

async fn refused(
    client: &SnapshotMetadataClient<Channel>,
    ids: Ids<'_>,
    offset: i64,
    most: i32,
    code: Code,
    words: &str,
) {
    let status = told(client, ids, offset, most).await.expect_err("it is refused");
    assert_eq!((status.code(), status.message().contains(words)), (code, true), "{words:?}: {status}");
}

#[tokio::test]
async fn what_is_told_of_snapshots_is_what_their_bytes_say() {
    let scratch = Scratch::new("varve-metadata-").expect("a folder can be made");
    let setup = Setup::new(scratch.path());
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let made = client.create(volume("data", wire(SIZE), &block())).await.expect("it can be made");
    let published = client.publish(&made.volume_id, &block()).await.expect("it can be published");
    write(
        &published,
        &[
            (3 * MIB, noise("first", 5 * MIB)),
            (20 * MIB + 100, noise("not whole blocks", 10_000)),
            (40 * MIB, noise("soon gone", MIB)),
            (SIZE - BLOCK, noise("the last block", BLOCK)),
        ],
    );
    let first = client.snapshot(&made.volume_id, "first").await.snapshot_id;
    let mut writes = vec![
        (4 * MIB, noise("second", MIB)),
        (20 * MIB + 9000, noise("a few bytes", 3)),
        (40 * MIB + 8 * BLOCK, vec![0; 32 * usize::try_from(BLOCK).expect("it fits")]),
        (50 * MIB + 4095, noise("across two blocks", 2)),
        (SIZE - 1, vec![7]),
    ];
    writes.extend((0..300).map(|number| (55 * MIB + number * 3 * BLOCK, noise("many", BLOCK))));
    write(&published, &writes);
    let second = client.snapshot(&made.volume_id, "second").await.snapshot_id;

    let (before, after) = (restored(&setup, &first, scratch.path()), restored(&setup, &second, scratch.path()));
    let size = usize::try_from(BLOCK).expect("it fits");
    let held = |bytes: &[u8], at: usize| bytes[at..at + size].iter().any(|byte| *byte != 0);
    let expected = [
        (vec![first.as_str()], selected(|at| held(&before, at))),
        (vec![second.as_str()], selected(|at| held(&after, at))),
        (vec![first.as_str(), &second], selected(|at| before[at..at + size] != after[at..at + size])),
        (vec![second.as_str(), &first], selected(|at| before[at..at + size] != after[at..at + size])),
    ];
    assert!(expected.iter().all(|(_, ranges)| ranges.len() > 3), "there is something to tell");

    let metadata = SnapshotMetadataClient::new(driver.connect().await);
    for (ids, ranges) in &expected {
        let whole = told(&metadata, ids, 0, 0).await.expect("it is told");
        assert_eq!(&joined(&whole), ranges, "{ids:?}");
        assert_eq!(told(&metadata, ids, 0, 7).await.expect("it is told"), whole, "{ids:?}");
        // Whoever was interrupted goes on behind the last range that came.
        for (count, range) in whole.iter().enumerate().step_by(20) {
            let rest = told(&metadata, ids, range.byte_offset + range.size_bytes, 100).await.expect("it is told");
            assert_eq!(rest, whole[count + 1..], "{ids:?} after {range:?}");
        }
        // Inside a range: from the block on that the offset lies in.
        let inside = whole[0].byte_offset + whole[0].size_bytes - 1;
        let rest = told(&metadata, ids, inside, 0).await.expect("it is told");
        let last = BlockMetadata { byte_offset: inside + 1 - wire(BLOCK), size_bytes: wire(BLOCK) };
        assert_eq!((rest[0], &rest[1..]), (last, &whole[1..]), "{ids:?}");
        assert_eq!(told(&metadata, ids, wire(SIZE), 0).await.expect("it is told"), [], "{ids:?}");
    }
    assert_eq!(told(&metadata, &[&first, &first], 0, 0).await.expect("it is told"), []);
    client.unpublish(&published).await.expect("it can be unpublished");
    client.delete(&made.volume_id).await.expect("it can be deleted");
    assert!(driver.terminate().success());

    // A controller whose only node is down, once the volume is gone: the repository has all of it.
    let setup = Setup { folder: scratch.path().join("controller"), ..setup };
    let controller = Controller::start(&setup, &[("node-1", free_address())]);
    let metadata = SnapshotMetadataClient::new(controller.connect().await);
    for (ids, ranges) in &expected {
        assert_eq!(&joined(&told(&metadata, ids, 0, 0).await.expect("it is told")), ranges, "{ids:?}");
    }
    assert!(controller.terminate().success());
    assert_eq!(scratch.standing().expect("the kernel's tables can be read"), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_told_is_refused_with_its_reason() {
    let scratch = Scratch::new("varve-metadata-").expect("a folder can be made");
    let driver = Standalone::start(&Setup::new(scratch.path()));
    let client = Client::connect(&driver).await;
    let mut snapshots = Vec::new();
    for name in ["one", "other"] {
        let made = client.create(volume(name, wire(SIZE), &block())).await.expect("it can be made");
        snapshots.push(client.snapshot(&made.volume_id, name).await.snapshot_id);
    }
    let [one, other] = [snapshots[0].as_str(), &snapshots[1]];
    let channel = driver.connect().await;
    let metadata = SnapshotMetadataClient::new(channel.clone());
    let none = "snap-00000000000000000000000000000000";
    refused(&metadata, &[""], 0, 0, Code::InvalidArgument, "snapshot_id is missing").await;
    refused(&metadata, &[one, ""], 0, 0, Code::InvalidArgument, "target_snapshot_id is missing").await;
    refused(&metadata, &[one], 0, -1, Code::InvalidArgument, "max_results is -1: expected 0 or more").await;
    refused(&metadata, &[one, other], 0, 0, Code::InvalidArgument, "expected two snapshots of one volume").await;
    refused(&metadata, &[none], 0, 0, Code::NotFound, none).await;
    refused(&metadata, &["monday"], 0, 0, Code::NotFound, "\"monday\" is not a snapshot id").await;
    refused(&metadata, &[one], -1, 0, Code::OutOfRange, "starting_offset is -1").await;
    refused(&metadata, &[one], wire(SIZE) + 1, 0, Code::OutOfRange, "at most 67108864").await;
    client.delete_snapshot(one).await.expect("it can be deleted");
    refused(&metadata, &[one], 0, 0, Code::NotFound, one).await;
    refused(&metadata, &[one, other], 0, 0, Code::NotFound, one).await;

    let request = GetPluginCapabilitiesRequest {};
    let answer = IdentityClient::new(channel).get_plugin_capabilities(request).await.expect("it answers").into_inner();
    let claimed = answer.capabilities.into_iter().filter_map(|capability| match capability.r#type {
        Some(Type::Service(claimed)) => Some(claimed.r#type()),
        Some(Type::VolumeExpansion(_)) | None => None,
    });
    assert!(claimed.into_iter().any(|kind| kind == service::Type::SnapshotMetadataService));
    assert!(driver.terminate().success());
}
