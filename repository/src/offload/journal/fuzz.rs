//! Journals, fuzzed: files that were damaged, and payloads that were damaged before they were hashed.

use proptest::prelude::*;

use super::{
    tests::{opening, run, stretch, upload},
    *,
};
use crate::{
    fuzz,
    run::{Extent, wire::decompress},
    seam::Work,
};

/// What decoding a payload takes: what the rows of its extents are as one frame, which may be far longer than the frame is.
fn limit(payload: &[u8]) -> usize {
    let packs = payload.get(65..69).map_or(0, |count| u32::from_le_bytes(count.try_into().unwrap()) as usize);
    let rows = packs.checked_mul(PackReference::LEN).and_then(|packs| payload.get(73 + packs..));
    let rows = rows.and_then(|rows| decompress(rows, MAX_PAYLOAD_LEN).ok()).map_or(0, |rows| rows.len());
    // A row has two bytes at least.
    let extents = rows / 2 * (size_of::<Extent<u32>>() + size_of::<Segment>());
    16 * payload.len() + rows + extents + 4096
}

/// Writes a journal of these payloads, whatever they are.
fn journal(path: &Path, payloads: &[Vec<u8>]) {
    let mut file = File::create(path).unwrap();
    payloads.iter().for_each(|payload| write_frame(&mut file, payload).unwrap());
}

/// Replays the journal at a path, as far as it goes; tells which upload it says that it is of.
fn replay(path: &Path) -> (Option<UploadId>, Vec<Entry>) {
    let mut entries = Vec::new();
    let mut upload = None;
    if let Ok(Some(found)) = Found::open(path, &opening()) {
        upload = Some(found.upload);
        let replayed = found.replay(|entry| {
            entries.push(entry);
            Ok(())
        });
        drop(replayed);
    }
    (upload, entries)
}

proptest! {
    #![proptest_config(fuzz::config())]

    #[test]
    fn payloads_fuzzed(damages in fuzz::damages(), which in 0..4_usize, noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let valid = encode(&[stretch(100), run(), Entry::Stored, Entry::Anew][which]).unwrap();
        for payload in [fuzz::damaged(&valid, &damages), noise] {
            let Ok(entry) = fuzz::bounded(limit(&payload), || decode(&payload)) else { continue };
            prop_assert_eq!(decode(&encode(&entry).unwrap()).unwrap(), entry);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: fuzz::config().cases / 4, ..fuzz::config() })]

    /// What is replayed of a damaged file is what was written before the damage.
    #[test]
    fn files_fuzzed(damages in fuzz::damages()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let written = [stretch(100), Entry::Stored, run(), stretch(200)];
        let worker = Worker::new(Work::Inline);
        let mut begun = Journal::begin(Some(&path), upload(), &opening());
        for entry in written.clone() {
            futures::executor::block_on(begun.write(&worker, entry)).unwrap();
        }
        drop(begun);
        prop_assert_eq!(replay(&path), (Some(upload()), written.to_vec()));
        let bytes = fuzz::damaged(&std::fs::read(&path).unwrap(), &damages);
        std::fs::write(&path, bytes).unwrap();
        let (of, replayed) = replay(&path);
        prop_assert!(of.is_none_or(|of| of == upload()));
        // Whole frames that stand twice, or are missing, are not to be told; no frame is ever another.
        prop_assert!(replayed.iter().all(|entry| written.contains(entry)));

        let mut opened = vec![OPENING];
        let frame = OpeningFrame { upload: upload(), opening: opening() };
        serde_json::to_writer(&mut opened, &frame).unwrap();
        let payloads: Vec<_> = written.iter().map(|entry| fuzz::damaged(&encode(entry).unwrap(), &damages)).collect();
        journal(&path, &[vec![fuzz::damaged(&opened, &damages)], payloads].concat());
        replay(&path);
    }
}
