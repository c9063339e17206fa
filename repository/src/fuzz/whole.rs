//! Whole snapshots, forged by one who has the key: their parts are damaged before they are sealed, and every hash that
//! vouches for a part is made anew, so that the damage reaches the innermost decoder and whatever uses what it read.
//!
//! A restore must then fail, or write blocks that chunks hold, each inside the image and once. That a forger with the key
//! can make any snapshot at all is not to be helped.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex},
};

use object_store::memory::InMemory;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::{Damage, json::Edit};
use crate::{
    Repository,
    block::{BLOCK_SIZE, BlockRange, BlockTarget, Blocks, CHUNK_BLOCKS},
    check::Level,
    crypto::MasterKey,
    format::{self, Kind, envelope},
    fuzz,
    id::{PackId, RunId, SnapshotId, UploadId},
    pack::{self, Compressor, PackReference},
    progress::Progress,
    record::{
        relocation::{Relocation, Target},
        snapshot::{Root, RunReference},
    },
    repository::names,
    run::{self, ChunkPlace, Extent, Index, PageEntry, Place},
    seam::{Seams, Work, fixed},
    store::Store,
};

const BLOCK: usize = 4096;
const CAPACITY: u64 = 4096;
const PACK: PackId = PackId::from_bytes([1; 16]);
const TARGET: PackId = PackId::from_bytes([4; 16]);
const UPLOAD: UploadId = UploadId::from_bytes([1; 8]);

/// What a restore holds beside what it reads: reads under way, tables, and a window's plan.
const LIMIT: usize = 4 << 20;

/// What is done to each part before it is sealed.
#[derive(Clone, Debug)]
struct Forgery {
    table: Vec<Damage>,
    rows: Vec<Damage>,
    page: Vec<Damage>,
    index: Vec<Damage>,
    /// How the root speaks of the run, as five numbers.
    reference: Vec<Damage>,
    /// Whether the pack was repacked, and what is done to the record of that.
    relocation: Option<Vec<Edit>>,
}

fn forgeries() -> impl Strategy<Value = Forgery> {
    // Mostly one part at a time: what comes behind a damaged part is seldom looked at.
    let relocation = prop::option::of(fuzz::json::edits());
    let parts = (0..7_usize, fuzz::damages(), 0..20_usize, fuzz::damages(), relocation);
    parts.prop_map(|(one, damages, other, more, relocation)| {
        let of = |part| match part {
            part if part == one => damages.clone(),
            part if part == other => more.clone(),
            _ => Vec::new(),
        };
        Forgery { table: of(0), rows: of(1), page: of(2), index: of(3), reference: of(4), relocation }
    })
}

/// Three chunks of one, seven and 32 blocks, no block like another.
fn chunks() -> Vec<Vec<u8>> {
    [1, 7, CHUNK_BLOCKS]
        .into_iter()
        .map(|blocks| {
            let mut chunk = vec![0; usize::try_from(blocks).unwrap() * BLOCK];
            for (block, number) in chunk.chunks_mut(BLOCK).zip(0_u64..) {
                blake3::Hasher::new()
                    .update(&[blocks, number].map(u64::to_le_bytes).concat())
                    .finalize_xof()
                    .fill(&mut block[..64]);
                block[64..].fill(b'v');
            }
            chunk
        })
        .collect()
}

/// Where the blocks of the image are: zeroes and parts of the chunks.
fn extents() -> Vec<Extent<u32>> {
    let chunk = |ordinal, skip| Place::Chunk(ChunkPlace { pack: 0, ordinal, skip });
    vec![
        Extent { range: BlockRange::new(0, 1), place: chunk(0, 0) },
        Extent { range: BlockRange::new(2, 100), place: Place::Zero },
        Extent { range: BlockRange::new(102, 4), place: chunk(1, 2) },
        Extent { range: BlockRange::new(300, 20), place: chunk(2, 12) },
        Extent { range: BlockRange::new(320, 12), place: chunk(2, 0) },
        Extent { range: BlockRange::new(CAPACITY - 2, 7), place: chunk(1, 0) },
    ]
}

/// Makes a snapshot with a forged pack and a forged run.
async fn forge(repository: &Repository, forgery: &Forgery) -> Root {
    let key = repository.data_key();
    // The pack. The table is the end of an honest one, opened, damaged and sealed again.
    let mut writer = pack::Writer::new(key, PACK);
    for (chunk, compression) in chunks().into_iter().zip([Some(0), None, None]) {
        let blocks = u8::try_from(chunk.len() / BLOCK).unwrap();
        writer.push(key.chunk_id(&chunk), blocks, Compressor::new(compression).encode(chunk));
    }
    let (honest, object) = writer.finish();
    let table_offset = honest.table_offset as usize;
    let mut table = object[table_offset..].to_vec();
    key.pack_cipher(PACK).open_table(&mut table).unwrap();
    let mut table = fuzz::damaged(&table, &forgery.table);
    key.pack_cipher(PACK).seal_table(&mut table);
    let object = [&object[..table_offset], &table].concat();
    let table_hash = *blake3::hash(&table).as_bytes();
    let pack = PackReference { object_bytes: u32::try_from(object.len()).unwrap(), table_hash, ..honest };
    match &forgery.relocation {
        None => repository.store().put_new(&pack::key(PACK), object.into()).await.unwrap(),
        Some(edits) => relocate(repository, &table, edits).await,
    }

    // The run.
    let id = RunId::of(UPLOAD, [2; 8]);
    let (cipher, extents) = (key.run_cipher(id), extents());
    let page = run::encode_extents(&extents);
    let rows = fuzz::damaged(&run::wire::decompress(&page, usize::MAX).unwrap(), &forgery.rows);
    let mut page = fuzz::damaged(&zstd::bulk::compress(&rows, 1).unwrap(), &forgery.page);
    cipher.seal_page(0, &mut page);
    let first = extents[0].range.first;
    let entry = PageEntry {
        range: BlockRange { first, count: extents[extents.len() - 1].range.end() - first },
        offset: format::HEADER_LEN as u64,
        stored: u32::try_from(page.len()).unwrap(),
        extents: u32::try_from(extents.len()).unwrap(),
        hash: *blake3::hash(&page).as_bytes(),
    };
    let index = Index { packs: vec![pack], pages: vec![entry] };
    let mut index = fuzz::damaged(&index.encode(), &forgery.index);
    cipher.seal_index(&mut index);
    let mut object = Vec::new();
    format::put_header(&mut object, Kind::Run);
    object.extend_from_slice(&page);
    let honest =
        [(object.len() + index.len()) as u64, object.len() as u64, extents.len() as u64, 1000, CAPACITY * BLOCK_SIZE];
    let index_hash = blake3::hash(&index).to_hex().to_string();
    object.extend_from_slice(&index);
    repository.store().put_new(&run::key(id), object.into()).await.unwrap();

    let mut numbers = fuzz::damaged(&honest.map(u64::to_le_bytes).concat(), &forgery.reference);
    numbers.resize(40, 0);
    let mut numbers = numbers.chunks_exact(8).map(|number| u64::from_le_bytes(number.try_into().unwrap()));
    let mut number = || numbers.next().unwrap();
    let run = RunReference {
        id,
        object_bytes: number(),
        index_offset: number(),
        extents: number(),
        referenced_bytes: number(),
        index_hash,
    };
    root(repository, run, number())
}

/// Puts the chunks into another pack, in another order, and the record that says so.
async fn relocate(repository: &Repository, table: &[u8], edits: &[Edit]) {
    let key = repository.data_key();
    let mut writer = pack::Writer::new(key, TARGET);
    for chunk in chunks().into_iter().rev() {
        let blocks = u8::try_from(chunk.len() / BLOCK).unwrap();
        writer.push(key.chunk_id(&chunk), blocks, Compressor::new(None).encode(chunk));
    }
    let (reference, object) = writer.finish();
    repository.store().put_new(&reference.key(), object).await.unwrap();
    let target = Target::new(&reference, [(0, 2), (1, 1), (2, 0)]);
    let relocation = Relocation { pack: PACK, table: table.to_vec(), targets: vec![target] };
    let edited = fuzz::json::edited(&serde_json::to_value(&relocation).unwrap(), edits);
    let edited: serde_json::Value = serde_json::from_slice(&edited).unwrap_or_default();
    let object = names::relocation_key(PACK);
    let sealed = envelope::seal_record(key.records(), Kind::Relocation, &object, [9; 12], &edited).unwrap();
    repository.store().put_new(&object, sealed).await.unwrap();
}

fn root(repository: &Repository, run: RunReference, capacity_bytes: u64) -> Root {
    let text = serde_json::json!({
        "description": {
            "id": SnapshotId::from_bytes([3; 16]), "name": "forged", "volume": repository.volume_id("volume"),
            "volume_name": "volume", "incarnation": "00000000-0000-0000-0000-000000000007",
            "capacity_bytes": capacity_bytes, "presentation": "block", "created_at": fixed::NOW, "node": "node",
            "frozen": false, "pause_nanos": 0,
        },
        "upload": UPLOAD, "method": "full", "runs": [run],
        "statistics": {
            "changed_bytes": 0, "read_bytes": 0, "stored_bytes": 0, "deduplicated_bytes": 0, "uploaded_bytes": 0,
            "data_bytes": 0, "chunks": 0, "packs": 0, "offload_millis": 0,
        },
    });
    serde_json::from_value(text).unwrap()
}

/// Takes only blocks that a chunk holds, inside the image, each once.
struct Image {
    known: HashSet<Vec<u8>>,
    end: u64,
    written: Mutex<HashSet<u64>>,
}

impl BlockTarget for Image {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        for (block, number) in data.chunks(BLOCK).zip(first.0..) {
            assert!(self.known.contains(block), "block {number} gets bytes that no chunk holds");
            assert!(number < self.end, "block {number} lies beyond the image");
            assert!(self.written.lock().unwrap().insert(number), "block {number} is written twice");
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn repository() -> Repository {
    let store = Store::new(Arc::new(InMemory::new()), "memory:///");
    let seams = Seams { work: Work::Inline, ..fixed::seams(3) };
    let master = MasterKey::generate(&*seams.entropy);
    runtime().block_on(Repository::init(store, &master, seams)).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Restores a forged snapshot; returns what blocks were written, where that succeeded.
fn restore(forgery: &Forgery) -> Option<HashSet<u64>> {
    let (repository, runtime) = (repository(), runtime());
    let root = runtime.block_on(forge(&repository, forgery));
    let target = Arc::new(Image {
        known: chunks().iter().flat_map(|chunk| chunk.chunks(BLOCK)).map(<[u8]>::to_vec).collect(),
        end: root.description.capacity_bytes.div_ceil(BLOCK_SIZE),
        written: Mutex::default(),
    });
    let hydrated = fuzz::bounded(LIMIT, || {
        let to = Arc::clone(&target) as Arc<dyn BlockTarget>;
        runtime.block_on(repository.hydrate(&root, to, Progress::default(), CancellationToken::new()))
    });
    // Whoever checks a repository reads the same, and must live with it too.
    runtime.block_on(repository.commit_root(&root)).unwrap();
    runtime.block_on(repository.check(Level::Content, Progress::default(), CancellationToken::new())).unwrap();
    hydrated.ok()?;
    Some(std::mem::take(&mut *target.written.lock().unwrap()))
}

#[test]
fn what_is_not_forged_restores() {
    for relocation in [None, Some(vec![])] {
        let nothing =
            Forgery { table: vec![], rows: vec![], page: vec![], index: vec![], reference: vec![], relocation };
        let written = restore(&nothing).unwrap();
        let expected = [0..1, 102..106, 300..332, CAPACITY - 2..CAPACITY];
        assert_eq!(written, expected.into_iter().flatten().collect());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: fuzz::config().cases / 2, ..fuzz::config() })]

    #[test]
    fn forged_snapshots_restore_or_fail(forgery in forgeries()) {
        restore(&forgery);
    }
}
