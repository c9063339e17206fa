//! Deduplication: what one snapshot stored is not stored again by another volume's, and nothing is shared that may be
//! garbage already.

mod image;
mod storage;

use std::sync::Arc;

use image::{BLOCK, Image, Seeded, assert_same, base, id, init, master, request, restore, seams};
use storage::{Memory, Operation};
use uuid::Uuid;
use varve_repository::{
    Deletion, Repository,
    block::BLOCK_SIZE,
    collect::Options,
    mutation::Mutation,
    offload::{Against, Request},
    record::{
        snapshot::{Method, Root},
        volume::{OffloadParameters, Presentation, Source, VolumeRecord},
    },
};

const MIB: u64 = 1 << 20;

/// A request for a snapshot of a volume of its own, on a node of its own.
fn of_volume(repository: &Repository, volume: &str, snapshot: &str, image: &Image, against: Against) -> Request {
    let mut request = request(repository, &format!("{volume} {snapshot}"), &image.scan(), against);
    request.description.volume = repository.volume_id(volume);
    request.description.volume_name = volume.into();
    request.description.incarnation = incarnation(volume);
    request.description.node = format!("node of {volume}");
    request
}

fn incarnation(volume: &str) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(volume.as_bytes()).as_bytes()[..16]);
    Uuid::from_bytes(bytes)
}

async fn full(repository: &Repository, volume: &str, image: &Image) -> Root {
    repository.offload(of_volume(repository, volume, "first", image, Against::Nothing)).await.unwrap()
}

/// Ten gateways were given the same image of state, and each has written a little of its own since.
#[tokio::test]
async fn ten_gateways_store_their_common_state_once() {
    const STATE: u64 = 16 * MIB;
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(30);
    let mut state = Image::new(3 * STATE / BLOCK_SIZE);
    // Files of configuration and certificates here and there, half of them compressible, none on a boundary of chunks.
    let mut block = 7;
    while block + 400 < state.blocks() {
        state.write_text(block, 60 + random.below(60), &random);
        state.write_noise(block + 150, 60 + random.below(60), &random);
        block += 400;
    }
    let mut roots = Vec::new();
    let mut private_bytes = 0;
    for number in 0..10 {
        let mut image = state.clone();
        for _ in 0..3 {
            let count = 1 + random.below(20);
            image.write_noise(random.below(state.blocks() - count), count, &random);
            private_bytes += count * BLOCK_SIZE;
        }
        memory.arm(None);
        // A process of its own: nothing is in memory.
        let repository = Repository::open(memory.store(), &master(), seams(100 + number)).await.unwrap();
        let root = full(&repository, &format!("gateway-{number}"), &image).await;
        assert_eq!(root.method, Method::Full);
        let gets = memory.operations().iter().filter(|operation| matches!(operation, Operation::Get(_))).count();
        assert!(gets <= 64, "{gets} reads");
        roots.push((root, image.bytes));
    }
    let (first, others) = roots.split_first().unwrap();
    let first_bytes = first.0.statistics.stored_bytes;
    assert!(first_bytes > 10 * MIB, "{first_bytes}");
    for (root, _) in others {
        let stored = root.statistics.stored_bytes;
        assert!(stored * 10 < first_bytes, "{stored} of {first_bytes}");
        assert_eq!(root.statistics.deduplicated_bytes + stored, root.statistics.data_bytes);
    }
    let all: u64 = roots.iter().map(|(root, _)| root.statistics.stored_bytes).sum();
    println!(
        "ten gateways with {} KiB each and {} KiB of their own in all: {} KiB stored, {} KiB of them by the first",
        first_bytes >> 10,
        private_bytes >> 10,
        all >> 10,
        first_bytes >> 10
    );
    for (root, bytes) in &roots {
        assert_same(&restore(&repository, root).await.unwrap(), bytes, &root.description.name);
    }
    // None is another's parent: the one that stored it all goes, and the others stay whole.
    assert!(matches!(repository.delete_snapshot(id(&roots[0].0), "deleted").await.unwrap(), Deletion::Deleted(_)));
    repository.collect(&Options::default(), Default::default(), Default::default()).await.unwrap();
    for (root, bytes) in &roots[1..] {
        assert_same(&restore(&repository, root).await.unwrap(), bytes, &root.description.name);
    }
}

#[tokio::test]
async fn content_that_moved_a_little_is_found() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let mut image = Image::new(4000);
    image.write_noise(640, 2560, &Seeded::new(31));
    let first = full(&repository, "one", &image).await;
    for (volume, to) in [("up", 640 + 5 * 32), ("down", 640 - 20 * 32)] {
        let mut moved = Image::new(4000);
        let (from, to) = (640 * BLOCK, to * BLOCK);
        moved.bytes[to..to + 2560 * BLOCK].copy_from_slice(&image.bytes[from..from + 2560 * BLOCK]);
        let root = full(&repository, volume, &moved).await;
        assert_eq!(root.statistics.stored_bytes, 0, "{volume}: {:?}", root.statistics);
        assert_eq!(root.statistics.deduplicated_bytes, first.statistics.stored_bytes);
        assert_same(&restore(&repository, &root).await.unwrap(), &moved.bytes, volume);
    }
}

#[tokio::test]
async fn a_large_change_that_moved_content_finds_it_in_the_base() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let blocks = 68 * MIB / BLOCK_SIZE;
    let mut image = Image::new(blocks + 320);
    image.write_noise(0, blocks, &Seeded::new(32));
    let offload = |name: &'static str, cut: image::Cut, against| {
        let mut request = request(&repository, name, &cut, against);
        request.parameters =
            OffloadParameters { compression: Some(0), bandwidth: None, ..OffloadParameters::default() };
        repository.offload(request)
    };
    let first = offload("first", image.cut(), Against::Nothing).await.unwrap();
    // Everything moves by ten chunks, and one changes.
    image.bytes.rotate_right(320 * BLOCK);
    image.write_noise(0, 320, &Seeded::new(33));
    let mut cut = image.cut();
    cut.changes = image.scan().changes;
    let second = offload("second", cut, base(&first)).await.unwrap();
    assert_eq!(second.method, Method::Incremental);
    assert_eq!(second.statistics.changed_bytes, image.bytes.len() as u64);
    assert_eq!(second.statistics.stored_bytes, 320 * BLOCK_SIZE, "{:?}", second.statistics);
    assert_same(&restore(&repository, &second).await.unwrap(), &image.bytes, "the second snapshot");
}

/// Claims the record of a volume that was filled from somewhere.
async fn claim(repository: &Repository, volume: &str, source: Source) {
    let record = VolumeRecord {
        id: repository.volume_id(volume),
        name: volume.into(),
        incarnation: incarnation(volume),
        capacity_bytes: MIB,
        presentation: Presentation::Block,
        home_node: "node".into(),
        source: Some(source),
        offload: OffloadParameters::default(),
        parameters: Default::default(),
        created_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        complete: true,
        published: None,
    };
    repository.claim_volume(record).await.unwrap();
}

#[tokio::test]
async fn a_restored_volume_finds_its_source_behind_however_many_newer_snapshots() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(34);
    let mut image = Image::new(1000);
    image.write_noise(0, 1000, &random);
    let source = full(&repository, "source", &image).await;
    let mut other = Image::new(1);
    other.write_noise(0, 1, &random);
    for number in 0..70 {
        full(&repository, &format!("small {number}"), &other).await;
    }
    claim(&repository, "restored", Source::Snapshot(id(&source))).await;
    let root = full(&repository, "restored", &image).await;
    assert_eq!(root.statistics.stored_bytes, 0, "{:?}", root.statistics);
    // A stranger does not know of it.
    let root = full(&repository, "stranger", &image).await;
    assert_eq!(root.statistics.stored_bytes, 0, "found by way of the restored volume: {:?}", root.statistics);
    assert_same(&restore(&repository, &root).await.unwrap(), &image.bytes, "the stranger");
}

#[tokio::test]
async fn a_clone_prefers_its_source_to_whatever_is_newer() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let random = Seeded::new(35);
    let mut image = Image::new(1000);
    image.write_noise(0, 1000, &random);
    full(&repository, "source", &image).await;
    for number in 0..20 {
        let mut other = Image::new(1000);
        other.write_noise(0, 20, &random);
        full(&repository, &format!("other {number}"), &other).await;
    }
    claim(&repository, "clone", Source::Volume(repository.volume_id("source"))).await;
    let root = full(&repository, "clone", &image).await;
    assert_eq!(root.statistics.stored_bytes, 0, "{:?}", root.statistics);
}

/// The first snapshot's pack holds what nothing refers to any more: the second overwrote it, and the first is gone.
async fn with_dead_chunks(repository: &Repository) -> (Image, Root) {
    let random = Seeded::new(36);
    let mut image = Image::new(2048);
    image.write_noise(0, 2048, &random);
    let original = image.clone();
    let first = full(repository, "one", &image).await;
    image.cut();
    image.write_noise(1024, 1024, &random);
    let mut second = of_volume(repository, "one", "second", &image, base(&first));
    second.changes = Arc::new(image.cut());
    let second = repository.offload(second).await.unwrap();
    repository.delete_snapshot(id(&first), "deleted").await.unwrap();
    (original, second)
}

#[tokio::test]
async fn chunks_that_no_pinned_snapshot_names_are_not_referred_to() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let (original, _) = with_dead_chunks(&repository).await;
    for (volume, against) in [("two", Against::Nothing), ("three", Against::Anew)] {
        let root = repository.offload(of_volume(&repository, volume, "first", &original, against)).await.unwrap();
        let expected = if against == Against::Nothing { 1024 } else { 2048 };
        assert_eq!(root.statistics.stored_bytes, expected * BLOCK_SIZE, "{volume}");
        assert_same(&restore(&repository, &root).await.unwrap(), &original.bytes, volume);
        repository.delete_snapshot(id(&root), "deleted").await.unwrap();
    }
}

#[tokio::test]
async fn the_broken_protocol_would_refer_to_them() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let (original, _) = with_dead_chunks(&repository).await;
    let mut broken = seams(2);
    broken.mutation = Some(Mutation::DeadChunksReused);
    let repository = Repository::open(memory.store(), &master(), broken).await.unwrap();
    let root = full(&repository, "two", &original).await;
    assert_eq!(root.statistics.stored_bytes, 0, "{:?}", root.statistics);
}

/// A related snapshot goes in the moment between being chosen and being pinned.
#[tokio::test]
async fn a_related_snapshot_that_goes_before_it_is_pinned_is_not_referred_to() {
    let memory = Memory::new();
    let repository = init(memory.store()).await;
    let mut image = Image::new(1024);
    image.write_noise(0, 1024, &Seeded::new(37));
    let first = full(&repository, "one", &image).await;
    let key = format!("snapshots/{}", id(&first));
    let elsewhere = memory.fork().await;
    let other = Repository::open(elsewhere.store(), &master(), seams(2)).await.unwrap();
    other.delete_snapshot(id(&first), "deleted").await.unwrap();
    let tombstone = elsewhere.read(&key).await;

    for (mutation, expected) in [(None, 1024 * BLOCK_SIZE), (Some(Mutation::NoPinCheck), 0)] {
        let memory = memory.fork().await;
        memory.replace_before("uploads/", key.clone(), tombstone.clone());
        let mut seams = seams(3);
        seams.mutation = mutation;
        let repository = Repository::open(memory.store(), &master(), seams).await.unwrap();
        let root = full(&repository, "two", &image).await;
        assert_eq!(root.statistics.stored_bytes, expected, "{mutation:?}");
        assert_same(&restore(&repository, &root).await.unwrap(), &image.bytes, "two");
    }
}
