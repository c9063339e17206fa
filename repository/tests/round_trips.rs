//! What stands between a cut and "ready" where the store is far away: requests, and how many of them wait for one another.
//!
//! Every request takes one unit of a clock that moves only when all are waiting. So requests that are sent together count
//! as one round trip, and the time that an offload takes is the length of its longest chain of requests.

mod image;
mod storage;

use std::{sync::Arc, time::Duration};

use image::{Image, Seeded, assert_same, base, offload, request, restore};
use storage::{Memory, Operation};
use tokio::time::Instant;
use varve_repository::{Repository, offload::Against, record::snapshot::Root};

const ROUND: Duration = Duration::from_millis(100);

/// What an offload asked of the store.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    round_trips: u128,
    puts: Vec<&'static str>,
    reads: usize,
    lists: usize,
}

/// Offloads to the moment at which the root stands, and counts; then sees that it restores.
async fn counted(
    memory: &Arc<Memory>,
    repository: &Repository,
    name: &str,
    image: &mut Image,
    last: &Root,
) -> (Root, Asked) {
    let cut = image.cut();
    memory.arm(None);
    memory.delay(ROUND);
    let start = Instant::now();
    let (root, leftover) = repository.offload_to_commit(request(repository, name, &cut, base(last))).await.unwrap();
    let round_trips = start.elapsed().as_millis() / ROUND.as_millis();
    let operations = memory.operations();
    leftover.clear().await;
    memory.arm(None);
    assert!(memory.keys("uploads/").await.is_empty());
    assert_same(&restore(repository, &root).await.unwrap(), &cut.bytes, name);
    let folder =
        |key: &String| ["uploads", "packs", "runs", "snapshots"].into_iter().find(|name| key.starts_with(name));
    let mut puts: Vec<&str> = operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::Put(key, _) => folder(key),
            _ => None,
        })
        .collect();
    puts.sort_unstable();
    let reads = operations.iter().filter(|operation| matches!(operation, Operation::Get(_))).count();
    let lists = operations.iter().filter(|operation| matches!(operation, Operation::List(_))).count();
    (root, Asked { round_trips, puts, reads, lists })
}

async fn repository(memory: &Arc<Memory>) -> Repository {
    Repository::init(memory.store(), &image::master(), image::inline(1)).await.unwrap()
}

/// The intent; the pack and the run, side by side; the root.
const PUTS: [&str; 4] = ["packs", "runs", "snapshots", "uploads"];

#[tokio::test(start_paused = true)]
async fn a_small_incremental_takes_four_puts_and_four_round_trips() {
    let memory = Memory::new();
    let repository = repository(&memory).await;
    let random = Seeded::new(13);
    let mut image = Image::new(2000);
    image.write_text(0, 2000, &random);
    let mut last = offload(&repository, "snapshot 0", &image.cut(), Against::Nothing).await.unwrap();
    for number in 1..30 {
        (0..10).for_each(|_| image.write_noise(random.below(2000), 1, &random));
        let (root, asked) = counted(&memory, &repository, &format!("snapshot {number}"), &mut image, &last).await;
        assert_eq!(asked.puts, PUTS, "{asked:?}");
        assert_eq!(asked.lists, 0);
        // What stands, the base once more, a run of each level, and a table and a chunk for each of four samples.
        assert!(asked.reads <= 2 + 8 + 8, "{asked:?}");
        // The intent; pack, run, and the base behind the intent; the root. A sample may take one more.
        assert!(asked.round_trips <= 4, "{asked:?}");
        last = root;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_writes_in_a_large_volume_take_no_more_round_trips() {
    let memory = Memory::new();
    let repository = repository(&memory).await;
    let random = Seeded::new(17);
    // Scattered, so that there is an extent for nearly each.
    let mut image = Image::new(60_000);
    (0..30_000).for_each(|_| image.write_text(random.below(60_000), 1, &random));
    let mut last = offload(&repository, "snapshot 0", &image.cut(), Against::Nothing).await.unwrap();
    assert!(last.runs[0].extents > 10_000, "{:?}", last.runs);
    for number in 1..4 {
        (0..1000).for_each(|_| image.write_noise(random.below(60_000), 1, &random));
        let (root, asked) = counted(&memory, &repository, &format!("snapshot {number}"), &mut image, &last).await;
        assert_eq!(asked.puts, PUTS, "{asked:?}");
        // A table and a chunk for each sample, beside the rest.
        assert!(asked.round_trips <= 4 && asked.reads <= 30, "{asked:?}");
        last = root;
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_knows_nothing_takes_two_round_trips_more() {
    let memory = Memory::new();
    let first = repository(&memory).await;
    let random = Seeded::new(19);
    let mut image = Image::new(2000);
    image.write_text(0, 2000, &random);
    let mut last = offload(&first, "snapshot 0", &image.cut(), Against::Nothing).await.unwrap();
    for number in 1..10 {
        (0..10).for_each(|_| image.write_noise(random.below(2000), 1, &random));
        let seams = image::inline(100 + number);
        let fresh = Repository::open(memory.store(), &image::master(), seams).await.unwrap();
        let (root, asked) = counted(&memory, &fresh, &format!("snapshot {number}"), &mut image, &last).await;
        assert_eq!(asked.puts, PUTS, "{asked:?}");
        // Before the intent the base; behind it the runs that are merged are read, and the merged one put after them.
        assert!(asked.round_trips <= 6, "{asked:?}");
        last = root;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_volume_takes_two_puts() {
    let memory = Memory::new();
    let repository = repository(&memory).await;
    let mut image = Image::new(500);
    image.write_text(0, 500, &Seeded::new(23));
    let first = offload(&repository, "snapshot 0", &image.cut(), Against::Nothing).await.unwrap();
    let (_, asked) = counted(&memory, &repository, "snapshot 1", &mut image, &first).await;
    assert_eq!(asked.puts, ["snapshots", "uploads"]);
    assert!(asked.round_trips <= 4, "{asked:?}");
}
