use std::collections::BTreeMap;

use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::{
    block::BlockRange,
    crypto::MasterKey,
    id::{PackId, UploadId},
    pack::PackReference,
    run::{ChunkPlace, Extent, Place, Writer, merge::Merge},
    seam::{Seams, System},
    store::Store,
};

/// What stands at a block: a pack, an ordinal and a block of the chunk; `None` is zero.
type Model = BTreeMap<u64, Option<(u8, u32, u8)>>;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn repository() -> Repository {
    let store = Store::new(Arc::new(InMemory::new()), "memory:///");
    Repository::init(store, &MasterKey::generate(&System), Seams::system()).await.unwrap()
}

fn pack(number: u8) -> PackReference {
    PackReference {
        id: PackId::from_bytes([number; 16]),
        object_bytes: 100,
        table_offset: 50,
        table_hash: [number; 32],
    }
}

/// Extents that ascend: gap, length, what.
fn level() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
    prop::collection::vec((0..30_u64, 1..40_u64, 0..8_u8), 0..25)
}

fn segments(level: &[(u64, u64, u8)]) -> Vec<Segment> {
    let mut end = 0;
    let mut segments = Vec::new();
    for (number, (gap, count, what)) in (0..).zip(level) {
        let (place, count) = match what {
            0..2 => (Place::Zero, *count),
            what => {
                let skip = u8::try_from(count % 32).unwrap();
                let count = (*count).min(32 - u64::from(skip));
                (Place::Chunk(ChunkPlace { pack: pack(*what), ordinal: number, skip }), count)
            }
        };
        let range = BlockRange::new(end + gap, count);
        end = range.end().0;
        segments.push(Extent { range, place });
    }
    segments
}

fn lay(model: &mut Model, segments: &[Segment]) {
    for segment in segments {
        for n in 0..segment.range.count.0 {
            let what = match segment.place {
                Place::Zero => None,
                Place::Chunk(chunk) => {
                    let skip = chunk.skip + u8::try_from(n).unwrap();
                    Some((chunk.pack.id.as_bytes()[0], chunk.ordinal, skip))
                }
            };
            model.insert(segment.range.first.0 + n, what);
        }
    }
}

/// Writes segments as one level, in as many runs as there are parts.
async fn write(repository: &Repository, upload: u8, segments: &[Segment], parts: usize, stored: bool) -> Vec<Origin> {
    let mut writer = Writer::new(repository, UploadId::from_bytes([upload; 8]));
    let mut origins = Vec::new();
    for part in segments.chunks(segments.len().div_ceil(parts).max(1)) {
        part.iter().for_each(|segment| writer.push(segment).unwrap());
        let finished = writer.finish().unwrap();
        if stored {
            let key = crate::run::key(finished.reference.id);
            repository.store().put_new(&key, finished.bytes).await.unwrap();
            origins.push(Origin::Stored(finished.reference));
        } else {
            origins.push(Origin::Memory(finished));
        }
    }
    origins
}

async fn walk(mut view: View) -> Vec<Segment> {
    let mut segments = Vec::new();
    while let Some(segment) = view.next().await.unwrap() {
        segments.push(segment);
    }
    segments
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_view_is_what_the_newest_level_says_block_by_block(
        levels in prop::collection::vec(level(), 0..6), parts in 1..4_usize, stored: bool, first in 0..400_u64, count in 0..2000_u64,
    ) {
        runtime().block_on(async {
            let repository = repository().await;
            let levels: Vec<Vec<Segment>> = levels.iter().map(|level| segments(level)).collect();
            let mut model = Model::new();
            levels.iter().rev().for_each(|level| lay(&mut model, level));
            let mut origins = Vec::new();
            for (number, level) in (0..).zip(&levels) {
                origins.push(write(&repository, number, level, parts, stored).await);
            }

            let all = walk(View::new(&repository, origins.clone(), BlockRange::new(0, 1 << 40))).await;
            prop_assert!(all.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.first));
            let mut seen = Model::new();
            lay(&mut seen, &all);
            prop_assert_eq!(&seen, &model);

            let part = walk(View::new(&repository, origins.clone(), BlockRange::new(first, count))).await;
            let mut seen = Model::new();
            lay(&mut seen, &part);
            let expected: Model = model.range(first..first + count).map(|(block, what)| (*block, *what)).collect();
            prop_assert_eq!(&seen, &expected);

            // Merged, a view is the same; into the oldest level, zeroes go without saying.
            for oldest in [false, true] {
                let writer = Writer::new(&repository, UploadId::from_bytes([99; 8]));
                let mut merge = Merge::new(&repository, origins.clone(), writer, oldest);
                let merged: Vec<Origin> = merge.next().await.unwrap().map(Origin::Memory).into_iter().collect();
                prop_assert!(merge.next().await.unwrap().is_none());
                let mut seen = Model::new();
                lay(&mut seen, &walk(View::new(&repository, [merged], BlockRange::new(0, 1 << 40))).await);
                let mut expected = model.clone();
                if oldest {
                    expected.retain(|_, what| what.is_some());
                }
                prop_assert_eq!(&seen, &expected);
                prop_assert_eq!(merge.data().0, model.values().flatten().count() as u64);
            }
            Ok(())
        })?;
    }
}

#[test]
fn runs_of_many_pages_are_read_in_few_requests_and_from_any_block() {
    runtime().block_on(async {
        let repository = repository().await;
        let segments: Vec<Segment> = (0..80_000_u32)
            .map(|n| {
                // Random ordinals, so that pages do not compress and the run is not read whole.
                let [a, b, c, d, ..] = *blake3::hash(&n.to_le_bytes()).as_bytes();
                let ordinal = u32::from_le_bytes([a, b, c, d]);
                let place = Place::Chunk(ChunkPlace { pack: pack(1), ordinal, skip: 0 });
                Extent { range: BlockRange::new(u64::from(n) * 7 + u64::from(n % 3), 1), place }
            })
            .collect();
        let origins = write(&repository, 1, &segments, 1, true).await;
        assert!(origins[0].reference().object_bytes > 300 << 10, "{:?}", origins[0].reference());
        assert_eq!(origins[0].reference().extents, 80_000);
        assert_eq!(walk(View::new(&repository, [origins.clone()], BlockRange::new(0, 1 << 30))).await, segments);
        for at in [0, 1, 4095, 4096, 4097, 23_456, 79_999] {
            let first = segments[at].range.first.0;
            let found = walk(View::new(&repository, [origins.clone()], BlockRange::new(first, 1))).await;
            assert_eq!(found, [segments[at]]);
        }
    });
}

#[test]
fn a_level_whose_runs_overlap_is_refused() {
    runtime().block_on(async {
        let repository = repository().await;
        let one = segments(&[(0, 10, 0), (10, 10, 0)]);
        let mut origins = write(&repository, 1, &one, 1, false).await;
        origins.extend(write(&repository, 1, &one, 1, false).await);
        let mut view = View::new(&repository, [origins], BlockRange::new(0, 1000));
        let error = loop {
            match view.next().await {
                Ok(segment) => assert!(segment.is_some()),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("overlaps"), "{error}");
    });
}

/// Walks on behind what is lost: what is found, block by block, `Err` being the object that took it.
async fn walk_on(mut view: View) -> BTreeMap<u64, Result<Segment, String>> {
    let mut blocks = BTreeMap::new();
    while let Some(found) = view.next_found().await.unwrap() {
        let (range, what) = match found {
            Found::Segment(segment) => (segment.range, Ok(segment)),
            Found::Lost(range, fault) => (range, Err(fault.object.clone())),
        };
        blocks.extend((range.first.0..range.end().0).map(|block| (block, what.clone())));
    }
    blocks
}

#[test]
fn what_a_damaged_page_or_run_covers_is_lost_except_where_a_newer_level_decides() {
    runtime().block_on(async {
        let repository = repository().await;
        let zeroes = |ranges: &[(u64, u64)]| -> Vec<Segment> {
            let extents = ranges.iter().map(|(first, count)| (BlockRange::new(*first, *count), Place::Zero));
            extents.map(|(range, place)| Extent { range, place }).collect()
        };
        let newest = write(&repository, 1, &zeroes(&[(10, 10)]), 1, true).await;
        // Three runs of one level: of the first the first of two pages is damaged, the second is missing.
        let pages: Vec<(u64, u64)> = (0..5000).map(|n| (n * 2, 1)).collect();
        let mut middle = write(&repository, 2, &zeroes(&pages), 1, true).await;
        middle.extend(write(&repository, 2, &zeroes(&[(20_000, 5)]), 1, true).await);
        middle.extend(write(&repository, 2, &zeroes(&[(30_000, 5)]), 1, true).await);
        let oldest = write(&repository, 3, &zeroes(&[(0, 40_000)]), 1, true).await;
        let key = crate::run::key(middle[0].reference().id);
        let mut bytes = repository.store().get(&key).await.unwrap().unwrap().0.to_vec();
        bytes[20] ^= 1;
        repository.store().delete(&key).await.unwrap();
        repository.store().put_new(&key, bytes.into()).await.unwrap();
        let missing = crate::run::key(middle[1].reference().id);
        repository.store().delete(&missing).await.unwrap();

        let levels = [newest, middle.clone(), oldest];
        let view = View::new(&repository, levels.clone(), BlockRange::new(0, 40_000));
        let found = walk_on(view).await;
        let expected = |block: u64| match block {
            10..20 => Ok(()),
            0..8191 => Err(key.clone()),
            // From where the run before ended to where the next begins.
            9999..30_000 => Err(missing.clone()),
            _ => Ok(()),
        };
        assert_eq!(found.len(), 40_000);
        for (block, what) in found {
            assert_eq!(what.map(drop), expected(block), "block {block}");
        }
        let mut strict = View::new(&repository, levels, BlockRange::new(0, 40_000));
        let error = loop {
            match strict.next().await {
                Ok(segment) => assert!(segment.is_some()),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().starts_with(&key), "{error}");
    });
}
