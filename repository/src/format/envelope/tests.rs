use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::{crypto::DataKey, seam::fixed};

const OBJECT: &str = "volumes/vol-00";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    name: String,
    count: u64,
}

fn key() -> DataKey {
    DataKey::generate(&fixed::seams(3))
}

fn record() -> Record {
    Record { name: "a".into(), count: 3 }
}

fn sealed() -> Vec<u8> {
    seal_record(key().records(), Kind::Volume, OBJECT, [9; 12], &record()).unwrap().to_vec()
}

fn open(bytes: &[u8]) -> Result<Record> {
    open_record(key().records(), Kind::Volume, OBJECT, bytes)
}

/// Writes the hash anew, as one would who forges an object without the key.
fn rehash(bytes: &mut [u8]) {
    let content = bytes.len() - HASH_LEN;
    let hash = blake3::hash(&bytes[..content]);
    bytes[content..].copy_from_slice(hash.as_bytes());
}

fn assert_corrupt(result: Result<Record>, reason: &str) {
    match result {
        Err(Error::Corrupt { object, reason: found }) => {
            assert_eq!(object, OBJECT);
            assert!(found.contains(reason), "{found}");
        }
        other => panic!("{other:?} is not corrupt"),
    }
}

#[test]
fn records_round_trip() {
    assert_eq!(open(&sealed()).unwrap(), record());
    let plain = wrap_record(Kind::Repository, "repository", &record()).unwrap();
    assert_eq!(unwrap_record::<Record>(Kind::Repository, "repository", &plain).unwrap(), record());
}

#[test]
fn golden_plain_envelope() {
    let bytes = wrap_record(Kind::Repository, "repository", &record()).unwrap();
    let (content, hash) = bytes.split_at(bytes.len() - HASH_LEN);
    let expected = [
        &b"VARVE\x01\x01\x00"[..],           // header: kind 1, version 1
        b"\x00\x00\x00\x00\x16\x00\x00\x00", // plain, reserved, 22 bytes of payload
        &[0; 12],                            // no nonce
        br#"{"name":"a","count":3}"#,
    ]
    .concat();
    assert_eq!(content, expected);
    assert_eq!(hash, blake3::hash(&expected).as_bytes());
}

#[test]
fn golden_sealed_envelope() {
    assert_eq!(hex::encode(sealed()), GOLDEN_SEALED);
}

/// Header, sealing and length; nonce; ciphertext and tag; hash.
const GOLDEN_SEALED: &str = concat!(
    "56415256450201000100000026000000",
    "090909090909090909090909",
    "13e417680a863a642bf4298e1aaec13c91d836b62eed34234c9d4a29e11abb002bdb1aff4d47",
    "147d147a5548e47e6e4f6812136d22d57821e251b976b3f3916459ec2bfa1c71",
);

#[test]
fn a_record_opens_at_its_own_place_only() {
    let result = open_record::<Record>(key().records(), Kind::Volume, "volumes/vol-01", &sealed());
    assert!(matches!(result, Err(Error::Corrupt { object, .. }) if object == "volumes/vol-01"));
    let other = DataKey::generate(&fixed::seams(4));
    assert_corrupt(
        open_record(other.records(), Kind::Volume, OBJECT, &sealed()),
        "not sealed under this repository's key",
    );
    assert_corrupt(
        open_record(key().records(), Kind::Intent, OBJECT, &sealed()),
        "a volume record where an intent belongs",
    );
}

#[test]
fn a_forged_hash_does_not_help() {
    let mut bytes = sealed();
    bytes[PAYLOAD_OFFSET] ^= 1;
    rehash(&mut bytes);
    assert_corrupt(open(&bytes), "not sealed under this repository's key");

    let mut bytes = sealed();
    bytes[SEALING_OFFSET] = PLAIN;
    rehash(&mut bytes);
    assert_corrupt(open(&bytes), "not sealed");

    let mut bytes = sealed();
    bytes[RESERVED_OFFSET + 2] = 1;
    rehash(&mut bytes);
    assert_corrupt(open(&bytes), "reserved");

    let mut bytes = sealed();
    bytes[LENGTH_OFFSET..NONCE_OFFSET].copy_from_slice(&u32::MAX.to_le_bytes());
    rehash(&mut bytes);
    assert_corrupt(open(&bytes), "length");
}

#[test]
fn a_later_version_is_named_before_damage_is() {
    let mut bytes = sealed();
    bytes[6] = 2;
    assert!(matches!(open(&bytes), Err(Error::FutureFormat { found: 2, supported: 1, .. })));
    assert!(matches!(open(&bytes[..20]), Err(Error::FutureFormat { found: 2, .. })));
}

#[test]
fn outsized_records_are_refused_both_ways() {
    let large = Record { name: "x".repeat(RECORD_LIMIT), count: 0 };
    let error = wrap_record(Kind::Repository, OBJECT, &large).unwrap_err();
    assert!(matches!(error, Error::RecordTooLarge { .. }), "{error}");
    let mut bytes = sealed();
    bytes.resize(RECORD_LIMIT + 1, 0);
    assert_corrupt(open(&bytes), "larger than a record");
}

#[test]
fn unknown_fields_are_passed_over() {
    let payload = serde_json::json!({"name": "a", "count": 3, "later": true});
    let bytes = seal_record(key().records(), Kind::Volume, OBJECT, [9; 12], &payload).unwrap();
    assert_eq!(open(&bytes).unwrap(), record());
}

#[test]
fn every_truncation_is_detected() {
    let bytes = sealed();
    for length in 0..bytes.len() {
        assert!(matches!(open(&bytes[..length]), Err(Error::Corrupt { .. })), "cut to {length}");
    }
}

#[test]
fn invariant_6_every_flipped_bit_is_detected() {
    let bytes = sealed();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let result = open(&flipped);
            let is_version = at == 6 || at == 7;
            match result {
                Err(Error::Corrupt { .. }) => {}
                Err(Error::FutureFormat { .. }) if is_version => {}
                other => panic!("bit {bit} of byte {at}: {other:?}"),
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_open_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(open(&bytes).is_err());
        prop_assert!(unwrap_record::<Record>(Kind::Repository, OBJECT, &bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_behind_a_right_prelude_never_panic(
        prelude in proptest::collection::vec(any::<u8>(), 8..40),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
        forge in any::<bool>(),
    ) {
        let mut bytes = [&header::write(Kind::Volume)[..], &prelude, &rest, &[0; HASH_LEN]].concat();
        if forge {
            rehash(&mut bytes);
        }
        prop_assert!(open(&bytes).is_err());
        let mut plain = bytes.clone();
        plain[5] = Kind::Repository.code();
        plain[SEALING_OFFSET] = PLAIN;
        rehash(&mut plain);
        let _ = unwrap_record::<Record>(Kind::Repository, OBJECT, &plain);
    }

    #[test]
    fn spliced_records_are_detected(at in any::<proptest::sample::Index>(), insert in proptest::collection::vec(any::<u8>(), 1..20)) {
        let mut bytes = sealed();
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, insert);
        prop_assert!(open(&bytes).is_err());
    }
}
