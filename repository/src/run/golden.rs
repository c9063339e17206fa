//! Bytes that version 1 of the format wrote, which every later version must read.
//!
//! What is sealed and not compressed is also written again bit for bit; zstd may compress otherwise one day.

use std::sync::Arc;

use object_store::memory::InMemory;

use super::{ChunkPlace, Extent, Place, Segment, View};
use crate::{
    Repository,
    block::BlockRange,
    crypto::MasterKey,
    id::{PackId, RunId},
    pack::{self, Compressor, Opener, PackReference},
    record::snapshot::RunReference,
    run,
    seam::{Entropy, Seams, System, Work},
    store::Store,
};

/// Entropy that gives `07` for ever.
struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

fn seams() -> Seams {
    Seams::new(Arc::new(System), Arc::new(Sevens), Work::Threads)
}

/// A pack of two chunks, both compressed: two blocks of `a`, one block of `b`.
const PACK: &str = "\
    5641525645060100fbd89d146d52ab1d6fcaef8d37b66f747d9747096a72cb36d1af2bcd626cd3571ccd9a3979e0c07d3148\
    18d558b7e5bad2a84e439e26b17c97373603a736ca7e82a2c9536d0eb02f4d8d1f07860c6bdceb9382c2df00509ea97183af\
    cd4bff6f34ceffaa5738744325c03a01ad0d0479e4dfb9e82bc6132f0ec7c7b9a097eb3d4bcd91f7c9e0a116c9a5142825db\
    7807e60db9cd5d8100b22f1f09a0fda2856c99c767a13f2f";

/// The table of the same pack where chunks are stored as they are, and the BLAKE3 of all of that pack.
const RAW_TABLE: &str = "\
    b02f4d8d1f07860c6bdceb9382c2df00509ea97183afcd4bff6f34ceffaa5738744325c00921ad0d0478e4dfb9e82bc6132f\
    0ec7c7b9a097eb3d4bcd91f7c9e0a116c9a5142825db7807d51db9cd5d800ac38ae0781db5a099a0a3379dbde3c2";
const RAW_PACK_HASH: &str = "c3942e89e4a99815c9e7cca8ad0781015fffe800c49406963fbe13e33eb763b0";

/// A run of one page that speaks of the compressed pack, and the BLAKE3 of its index.
const RUN: &str = "\
    56415256450701004981a921e4ce9010d18466c8c90b5ba3c426a3aa618da18da46bb1a3d9ce8b492212737b10376f797d6c\
    188fff54f0d015b6c962939cc3239477713c956e105a844defd9c235943129b2d0d21f66149af3d71901147b6292943ea1a5\
    a6fec892b56961a46887c5a04d0e940f21f3632892eaca5bd051edd8769043ba6c38cce9619c4ff98450101c697d52218c42\
    4aa58dbe1eb3c8a6ec34cf01e823581b7aaab45cb989cceb6972f85f18b28bff42de06ad";
const RUN_INDEX_HASH: &str = "ac3d1aa30ae157f7486d7e50ff22074ca15db42fd229bba3995fa8ce22b7e7f2";

const PACK_ID: PackId = PackId::from_bytes([1; 16]);
const RUN_ID: RunId = RunId::from_bytes([1, 1, 1, 1, 1, 1, 1, 1, 7, 7, 7, 7, 7, 7, 7, 7]);

fn chunks() -> [Vec<u8>; 2] {
    [vec![b'a'; 8192], vec![b'b'; 4096]]
}

fn pack_reference() -> PackReference {
    let object = hex::decode(PACK).unwrap();
    let table_hash = *blake3::hash(&object[78..]).as_bytes();
    PackReference { id: PACK_ID, object_bytes: u32::try_from(object.len()).unwrap(), table_offset: 78, table_hash }
}

fn segments() -> [Segment; 3] {
    let chunk = |ordinal, skip| Place::Chunk(ChunkPlace { pack: pack_reference(), ordinal, skip });
    [
        Extent { range: BlockRange::new(3, 5), place: Place::Zero },
        Extent { range: BlockRange::new(10, 1), place: chunk(0, 1) },
        Extent { range: BlockRange::new(1 << 40, 1), place: chunk(1, 0) },
    ]
}

/// A repository whose data key is all `07`, which holds the pack and the run.
async fn repository() -> Repository {
    let store = Store::new(Arc::new(InMemory::new()), "memory:///");
    let repository = Repository::init(store, &MasterKey::generate(&Sevens), seams()).await.unwrap();
    for (key, object) in [(pack::key(PACK_ID), PACK), (run::key(RUN_ID), RUN)] {
        repository.store().put_new(&key, hex::decode(object).unwrap().into()).await.unwrap();
    }
    repository
}

#[tokio::test]
async fn a_pack_of_version_1_is_read() {
    let repository = repository().await;
    let (key, reference) = (repository.data_key(), pack_reference());
    let table = pack::read_table(&repository, &reference).await.unwrap();
    assert_eq!(table.entries.iter().map(|entry| (entry.offset, entry.blocks)).collect::<Vec<_>>(), [(8, 2), (43, 1)]);
    let object = hex::decode(PACK).unwrap();
    let opener = Opener::new(key, reference);
    for ((entry, ordinal), chunk) in table.entries.iter().zip(0..).zip(chunks()) {
        let sealed = &object[entry.offset as usize..entry.end() as usize];
        assert_eq!(opener.open(key, ordinal, entry, sealed).unwrap(), chunk);
    }
}

#[tokio::test]
async fn a_run_of_version_1_is_read() {
    let reference = RunReference {
        id: RUN_ID,
        object_bytes: 186,
        index_offset: 50,
        index_hash: RUN_INDEX_HASH.into(),
        extents: 3,
        referenced_bytes: 174,
    };
    let repository = repository().await;
    let mut view = View::of(&repository, &[reference], BlockRange::new(0, 1 << 41));
    for segment in segments() {
        assert_eq!(view.next().await.unwrap(), Some(segment));
    }
    assert_eq!(view.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_pack_is_written_as_version_1_wrote_it() {
    let repository = repository().await;
    let key = repository.data_key();
    let mut writer = pack::Writer::new(key, PACK_ID);
    let as_it_is = Compressor::new(Some(0));
    for (chunk, blocks) in chunks().into_iter().zip([2, 1]) {
        writer.push(key.chunk_id(&chunk), blocks, as_it_is.encode(chunk));
    }
    let (reference, object) = writer.finish();
    assert_eq!(reference.table_offset, 8 + 8192 + 16 + 4096 + 16);
    assert_eq!(hex::encode(&object[reference.table_offset as usize..]), RAW_TABLE);
    assert_eq!(blake3::hash(&object).to_hex().as_str(), RAW_PACK_HASH);
}
