//! SnapshotMetadata through the controller, against a real repository: what is told, block by block, and what is refused.

use tonic::{Code, Status};
use varve_proto::{
    agent::cut::State,
    csi::{
        self, BlockMetadata, CreateSnapshotRequest, GetMetadataAllocatedRequest, GetMetadataAllocatedResponse,
        GetMetadataDeltaRequest, GetMetadataDeltaResponse,
    },
};
use varve_repository::block::BLOCK_SIZE;

use super::{Answer, BATCH, LARGEST_MESSAGE, answer::Message};
use crate::testing::{Bench, Image, parameters};

/// A size or an offset in blocks, as CSI has it.
fn bytes(blocks: u64) -> i64 {
    i64::try_from(blocks * BLOCK_SIZE).unwrap()
}

fn range(first: u64, count: u64) -> BlockMetadata {
    BlockMetadata { byte_offset: bytes(first), size_bytes: bytes(count) }
}

fn allocated(id: &str) -> GetMetadataAllocatedRequest {
    GetMetadataAllocatedRequest { snapshot_id: id.to_owned(), ..Default::default() }
}

fn delta(base: &str, target: &str) -> GetMetadataDeltaRequest {
    GetMetadataDeltaRequest {
        base_snapshot_id: base.to_owned(),
        target_snapshot_id: target.to_owned(),
        ..Default::default()
    }
}

async fn all(answer: Result<Answer, Status>) -> Result<Vec<Message>, Status> {
    let (mut answer, mut messages) = (answer?, Vec::new());
    while let Some(message) = answer.next().await? {
        messages.push(message);
    }
    Ok(messages)
}

fn ranges(messages: &[Message]) -> Vec<BlockMetadata> {
    messages.iter().flat_map(|message| message.ranges.iter().copied()).collect()
}

/// All messages about the blocks of a snapshot, or of what differs between two.
async fn ask(bench: &Bench, ids: &[&str], starting_offset: i64, max_results: i32) -> Result<Vec<Message>, Status> {
    match ids {
        [id] => {
            let request = GetMetadataAllocatedRequest { starting_offset, max_results, ..allocated(id) };
            all(bench.controller.allocated_metadata(request).await).await
        }
        [base, target] => {
            let request = GetMetadataDeltaRequest { starting_offset, max_results, ..delta(base, target) };
            all(bench.controller.delta_metadata(request).await).await
        }
        _ => panic!("one or two"),
    }
}

/// Two snapshots of a volume that was written to, given back from, and grown in between.
async fn two(bench: &Bench) -> (String, String) {
    let mut image = Image::new("data", 1000);
    for blocks in [10..20, 500..501, 999..1000] {
        image.write(blocks, 1);
    }
    let first = bench.commit("first", &mut image).await;
    image.write(15..25, 2);
    image.discard(500..501);
    image.grow(200);
    image.write(1199..1200, 2);
    (first, bench.commit("second", &mut image).await)
}

#[tokio::test]
async fn blocks_that_hold_data_and_blocks_that_differ_are_told_and_no_others() {
    let bench = Bench::new(&[]).await;
    let (first, second) = two(&bench).await;
    let asked = async |ids: &[&str]| {
        let messages = ask(&bench, ids, 0, 0).await.unwrap();
        assert_eq!(messages.len(), 1);
        (ranges(&messages), messages[0].capacity_bytes / BLOCK_SIZE)
    };
    assert_eq!(asked(&[&first]).await, (vec![range(10, 10), range(500, 1), range(999, 1)], 1000));
    assert_eq!(asked(&[&second]).await, (vec![range(10, 15), range(999, 1), range(1199, 1)], 1200));
    // What is zero now and was not differs too.
    assert_eq!(asked(&[&first, &second]).await, (vec![range(15, 10), range(500, 1), range(1199, 1)], 1200));
    // The other way round, what holds data and what is zero apart.
    assert_eq!(asked(&[&second, &first]).await, (vec![range(15, 5), range(20, 5), range(500, 1)], 1000));
}

#[tokio::test]
async fn an_answer_without_ranges_is_one_message_that_says_the_size() {
    let bench = Bench::new(&[]).await;
    let (first, second) = two(&bench).await;
    let nothing = |blocks: u64| vec![Message { capacity_bytes: blocks * BLOCK_SIZE, ranges: Vec::new() }];
    assert_eq!(ask(&bench, &[&first, &first], 0, 0).await.unwrap(), nothing(1000));
    // Behind the last range, at the end.
    assert_eq!(ask(&bench, &[&first], bytes(1000), 0).await.unwrap(), nothing(1000));
    assert_eq!(ask(&bench, &[&first, &second], bytes(1200), 0).await.unwrap(), nothing(1200));
    let empty = bench.commit("empty", &mut Image::new("other", 10)).await;
    assert_eq!(ask(&bench, &[&empty], 0, 0).await.unwrap(), nothing(10));
}

#[tokio::test]
async fn whoever_goes_on_anywhere_is_told_what_is_left() {
    let bench = Bench::new(&[]).await;
    let (first, second) = two(&bench).await;
    for ids in [&[first.as_str()][..], &[second.as_str()], &[&first, &second]] {
        let whole = ranges(&ask(&bench, ids, 0, 0).await.unwrap());
        for from in [0, 1, bytes(10), bytes(15) - 1, bytes(15), bytes(17) + 1, bytes(500), bytes(501), bytes(1000)] {
            // Ranges that end after the offset, the first of them from the block that it lies in.
            let block = from - from % bytes(1);
            let left = whole.iter().filter(|range| range.byte_offset + range.size_bytes > from).map(|range| {
                let first = range.byte_offset.max(block);
                BlockMetadata { byte_offset: first, size_bytes: range.byte_offset + range.size_bytes - first }
            });
            let told = ask(&bench, ids, from, 1).await.unwrap();
            assert_eq!(ranges(&told), left.collect::<Vec<_>>(), "{ids:?} from {from}");
        }
        for end in whole.iter().map(|range| range.byte_offset + range.size_bytes) {
            let left: Vec<_> = whole.iter().filter(|range| range.byte_offset >= end).copied().collect();
            assert_eq!(ranges(&ask(&bench, ids, end, 0).await.unwrap()), left);
        }
    }
}

/// A snapshot of so many ranges of one block each.
async fn comb(bench: &Bench, teeth: u64) -> String {
    let mut image = Image::new("comb", teeth * 2);
    for tooth in 0..teeth {
        image.write(tooth * 2..tooth * 2 + 1, 1);
    }
    bench.commit("comb", &mut image).await
}

#[tokio::test]
async fn messages_are_as_long_as_they_may_be_and_no_longer() {
    let bench = Bench::new(&[]).await;
    let teeth = BATCH as u64 + 3;
    let id = comb(&bench, teeth).await;
    let expected: Vec<_> = (0..teeth).map(|tooth| range(tooth * 2, 1)).collect();
    for (asked, most) in [(0, LARGEST_MESSAGE), (i32::MAX, LARGEST_MESSAGE), (5000, LARGEST_MESSAGE), (1000, 1000)] {
        let messages = ask(&bench, &[&id], 0, asked).await.unwrap();
        assert_eq!(ranges(&messages), expected);
        assert!(messages.iter().all(|message| (1..=most).contains(&message.ranges.len())));
        assert_eq!(messages[0].ranges.len(), most);
        assert!(messages.iter().all(|message| message.capacity_bytes == teeth * 2 * BLOCK_SIZE));
    }
    // What an answer holds ahead of its client is bounded, whatever there is to tell.
    let request = GetMetadataAllocatedRequest { max_results: 1, ..allocated(&id) };
    let mut answer = bench.controller.allocated_metadata(request).await.unwrap();
    assert_eq!(answer.next().await.unwrap().unwrap().ranges, [range(0, 1)]);
    assert_eq!(answer.ahead.len(), BATCH - 1);
}

#[tokio::test]
async fn an_answer_that_cannot_be_ended_says_so_and_how_it_went() {
    let bench = Bench::new(&[]).await;
    let id = comb(&bench, BATCH as u64 + 3).await;
    let begin = async || {
        let mut answer = bench.controller.allocated_metadata(allocated(&id)).await.unwrap();
        for _ in 0..BATCH / LARGEST_MESSAGE {
            assert_eq!(answer.next().await.unwrap().unwrap().ranges.len(), LARGEST_MESSAGE);
        }
        answer
    };
    let mut answer = begin().await;
    bench.store.refuse(true);
    assert_eq!(answer.next().await.unwrap_err().code(), Code::PermissionDenied);
    bench.store.refuse(false);
    assert_eq!(answer.next().await.unwrap().unwrap().ranges.len(), 3, "what passes does not end it for good");

    // A snapshot that is deleted meanwhile may lose its runs at any moment.
    let mut answer = begin().await;
    let snapshot = id.parse().unwrap();
    let varve_repository::Deletion::Deleted(root) =
        bench.repository.delete_snapshot(snapshot, "deleted").await.unwrap()
    else {
        panic!("it was a root");
    };
    for run in &root.runs {
        bench.store.remove(&format!("runs/{}", run.id)).await;
    }
    let status = answer.next().await.unwrap_err();
    assert_eq!((status.code(), status.message().contains(&id)), (Code::NotFound, true), "{status}");
}

#[tokio::test]
async fn damage_is_told_as_damage() {
    let bench = Bench::new(&[]).await;
    let (first, second) = two(&bench).await;
    let varve_repository::SnapshotState::Committed(root) = bench.state(&first).await else {
        panic!("it is committed");
    };
    for run in &root.runs {
        bench.store.remove(&format!("runs/{}", run.id)).await;
    }
    let status = ask(&bench, &[&first, &second], 0, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss, "{status}");
    assert!(status.message().contains(&root.runs[0].id.to_string()), "{status}");
}

#[tokio::test]
async fn bad_input_is_refused_with_its_field() {
    let bench = Bench::new(&["a"]).await;
    let (first, second) = two(&bench).await;
    let other = bench.commit("other", &mut Image::new("other", 1000)).await;
    let refused = async |ids: &[&str], offset: i64, most: i32, code: Code, words: &[&str]| {
        let status = ask(&bench, ids, offset, most).await.expect_err("it is refused");
        assert_eq!(status.code(), code, "{status}");
        for word in words {
            assert!(status.message().contains(word), "{word:?} is not in: {status}");
        }
    };
    let long = "s".repeat(129);
    let none = "snap-00000000000000000000000000000000";
    refused(&[""], 0, 0, Code::InvalidArgument, &["snapshot_id is missing"]).await;
    refused(&["", &second], 0, 0, Code::InvalidArgument, &["base_snapshot_id is missing"]).await;
    refused(&[&first, ""], 0, 0, Code::InvalidArgument, &["target_snapshot_id is missing"]).await;
    refused(&[&long], 0, 0, Code::InvalidArgument, &["snapshot_id is 129 bytes long", "128"]).await;
    refused(&[&first, "a\0"], 0, 0, Code::InvalidArgument, &["target_snapshot_id", "control characters"]).await;
    refused(&["abc"], 0, 0, Code::NotFound, &["snapshot_id", "\"abc\"", "snap- and 32"]).await;
    refused(&["abc", &second], 0, 0, Code::NotFound, &["base_snapshot_id", "\"abc\"", "snap- and 32"]).await;
    refused(&[none], 0, 0, Code::NotFound, &["there is no snapshot", none]).await;
    refused(&[none, &second], 0, 0, Code::NotFound, &["there is no snapshot", none]).await;
    refused(&[&first, none], 0, 0, Code::NotFound, &["there is no snapshot", none]).await;
    refused(&[&first], 0, -1, Code::InvalidArgument, &["max_results is -1", "0 or more"]).await;
    refused(&[&first, &second], 0, i32::MIN, Code::InvalidArgument, &["max_results", "0 or more"]).await;
    refused(&[&first], -1, 0, Code::OutOfRange, &["starting_offset is -1", "0 or more"]).await;
    refused(&[&first], bytes(1000) + 1, 0, Code::OutOfRange, &["starting_offset is 4096001", "4096000"]).await;
    // The target's size counts.
    assert_eq!(ask(&bench, &[&first, &second], bytes(1000) + 1, 0).await.unwrap().len(), 1);
    refused(&[&second, &first], bytes(1000) + 1, 0, Code::OutOfRange, &["starting_offset", "4096000"]).await;
    refused(&[&first, &other], 0, 0, Code::InvalidArgument, &["base_snapshot_id", &first, &other, "one volume"]).await;
    let secrets = parameters(&[("password", &"hunter2".repeat(600))]);
    let request = GetMetadataAllocatedRequest { secrets, ..allocated(&first) };
    let status = bench.controller.allocated_metadata(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!status.message().contains("hunter2"), "{status}");
}

#[tokio::test]
async fn a_snapshot_that_is_not_in_the_repository_is_told_apart_from_none() {
    let bench = Bench::new(&["a"]).await;
    let volume = bench.volume("data").await;
    let pending = bench.snapshot("pending", &volume).await.unwrap().snapshot_id;
    let failed = bench.snapshot("failed", &volume).await.unwrap().snapshot_id;
    bench.agent("a").change_cut(&failed, |cut| {
        cut.set_state(State::Failed);
        cut.message = "the store refused the credentials".to_owned();
    });
    let request = CreateSnapshotRequest {
        name: "kept".to_owned(),
        source_volume_id: volume.clone(),
        parameters: parameters(&[("durability", "node")]),
        ..Default::default()
    };
    let kept = bench.controller.create_snapshot(request, Default::default()).await.unwrap().snapshot.unwrap();
    assert!(kept.ready_to_use);
    let refused = async |ids: &[&str], code: Code, words: &str| {
        let status = ask(&bench, ids, 0, 0).await.unwrap_err();
        assert_eq!((status.code(), status.message().contains(words)), (code, true), "{status}");
    };
    refused(&[&pending], Code::Aborted, "not in the repository yet").await;
    refused(&[&failed], Code::FailedPrecondition, "the store refused the credentials").await;
    refused(&[&kept.snapshot_id], Code::FailedPrecondition, "durability: bucket").await;
    bench.agent("a").change_cut(&pending, |cut| cut.set_state(State::Ready));
    refused(&[&pending], Code::Aborted, "ask again").await;

    // Once it is in the repository no node is asked.
    bench.agent("a").offload(&pending).await;
    refused(&[&pending, &failed], Code::FailedPrecondition, "the store refused the credentials").await;
    bench.set_reachable("a", false);
    assert_eq!(ask(&bench, &[&pending], 0, 0).await.unwrap().len(), 1);
    refused(&[&failed], Code::Unavailable, "a").await;
}

#[test]
fn every_message_says_its_kind_and_the_size() {
    let message = || Message { capacity_bytes: 8192, ranges: vec![range(1, 1)] };
    let kind = csi::BlockMetadataType::VariableLength;
    let allocated = GetMetadataAllocatedResponse::from(message());
    assert_eq!((allocated.block_metadata_type(), allocated.volume_capacity_bytes), (kind, 8192));
    assert_eq!(allocated.block_metadata, [range(1, 1)]);
    let delta = GetMetadataDeltaResponse::from(message());
    assert_eq!((delta.block_metadata_type(), delta.volume_capacity_bytes), (kind, 8192));
    assert_eq!(delta.block_metadata, [range(1, 1)]);
}
