use super::*;
use crate::{
    block::BlockRange,
    run::{ChunkPlace, Extent, Place},
};

pub(super) fn opening() -> Opening {
    Opening {
        version: VERSION,
        repository: Uuid::from_u128(1),
        snapshot: SnapshotId::from_bytes([2; 16]),
        incarnation: Uuid::from_u128(3),
        capacity: Blocks(1 << 20),
        against: Against::Base(SnapshotId::from_bytes([4; 16])),
    }
}

pub(super) fn upload() -> UploadId {
    UploadId::from_bytes([5; 8])
}

pub(super) fn stretch(position: u64) -> Entry {
    let pack = |n| PackReference {
        id: PackId::from_bytes([n; 16]),
        object_bytes: 900,
        table_offset: 800,
        table_hash: [n; 32],
    };
    let chunk = |n, ordinal| Place::Chunk(ChunkPlace { pack: pack(n), ordinal, skip: 1 });
    Entry::Stretch(Stretch {
        position: Blocks(position),
        statistics: SnapshotStatistics { changed_bytes: 4096, packs: 1, ..SnapshotStatistics::default() },
        segments: vec![
            Extent { range: BlockRange::new(position - 30, 5), place: chunk(1, 7) },
            Extent { range: BlockRange::new(position - 20, 5), place: Place::Zero },
            Extent { range: BlockRange::new(position - 10, 10), place: chunk(2, 8) },
        ],
    })
}

pub(super) fn run() -> Entry {
    Entry::Run(RunReference {
        id: crate::id::RunId::from_bytes([6; 16]),
        object_bytes: 500,
        index_offset: 400,
        index_hash: "00".repeat(32),
        extents: 3,
        referenced_bytes: 1800,
    })
}

/// Opens and replays the journal at a path.
fn read(path: &Path) -> (Journal, Vec<Entry>) {
    let found = Found::open(path, &opening()).unwrap().expect("the journal is found");
    assert_eq!(found.upload, upload());
    let mut entries = Vec::new();
    let journal = found.replay(|entry| {
        entries.push(entry);
        Ok(())
    });
    (journal.unwrap(), entries)
}

#[test]
fn what_was_appended_is_replayed_and_more_can_be_appended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::begin(Some(&path), upload(), &opening());
    journal.append(&stretch(100));
    journal.append(&run());
    drop(journal);
    let (mut journal, entries) = read(&path);
    assert_eq!(entries, [stretch(100), run()]);
    for entry in [stretch(200), Entry::Stored, stretch(300), Entry::Anew] {
        journal.append(&entry);
    }
    drop(journal);
    assert_eq!(read(&path).1, [stretch(100), run(), stretch(200), Entry::Stored, stretch(300), Entry::Anew]);
    Journal::remove(Some(&path));
    assert!(Found::open(&path, &opening()).unwrap().is_none());
    Journal::remove(Some(&path));
}

#[test]
fn a_torn_tail_is_cut_off_wherever_it_tore() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::begin(Some(&path), upload(), &opening());
    journal.append(&stretch(100));
    let whole = std::fs::metadata(&path).unwrap().len();
    journal.append(&stretch(200));
    drop(journal);
    let bytes = std::fs::read(&path).unwrap();
    for length in usize::try_from(whole).unwrap()..bytes.len() {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let (mut journal, entries) = read(&path);
        assert_eq!(entries, [stretch(100)], "torn at {length}");
        journal.append(&stretch(300));
        drop(journal);
        assert_eq!(read(&path).1, [stretch(100), stretch(300)]);
    }
}

#[test]
fn a_flipped_bit_ends_the_journal_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::begin(Some(&path), upload(), &opening());
    journal.append(&stretch(100));
    let whole = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
    journal.append(&stretch(200));
    drop(journal);
    let bytes = std::fs::read(&path).unwrap();
    for at in whole..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(read(&path).1, [stretch(100)], "flipped at {at}");
    }
}

#[test]
fn the_journal_of_another_offload_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    drop(Journal::begin(Some(&path), upload(), &opening()));
    let other = Opening { against: Against::Nothing, ..opening() };
    assert!(Found::open(&path, &other).is_err());
    std::fs::write(&path, "no journal").unwrap();
    assert!(Found::open(&path, &opening()).is_err());
}

#[test]
fn without_a_path_nothing_is_written() {
    let mut journal = Journal::begin(None, upload(), &opening());
    journal.append(&stretch(100));
    assert!(journal.0.is_none());
}

#[test]
fn a_journal_that_cannot_be_written_is_given_up() {
    let mut journal = Journal::begin(Some(Path::new("/nowhere/at/all")), upload(), &opening());
    journal.append(&stretch(100));
    assert!(journal.0.is_none());
}
