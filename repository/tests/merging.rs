//! Merging of runs: what a snapshot's metadata costs does not grow with the number of snapshots before it, and none is
//! in another's way.

mod image;
mod storage;

use std::{collections::BTreeMap, sync::Arc};

use image::{BLOCK, Cut, Image, Seeded, assert_same, base, id, inline, master, offload, restore};
use storage::{Memory, Operation};
use varve_repository::{
    Deletion, Repository,
    block::{BlockRange, Change},
    collect::Options,
    offload::Against,
    record::snapshot::Root,
};

const SNAPSHOTS: usize = 1000;

/// Blocks that are rewritten again and again, as a database's are, and what lies between two of them.
const HOT: u64 = 300;
const APART: u64 = 2;

/// Blocks that each snapshot finds changed.
const CHANGES: u64 = 20;

/// Which snapshot wrote each block last; what it wrote follows from that.
type Content = BTreeMap<u64, u64>;

fn bytes_of(content: &Content) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(HOT * APART).unwrap() * BLOCK];
    for (block, writer) in content {
        let start = usize::try_from(*block).unwrap() * BLOCK;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&block.to_le_bytes()).update(&writer.to_le_bytes());
        hasher.finalize_xof().fill(&mut bytes[start..start + BLOCK]);
    }
    bytes
}

/// What one snapshot cost.
#[derive(Clone, Copy)]
struct Cost {
    metadata_bytes: u64,
    requests: usize,
}

fn cost(memory: &Memory) -> Cost {
    let metadata = memory.puts().into_iter().filter(|(key, _)| !key.starts_with("packs/"));
    Cost { metadata_bytes: metadata.map(|(_, size)| size).sum(), requests: memory.operations().len() }
}

fn mean(costs: &[Cost], of: impl Fn(&Cost) -> u64) -> u64 {
    costs.iter().map(of).sum::<u64>() / costs.len() as u64
}

#[tokio::test]
async fn the_thousandth_snapshot_costs_what_the_tenth_did_and_all_go_in_any_order() {
    let memory = Memory::new();
    let repository = Repository::init(memory.store(), &master(), inline(1)).await.unwrap();
    let random = Seeded::new(40);
    let mut content: Content = (0..HOT).map(|number| (number * APART, 0)).collect();
    let (mut roots, mut costs): (Vec<(Root, Content)>, Vec<Cost>) = Default::default();
    for number in 0..SNAPSHOTS {
        let mut changed: Content = content.clone();
        if number > 0 {
            changed = (0..CHANGES).map(|_| (random.below(HOT) * APART, number as u64)).collect();
            content.extend(changed.clone());
        }
        let changes = changed.keys().map(|block| Change::Data(BlockRange::new(*block, 1))).collect();
        let cut = Cut { bytes: Arc::new(bytes_of(&content)), changes: Arc::new(changes), reads: Arc::default() };
        let against = roots.last().map_or(Against::Nothing, |(root, _)| base(root));
        memory.arm(None);
        let root = offload(&repository, &format!("snapshot {number}"), &cut, against).await.unwrap();
        costs.push(cost(&memory));
        // log2(n / 64) + 2, and no level has more than one run.
        assert!(root.runs.len() <= 4, "snapshot {number} has {} runs", root.runs.len());
        roots.push((root, content.clone()));
    }
    // Each over several merges of the largest level.
    let (early, late) = (&costs[5..25], &costs[SNAPSHOTS - 100..]);
    let bytes = [early, late].map(|costs| mean(costs, |cost| cost.metadata_bytes));
    let requests = [early, late].map(|costs| mean(costs, |cost| 100 * cost.requests as u64));
    println!("metadata bytes around the 10th and 1,000th: {bytes:?}; requests, in hundredths: {requests:?}");
    assert!(bytes[1] * 10 <= bytes[0] * 12, "{bytes:?}");
    assert!(requests[1] * 10 <= requests[0] * 12, "{requests:?}");
    assert!(bytes[1] <= 6000, "{bytes:?}");

    // In any order; each deletion touches its own key alone, and the others stay whole.
    while !roots.is_empty() {
        let (root, content) = roots.swap_remove(usize::try_from(random.below(roots.len() as u64)).unwrap());
        if roots.len() % 25 == 0 {
            assert_same(&restore(&repository, &root).await.unwrap(), &bytes_of(&content), &root.description.name);
        }
        memory.arm(None);
        assert!(matches!(repository.delete_snapshot(id(&root), "deleted").await.unwrap(), Deletion::Deleted(_)));
        let key = format!("snapshots/{}", id(&root));
        assert_eq!(memory.operations(), [Operation::Get(key.clone()), Operation::Put(key, memory.puts()[0].1)]);
        if roots.len() % 250 == 0 {
            repository.collect(&Options::default(), Default::default(), Default::default()).await.unwrap();
            if let Some((root, content)) = roots.last() {
                assert_same(&restore(&repository, root).await.unwrap(), &bytes_of(content), "after a collection");
            }
        }
    }
    assert!(repository.snapshots().await.unwrap().is_empty());
    for folder in ["packs/", "runs/", "uploads/"] {
        assert!(memory.keys(folder).await.is_empty(), "{folder}");
    }
}

/// Nothing of a small image is hot: what there is to say of it grows, and what it costs to say so by its logarithm alone.
#[tokio::test]
async fn changes_all_over_cost_little_more_as_they_pile_up() {
    const BLOCKS: u64 = 2000;
    let memory = Memory::new();
    let repository = Repository::init(memory.store(), &master(), inline(1)).await.unwrap();
    let random = Seeded::new(41);
    let mut image = Image::new(BLOCKS);
    image.write_noise(0, BLOCKS, &random);
    let mut against = Against::Nothing;
    let mut costs = Vec::new();
    for number in 0..400 {
        memory.arm(None);
        let root = offload(&repository, &format!("snapshot {number}"), &image.cut(), against).await.unwrap();
        costs.push(cost(&memory));
        assert!(root.runs.len() <= 7, "snapshot {number} has {} runs", root.runs.len());
        against = base(&root);
        for _ in 0..CHANGES {
            image.write_noise(random.below(BLOCKS), 1, &random);
        }
    }
    let bytes = [&costs[5..25], &costs[300..]].map(|costs| mean(costs, |cost| cost.metadata_bytes));
    println!("metadata bytes around the 10th and 350th: {bytes:?}");
    assert!(bytes[1] * 10 <= bytes[0] * 16, "{bytes:?}");
}
