//! Envelopes and every record in them, fuzzed: damaged as whoever has no key could, and as one could who has it.

use std::fmt::Debug;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    crypto::DataKey,
    fuzz::{self, Damage, json::Edit},
    record::{
        intent::Intent,
        relocation::Relocation,
        repacking::Repacking,
        repository::RepositoryRecord,
        snapshot::{Root, Tombstone},
        volume::VolumeRecord,
    },
    seam::fixed,
};

const OBJECT: &str = "the/object";

/// What a record may take of memory: JSON of a few bytes can be a field with a buffer of its own.
const fn limit(bytes: usize) -> usize {
    32 * bytes + 4096
}

fn key() -> DataKey {
    DataKey::generate(&fixed::seams(3))
}

/// Puts any payload into a sealed envelope.
fn sealed(key: &DataKey, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let prelude = prelude(kind, SEALED, payload.len() + TAG_LEN, [9; NONCE_LEN], OBJECT).unwrap();
    key.records().seal([9; NONCE_LEN], &associated(&prelude, OBJECT), &mut payload);
    close(&prelude, &payload).to_vec()
}

/// Opens what claims to be a record: it is refused by name, or it is what it is written as again.
fn read<T: Serialize + DeserializeOwned + PartialEq + Debug>(key: &DataKey, kind: Kind, bytes: &[u8]) -> Option<T> {
    let opened = if kind == Kind::Repository {
        fuzz::bounded(limit(bytes.len()), || unwrap_record::<T>(kind, OBJECT, bytes))
    } else {
        fuzz::bounded(limit(bytes.len()), || open_record::<T>(key.records(), kind, OBJECT, bytes))
    };
    match opened {
        Ok(record) => {
            let payload = encode(&record);
            assert_eq!(decode::<T>(OBJECT, &payload).unwrap(), record);
            Some(record)
        }
        Err(Error::Corrupt { object, .. } | Error::FutureFormat { object, .. }) if object == OBJECT => None,
        Err(error) => panic!("{error:?} is no answer to damage"),
    }
}

/// Fuzzes one kind of record, of which `sample` is a text.
fn check<T>(kind: Kind, sample: &Value, damages: &[Damage], edits: &[Edit])
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let key = key();
    let wrap = |payload: &[u8]| {
        if kind == Kind::Repository {
            let prelude = prelude(kind, PLAIN, payload.len(), [0; NONCE_LEN], OBJECT).unwrap();
            close(&prelude, payload).to_vec()
        } else {
            sealed(&key, kind, payload)
        }
    };
    let payload = fuzz::json::edited(sample, &[]);
    let whole = wrap(&payload);
    let record = read::<T>(&key, kind, &whole).expect("the sample is of the format");
    // Nothing of a sample is passed over: it has every field that there is, and no other.
    assert_eq!(serde_json::to_value(&record).unwrap(), *sample);

    let damaged = fuzz::damaged(&whole, damages);
    assert_eq!(read::<T>(&key, kind, &damaged).is_some(), damaged == whole, "damage that no hash finds");
    // With the hash made anew the tag is left, where there is one.
    if let Some(content) = damaged.len().checked_sub(HASH_LEN)
        && kind != Kind::Repository
    {
        let (hash, mut damaged) = (blake3::hash(&damaged[..content]), damaged.clone());
        damaged[content..].copy_from_slice(hash.as_bytes());
        assert_eq!(read::<T>(&key, kind, &damaged).is_some(), damaged == whole, "damage that no tag finds");
    }
    read::<T>(&key, kind, &wrap(&fuzz::damaged(&payload, damages)));
    read::<T>(&key, kind, &wrap(&fuzz::json::edited(sample, edits)));
}

fn snapshot(digit: &str) -> String {
    format!("snap-{}", digit.repeat(32))
}

fn run(digit: &str) -> Value {
    json!({
        "id": digit.repeat(32), "object_bytes": 500, "index_offset": 400, "index_hash": "0f".repeat(32), "extents": 3,
        "referenced_bytes": 1800,
    })
}

fn volume() -> Value {
    json!({
        "id": format!("vol-{}", "1".repeat(32)), "name": "pvc-1", "incarnation": "00000000-0000-0000-0000-000000000007",
        "capacity_bytes": 1 << 30, "presentation": "ext4", "home_node": "node-1", "source": {"snapshot": snapshot("2")},
        "offload": {"compression": 3, "bandwidth": 1_000_000}, "parameters": {"a": "b", "c": "d"},
        "created_at": "2026-01-02T03:04:05Z", "complete": true,
        "published": {"node": "node-1", "mode": "single-node-writer", "read_only": false},
    })
}

fn intent() -> Value {
    let attempt = |upload: &str| {
        json!({
            "upload": upload.repeat(16), "node": "node-1", "started_at": "2026-01-02T03:04:05Z",
            "pins": [{"snapshot": snapshot("3"), "runs": [run("4"), run("5")]}],
        })
    };
    json!({"snapshot": snapshot("2"), "volume": volume()["id"], "attempts": [attempt("6"), attempt("7")]})
}

fn root() -> Value {
    json!({
        "description": {
            "id": snapshot("2"), "name": "snap-1", "volume": volume()["id"], "volume_name": "pvc-1",
            "incarnation": "00000000-0000-0000-0000-000000000007", "capacity_bytes": 1 << 30, "presentation": "xfs",
            "created_at": "2026-01-02T03:04:05.123456789Z", "node": "node-1", "group": format!("group-{}", "8".repeat(32)),
            "frozen": true, "pause_nanos": 1_000_000, "parameters": {"a": "b"},
        },
        "upload": "6".repeat(16), "method": "incremental", "base": snapshot("3"), "runs": [run("4"), run("5")],
        "pending": [run("6")], "repaired_at": "2026-01-02T03:04:05Z",
        "statistics": {
            "changed_bytes": 1, "read_bytes": 2, "stored_bytes": 3, "deduplicated_bytes": 4, "uploaded_bytes": 5,
            "data_bytes": 6, "chunks": 7, "packs": 8, "offload_millis": 9,
        },
    })
}

fn tombstone() -> Value {
    json!({"id": snapshot("2"), "nonce": "9".repeat(16), "reason": "deleted", "deleted_at": "2026-01-02T03:04:05Z"})
}

fn relocation() -> Value {
    let target = |digit: &str| {
        // The pack's id, its size and its table's place, and the table's hash.
        let reference = format!("{}{}{}", digit.repeat(32), "c800000064000000", "9".repeat(64));
        json!({"reference": reference, "chunks": [[0, 3, 2], [5, 0, 1]]})
    };
    let mut proven = target("a");
    proven["proven"] = json!(true);
    json!({"pack": "b".repeat(32), "table": "0123456789abcdef".repeat(8), "targets": [proven, target("c")]})
}

fn repacking() -> Value {
    json!({"upload": "6".repeat(16), "node": "node-1", "started_at": "2026-01-02T03:04:05Z"})
}

fn repository() -> Value {
    let slot = json!({
        "salt": "ab".repeat(32), "nonce": "cd".repeat(12), "sealed_key": "ef".repeat(48),
        "created_at": "2026-01-02T03:04:05Z", "label": "the safe",
    });
    json!({
        "format": 1, "uuid": "00000000-0000-0000-0000-000000000007", "created_at": "2026-01-02T03:04:05Z", "generation": 3,
        "slots": [slot, slot],
    })
}

proptest! {
    #![proptest_config(fuzz::config())]

    #[test]
    fn volumes_fuzzed(damages in fuzz::damages(), edits in fuzz::json::edits()) {
        check::<VolumeRecord>(Kind::Volume, &volume(), &damages, &edits);
    }

    #[test]
    fn intents_fuzzed(damages in fuzz::damages(), edits in fuzz::json::edits()) {
        check::<Intent>(Kind::Intent, &intent(), &damages, &edits);
    }

    #[test]
    fn roots_fuzzed(damages in fuzz::damages(), edits in fuzz::json::edits()) {
        check::<Root>(Kind::Root, &root(), &damages, &edits);
    }

    #[test]
    fn tombstones_fuzzed(damages in fuzz::damages(), edits in fuzz::json::edits()) {
        check::<Tombstone>(Kind::Tombstone, &tombstone(), &damages, &edits);
    }

    #[test]
    fn relocations_fuzzed(damages in fuzz::damages(), edits in fuzz::json::edits(), ordinals: [u32; 8]) {
        check::<Relocation>(Kind::Relocation, &relocation(), &damages, &edits);
        let edited = serde_json::from_slice::<Relocation>(&fuzz::json::edited(&relocation(), &edits));
        let Ok(edited) = edited else { return Ok(()) };
        if edited.validate().is_ok() {
            for (target, ordinal) in edited.targets.iter().flat_map(|target| ordinals.map(|ordinal| (target, ordinal))) {
                prop_assert!(target.reference().is_ok());
                target.place(ordinal);
            }
        }
    }

    #[test]
    fn repackings_fuzzed(damages in fuzz::damages(), edits in fuzz::json::edits()) {
        check::<Repacking>(Kind::Repacking, &repacking(), &damages, &edits);
    }

    #[test]
    fn repositories_fuzzed(damages in fuzz::damages(), edits in fuzz::json::edits()) {
        check::<RepositoryRecord>(Kind::Repository, &repository(), &damages, &edits);
    }

    #[test]
    fn noise_is_no_record(noise in prop::collection::vec(any::<u8>(), 0..300), header: bool) {
        let key = key();
        let payload = sealed(&key, Kind::Root, &noise);
        prop_assert_eq!(read::<Root>(&key, Kind::Root, &payload), None);
        let mut bytes = if header { header::write(Kind::Root).to_vec() } else { Vec::new() };
        bytes.extend_from_slice(&noise);
        prop_assert_eq!(read::<Root>(&key, Kind::Root, &bytes), None);
    }
}
