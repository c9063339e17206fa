use std::{fs, os::unix::fs::PermissionsExt};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    Error,
    id::{ChunkId, PackId, RunId, VolumeId},
    seam::fixed,
};

fn data_key() -> DataKey {
    DataKey::new(Zeroizing::new([7; KEY_LEN]))
}

fn write_key(text: &[u8], mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (folder, path)
}

fn refusal(text: &[u8], mode: u32) -> String {
    let (_folder, path) = write_key(text, mode);
    let error = MasterKey::from_file(&path).unwrap_err();
    assert!(matches!(error, Error::MasterKey { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn a_written_master_key_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    let key = MasterKey::generate(&*fixed::seams(1).entropy);
    key.write_new(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&path).unwrap().len(), 65);
    assert_eq!(MasterKey::from_file(&path).unwrap().as_bytes(), key.as_bytes());
    assert!(matches!(key.write_new(&path), Err(Error::Local { .. })), "a key is never replaced");
}

#[test]
fn ends_of_line_are_tolerated_and_nothing_else() {
    let digits = "ab".repeat(32);
    for end in ["", "\n", "\r\n"] {
        let (_folder, path) = write_key(format!("{digits}{end}").as_bytes(), 0o400);
        assert_eq!(MasterKey::from_file(&path).unwrap().as_bytes(), &[0xab; 32]);
    }
    for text in ["", "ab", &"ab".repeat(31), &"ab".repeat(33), &format!("{digits}\n\n"), &format!(" {digits}")] {
        assert!(refusal(text.as_bytes(), 0o600).contains("64 hexadecimal digits"), "{text:?}");
    }
    assert!(refusal("zz".repeat(32).as_bytes(), 0o600).contains("something else than hexadecimal digits"));
    assert!(refusal(&vec![b'a'; 1 << 20], 0o600).contains("64 hexadecimal digits"));
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    for mode in [0o640, 0o604, 0o644, 0o620, 0o666] {
        let message = refusal("ab".repeat(32).as_bytes(), mode);
        assert!(message.contains("chmod 600") && message.contains(&format!("{mode:04o}")), "{message}");
        assert!(!message.contains("abab"), "{message}");
    }
}

#[test]
fn a_missing_key_file_and_a_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let message = MasterKey::from_file(&folder.path().join("none")).unwrap_err().to_string();
    assert!(message.contains("cannot be opened"), "{message}");
    let message = MasterKey::from_file(folder.path()).unwrap_err().to_string();
    assert!(message.contains("not a regular file"), "{message}");
    let message = MasterKey::from_environment("VARVE_TEST_NEVER_SET").unwrap_err().to_string();
    assert!(message.contains("VARVE_TEST_NEVER_SET") && message.contains("not set"), "{message}");
}

#[test]
fn invariant_7_keys_have_no_debug_output() {
    let key = MasterKey::generate(&*fixed::seams(1).entropy);
    assert_eq!(format!("{key:?} {:?}", data_key()), "MasterKey(…) DataKey(…)");
}

#[test]
fn a_slot_opens_with_its_master_key_and_repository_alone() {
    let seams = fixed::seams(2);
    let (master, other) = (MasterKey::generate(&*seams.entropy), MasterKey::generate(&*seams.entropy));
    let repository = Uuid::from_u128(1);
    let slot = KeySlot::seal(&data_key(), &master, None, repository, &seams);
    assert_eq!(slot.open(&master, repository).unwrap().as_bytes(), &[7; KEY_LEN]);
    assert!(slot.open(&other, repository).is_none());
    assert!(slot.open(&master, Uuid::from_u128(2)).is_none());
    let text = serde_json::to_string(&slot).unwrap();
    assert_eq!(serde_json::from_str::<KeySlot>(&text).unwrap(), slot);
}

#[test]
fn golden_slot() {
    let seams = fixed::seams(2);
    let master = MasterKey::generate(&*seams.entropy);
    let slot = KeySlot::seal(&data_key(), &master, None, Uuid::from_u128(1), &seams);
    assert_eq!(slot.id().to_string(), "754b983c");
    let expected = concat!(
        r#"{"salt":"754b983c99190e0e520a2ce201623d2a9cf8c33ec48ec92f3645a5d56637c0a5","#,
        r#""nonce":"a26cdb3560bf57a0eb52c602","#,
        r#""sealed_key":"f7be2c49a8786817e817f7bf64b4983242a74022b1774b123f832f99dd9763057f343ada82b42bec012c3084b3b660d4","#,
        r#""created_at":"2026-01-02T03:04:05Z"}"#,
    );
    assert_eq!(serde_json::to_string(&slot).unwrap(), expected);
}

#[test]
fn names_of_different_kinds_never_share_an_id() {
    let key = data_key();
    let volume = key.volume_id("a");
    let group = key.group_id("a");
    let all = [
        *volume.as_bytes(),
        *key.volume_id("b").as_bytes(),
        *group.as_bytes(),
        *key.snapshot_id("a", 0).as_bytes(),
        *key.snapshot_id("a", 1).as_bytes(),
        *key.snapshot_id("b", 0).as_bytes(),
        *key.member_id(group, volume).as_bytes(),
        *key.member_id(group, VolumeId::from_bytes([0; 16])).as_bytes(),
    ];
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
    assert_eq!(key.volume_id("a"), volume, "the same name has the same id");
    assert_ne!(DataKey::new(Zeroizing::new([8; 32])).volume_id("a"), volume, "and another in another repository");
}

/// What `docs/format.md` says, in numbers: an independent reader must derive the same.
#[test]
fn golden_derivations() {
    let key = data_key();
    let text = |bytes: &[u8]| hex::encode(bytes);
    assert_eq!(text(key.chunk_id(b"varve").as_bytes()), GOLDEN_CHUNK_ID);
    assert_eq!(key.volume_id("pvc-1").to_string(), GOLDEN_VOLUME);
    assert_eq!(key.snapshot_id("snap-1", 3).to_string(), GOLDEN_SNAPSHOT);
    assert_eq!(key.group_id("group-1").to_string(), GOLDEN_GROUP);
    assert_eq!(key.member_id(key.group_id("group-1"), key.volume_id("pvc-1")).to_string(), GOLDEN_MEMBER);

    let mut buffer = b"plain".to_vec();
    key.pack_cipher(PackId::from_bytes([1; 16])).seal_chunk(5, &ChunkId::from_bytes([2; 32]), &mut buffer);
    assert_eq!(text(&buffer), GOLDEN_CHUNK);
    let mut buffer = b"plain".to_vec();
    key.pack_cipher(PackId::from_bytes([1; 16])).seal_table(&mut buffer);
    assert_eq!(text(&buffer), GOLDEN_TABLE);
    let mut buffer = b"plain".to_vec();
    key.run_cipher(RunId::from_bytes([1; 16])).seal_page(5, &mut buffer);
    assert_eq!(text(&buffer), GOLDEN_PAGE);
    let mut buffer = b"plain".to_vec();
    key.run_cipher(RunId::from_bytes([1; 16])).seal_index(&mut buffer);
    assert_eq!(text(&buffer), GOLDEN_INDEX);
}

const GOLDEN_CHUNK_ID: &str = "35b7651d757112e12baee72383cf31f4078cab1c16f03542f777c8a46de9c005";
const GOLDEN_VOLUME: &str = "vol-c56d678816d6ba2ba2f4d548594c5be7";
const GOLDEN_SNAPSHOT: &str = "snap-43fe34ab12b0d063d7a98b440849d6f5";
const GOLDEN_GROUP: &str = "group-c58f39db0734c3e4e3f5b061f25b03dd";
const GOLDEN_MEMBER: &str = "snap-473e8ae1c080ca148fca30d6cd3f346b";
const GOLDEN_CHUNK: &str = "6a9323d9af5b8f95d27b1098be3526c67e9e26b907";
const GOLDEN_TABLE: &str = "c2432ce4ebb3f3976ec6ece4c97dcd5fbea71af23c";
const GOLDEN_PAGE: &str = "558019150c02e2d7f1fc6b21ee5ab18580a3343815";
const GOLDEN_INDEX: &str = "2e0943c5c531b5333c585174e10e473cce6451ab2c";

#[test]
#[should_panic(expected = "must not seal anything else")]
fn the_directory_ordinal_seals_no_part() {
    data_key().pack_cipher(PackId::from_bytes([1; 16])).seal_chunk(
        u32::MAX,
        &ChunkId::from_bytes([2; 32]),
        &mut vec![],
    );
}

proptest! {
    #[test]
    fn parts_open_only_where_they_were_sealed(plain in proptest::collection::vec(any::<u8>(), 0..300), ordinal in 0..1000u32) {
        let key = data_key();
        let (pack, id) = (PackId::from_bytes([1; 16]), ChunkId::from_bytes([2; 32]));
        let cipher = key.pack_cipher(pack);
        let mut sealed = plain.clone();
        cipher.seal_chunk(ordinal, &id, &mut sealed);
        prop_assert_eq!(sealed.len(), plain.len() + TAG_LEN);

        let mut opened = sealed.clone();
        cipher.open_chunk(ordinal, &id, &mut opened).unwrap();
        prop_assert_eq!(&opened, &plain);

        let other_id = ChunkId::from_bytes([3; 32]);
        let other_pack = key.pack_cipher(PackId::from_bytes([9; 16]));
        prop_assert_eq!(cipher.open_chunk(ordinal + 1, &id, &mut sealed.clone()), Err(Rejected));
        prop_assert_eq!(cipher.open_chunk(u32::MAX, &id, &mut sealed.clone()), Err(Rejected));
        prop_assert_eq!(cipher.open_chunk(ordinal, &other_id, &mut sealed.clone()), Err(Rejected));
        prop_assert_eq!(other_pack.open_chunk(ordinal, &id, &mut sealed.clone()), Err(Rejected));
        prop_assert_eq!(cipher.open_table(&mut sealed.clone()), Err(Rejected));
        let run = key.run_cipher(RunId::from_bytes([1; 16]));
        prop_assert_eq!(run.open_page(ordinal, &mut sealed.clone()), Err(Rejected));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_rejected(
        plain in proptest::collection::vec(any::<u8>(), 0..100),
        at in any::<proptest::sample::Index>(),
        bit in 0..8u8,
    ) {
        let cipher = data_key().run_cipher(RunId::from_bytes([1; 16]));
        let mut sealed = plain;
        cipher.seal_index(&mut sealed);
        let at = at.index(sealed.len());
        let mut flipped = sealed.clone();
        flipped[at] ^= 1 << bit;
        prop_assert_eq!(cipher.open_index(&mut flipped), Err(Rejected));
        prop_assert_eq!(cipher.open_index(&mut sealed[..at].to_vec()), Err(Rejected));
    }
}

#[test]
fn the_authority_s_seed_follows_from_the_data_key_alone_and_is_no_other_key() {
    let key = data_key();
    let seed = key.authority_seed();
    assert_eq!(seed.as_bytes(), data_key().authority_seed().as_bytes());
    let other = DataKey::new(Zeroizing::new([8; KEY_LEN]));
    assert_ne!(seed.as_bytes(), other.authority_seed().as_bytes());
    assert_ne!(seed.as_bytes(), key.as_bytes());
    // What any two versions of this program have to agree upon.
    let expected = blake3::derive_key("varve agent api 1 authority", &[7; KEY_LEN]);
    assert_eq!(seed.as_bytes(), &expected);

    // It outlives a change of master keys: both slots hold the same data key.
    let seams = fixed::seams(3);
    let uuid = Uuid::nil();
    for _ in 0..2 {
        let master = MasterKey::generate(&*seams.entropy);
        let opened = KeySlot::seal(&key, &master, None, uuid, &seams).open(&master, uuid).unwrap();
        assert_eq!(opened.authority_seed().as_bytes(), seed.as_bytes());
    }
}
