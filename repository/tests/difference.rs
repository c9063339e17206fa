//! What two snapshots' runs say of their difference, against the bytes of both.

#![allow(clippy::cast_possible_truncation, reason = "test images are small")]

mod image;
mod storage;

use futures::TryStreamExt;
use image::{BLOCK, Image, Seeded, base, init, offload};
use proptest::prelude::*;
use storage::Memory;
use varve_repository::{
    Repository,
    block::{BlockRange, Blocks, Change},
    difference::Ranges,
    offload::Against,
    record::snapshot::Root,
};

/// One step in an image's life: where, how long, and what.
type Step = (u64, u64, u8);

fn apply(image: &mut Image, (first, count, what): Step, random: &Seeded) {
    let first = first % image.blocks();
    let count = count.min(image.blocks() - first);
    match what {
        0 => image.write_zeroes(first, count, true),
        1 => image.write_zeroes(first, count, false),
        2 => image.grow(count),
        3 => image.write_text(first, count, random),
        _ => image.write_noise(first, count, random),
    }
}

fn zero(bytes: &[u8], block: usize) -> bool {
    bytes.get(block * BLOCK..(block + 1) * BLOCK).is_none_or(|block| block.iter().all(|byte| *byte == 0))
}

fn same(one: &[u8], other: &[u8], block: usize) -> bool {
    let of = |bytes: &[u8]| bytes.get(block * BLOCK..(block + 1) * BLOCK).map(<[u8]>::to_vec);
    match (of(one), of(other)) {
        (Some(one), Some(other)) => one == other,
        (None, Some(_)) => zero(other, block),
        (Some(_), None) => zero(one, block),
        (None, None) => true,
    }
}

async fn all(ranges: Ranges) -> Vec<Change> {
    let ranges: Vec<Change> = ranges.into_stream().try_collect().await.unwrap();
    assert!(ranges.iter().all(|change| !change.range().is_empty()));
    assert!(ranges.windows(2).all(|pair| pair[0].range().end() <= pair[1].range().first), "{ranges:?}");
    ranges
}

/// What is said of each block from `from` on: changed to data, changed to zero, or nothing.
fn said(ranges: &[Change], blocks: usize) -> Vec<Option<bool>> {
    let mut said = vec![None; blocks];
    for change in ranges {
        let range = change.range();
        let data = matches!(change, Change::Data(_));
        said[range.first.0 as usize..range.end().0 as usize].fill(Some(data));
    }
    said
}

/// Compares what is said of two snapshots with their bytes.
async fn compare(repository: &Repository, history: &[(Root, Vec<u8>)], one: usize, other: usize, from: u64) {
    let ((base, before), (target, after)) = (&history[one], &history[other]);
    let blocks = after.len() / BLOCK;
    let from = from % (blocks as u64 + 2);
    let changed = said(&all(repository.changed(base, target, Blocks(from))).await, blocks);
    let allocated = said(&all(repository.allocated(target, Blocks(from))).await, blocks);
    for block in 0..blocks {
        if (block as u64) < from {
            assert_eq!((changed[block], allocated[block]), (None, None), "block {block} before {from}");
            continue;
        }
        assert_eq!(allocated[block].is_some(), !zero(after, block), "block {block} of {other}");
        assert_ne!(allocated[block], Some(false));
        match changed[block] {
            None => assert!(same(before, after, block), "block {block} from {one} to {other}"),
            Some(data) => {
                assert_eq!(data, !zero(after, block), "block {block} from {one} to {other}");
                // Told for nothing only where it was written anew with what it had: noise never is.
                assert!(!same(before, after, block), "block {block} from {one} to {other} is the same");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_runs_say_is_what_the_bytes_say(
        seed: u64,
        lives in prop::collection::vec(prop::collection::vec((0..2000_u64, 1..90_u64, 0..6_u8), 0..8), 1..9),
        pairs in prop::collection::vec((any::<usize>(), any::<usize>(), any::<u64>()), 6),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let repository = init(Memory::new().store()).await;
            let random = Seeded::new(seed);
            let mut image = Image::new(600);
            let (mut history, mut against) = (Vec::new(), Against::Nothing);
            for (number, steps) in lives.into_iter().enumerate() {
                steps.into_iter().for_each(|step| apply(&mut image, step, &random));
                let cut = image.cut();
                let root = offload(&repository, &format!("{number}"), &cut, against).await.unwrap();
                against = base(&root);
                history.push((root, cut.bytes.to_vec()));
            }
            for (one, other, from) in pairs {
                compare(&repository, &history, one % history.len(), other % history.len(), 0).await;
                compare(&repository, &history, one % history.len(), other % history.len(), from).await;
            }
        });
    }
}

#[tokio::test]
async fn no_data_is_read_and_ranges_are_joined() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(7);
    let mut image = Image::new(40_000);
    image.write_noise(100, 9000, &random);
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    image.write_noise(500, 3000, &random);
    image.write_zeroes(7000, 50, true);
    image.write_noise(30_000, 10, &random);
    let second = offload(&repository, "second", &image.cut(), base(&first)).await.unwrap();
    memory.arm(None);
    let data = |first, count| Change::Data(BlockRange::new(first, count));
    let expected = [data(500, 3000), Change::Zero(BlockRange::new(7000, 50)), data(30_000, 10)];
    assert_eq!(all(repository.changed(&first, &second, Blocks::ZERO)).await, expected);
    assert_eq!(all(repository.changed(&first, &second, Blocks(600))).await[0], data(600, 2900));
    // The other way round: what was written since is what is gone.
    let back = all(repository.changed(&second, &first, Blocks::ZERO)).await;
    assert_eq!(back, [data(500, 3000), data(7000, 50), Change::Zero(BlockRange::new(30_000, 10))]);
    let expected = [data(100, 6900), data(7050, 2050), data(30_000, 10)];
    assert_eq!(all(repository.allocated(&second, Blocks::ZERO)).await, expected);
    assert_eq!(all(repository.changed(&second, &second, Blocks::ZERO)).await, []);
    let operations = memory.operations();
    assert!(
        operations
            .iter()
            .all(|operation| matches!(operation, storage::Operation::Get(key) if key.starts_with("runs/")))
    );
}
