//! Master keys: which of them open a repository, through every change, crash and loss; and what one sees without any.

mod image;
mod storage;

use std::{collections::HashSet, sync::Arc};

use image::{BLOCK, Image, Seeded, assert_same, id, master, offload, restore, seams};
use storage::{Memory, Stop};
use varve_repository::{
    Claim, Error, ErrorKind, Repository, SnapshotState,
    crypto::{Label, MasterKey},
    offload::Against,
    progress::Progress,
};

const FIRST: &str = "repository";
const COPY: &str = "repository.copy";

fn key(seed: u64) -> MasterKey {
    MasterKey::generate(&Seeded::new(1000 + seed))
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

async fn init(memory: &Arc<Memory>) -> Repository {
    image::init(memory.store()).await
}

async fn open(memory: &Arc<Memory>, key: &MasterKey) -> Result<Repository, Error> {
    Repository::open(memory.store(), key, seams(2)).await
}

async fn opens(memory: &Arc<Memory>, key: &MasterKey) -> bool {
    match open(memory, key).await {
        Ok(_) => true,
        Err(Error::WrongKey { .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}

async fn assert_settled(memory: &Arc<Memory>) {
    assert!(memory.read(FIRST).await == memory.read(COPY).await, "the two copies differ");
}

#[tokio::test]
async fn keys_are_added_told_apart_and_removed_and_no_data_is_touched() {
    let memory = Memory::new();
    let repository = init(&memory).await;
    let mut image = Image::new(40);
    image.write_noise(0, 40, &Seeded::new(1));
    let cut = image.cut();
    let root = offload(&repository, "kept", &cut, Against::Nothing).await.unwrap();
    let data = async || {
        let objects = memory.objects().await.into_iter();
        objects.filter(|(key, _)| !key.starts_with(FIRST)).collect::<Vec<_>>()
    };
    let before = data().await;

    let (second, third) = (key(2), key(3));
    let Claim::Created(added) = repository.add_key(&second, Some(&label("the safe"))).await.unwrap() else {
        panic!("it is new");
    };
    assert_eq!(added.label.as_deref(), Some("the safe"));
    let again = repository.add_key(&second, Some(&label("another name"))).await.unwrap();
    assert_eq!(again, Claim::AlreadyPresent(added.clone()), "a key has one slot");
    repository.add_key(&third, None).await.unwrap();
    assert_settled(&memory).await;

    let slots = repository.key_slots().await.unwrap();
    assert_eq!(slots.len(), 3);
    assert_eq!(slots[1], added);
    for (slot, key) in slots.iter().zip([&master(), &second, &third]) {
        assert_eq!(repository.key_slot_of(key).await.unwrap().as_ref(), Some(slot));
        let opened = open(&memory, key).await.unwrap();
        assert_eq!(opened.uuid(), repository.uuid());
        assert_same(&restore(&opened, &root).await.unwrap(), &cut.bytes, "any key restores");
    }
    assert_eq!(repository.key_slot_of(&key(9)).await.unwrap(), None);

    assert_eq!(repository.remove_key(slots[0].id, &third).await.unwrap(), slots[0]);
    assert_eq!([opens(&memory, &master()).await, opens(&memory, &second).await], [false, true]);
    let error = repository.remove_key(slots[0].id, &third).await.unwrap_err();
    assert!(matches!(error, Error::NoKeySlot { slot } if slot == slots[0].id), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // Who opened it before goes on.
    assert_same(&restore(&repository, &root).await.unwrap(), &cut.bytes, "an open handle");
    assert!(data().await == before, "a change of keys touches nothing else");
}

#[tokio::test]
async fn nobody_is_locked_out() {
    let memory = Memory::new();
    let repository = init(&memory).await;
    let only = repository.key_slots().await.unwrap().remove(0);
    let refused = async |key: &MasterKey, word: &str| {
        let error = repository.remove_key(only.id, key).await.unwrap_err();
        assert!(matches!(error, Error::LockOut { slot, .. } if slot == only.id), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(&master(), "last one").await;
    let second = key(2);
    repository.add_key(&second, None).await.unwrap();
    refused(&master(), "opens no other slot").await;
    refused(&key(9), "opens no other slot").await;
    let error = repository.rotate_key(&second, &second, None).await.unwrap_err();
    assert!(matches!(error, Error::LockOut { .. }), "{error:?}");
    assert_eq!(repository.key_slots().await.unwrap().len(), 2);
    repository.remove_key(only.id, &second).await.unwrap();
    assert!(opens(&memory, &second).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_added_at_once_are_all_in_it() {
    let memory = Memory::new();
    let repository = init(&memory).await;
    let adders = (0..8).map(|number| {
        let repository = repository.clone();
        tokio::spawn(async move { repository.add_key(&key(number), None).await.unwrap() })
    });
    let added = futures::future::join_all(adders).await;
    assert!(added.into_iter().all(|claim| matches!(claim.unwrap(), Claim::Created(_))));
    assert_eq!(repository.key_slots().await.unwrap().len(), 9);
    for number in 0..8 {
        assert!(opens(&memory, &key(number)).await);
    }
    assert_settled(&memory).await;

    // Of two that take the other's slot away, one is too late to do so with a key that still opens.
    let (one, other) = (key(0), key(1));
    for number in 2..8 {
        let slot = repository.key_slot_of(&key(number)).await.unwrap().unwrap();
        repository.remove_key(slot.id, &one).await.unwrap();
    }
    let first = repository.key_slot_of(&master()).await.unwrap().unwrap();
    repository.remove_key(first.id, &one).await.unwrap();
    let ids = [
        repository.key_slot_of(&one).await.unwrap().unwrap().id,
        repository.key_slot_of(&other).await.unwrap().unwrap().id,
    ];
    let (left, right) = tokio::join!(repository.remove_key(ids[1], &one), repository.remove_key(ids[0], &other));
    assert!(left.is_ok() != right.is_ok(), "{left:?} {right:?}");
    assert_eq!(repository.key_slots().await.unwrap().len(), 1);
}

/// Runs a change of keys once for each request of it, the process dying before and after that; then once more to its end.
async fn dies_at_every_request(
    run: impl AsyncFn(&Arc<Memory>) -> Result<(), Error>,
    after_each: impl AsyncFn(&Arc<Memory>),
    in_the_end: impl AsyncFn(&Arc<Memory>),
) {
    let scene = Memory::new();
    let repository = init(&scene).await;
    repository.add_key(&key(1), None).await.unwrap();
    let mut requests = 0;
    for number in 0.. {
        let mut died = false;
        for stop in [Stop::Before(number), Stop::After(number)] {
            let memory = scene.fork().await;
            memory.arm(Some(stop));
            let outcome = run(&memory).await;
            died = memory.stopped();
            assert_eq!(outcome.is_err(), died, "{stop:?}: {outcome:?}");
            memory.arm(None);
            if died {
                requests += 1;
                after_each(&memory).await;
                run(&memory).await.unwrap_or_else(|error| panic!("{stop:?}: {error:?}"));
            }
            in_the_end(&memory).await;
            assert_settled(&memory).await;
        }
        if !died {
            break;
        }
    }
    assert!(requests > 10, "{requests}");
}

#[tokio::test]
async fn invariant_3_a_rotation_that_dies_is_completed_by_the_next() {
    let (old, new) = (master(), key(2));
    dies_at_every_request(
        async |memory| {
            // The old key may have lost its slot before the process died.
            let repository = match open(memory, &old).await {
                Err(Error::WrongKey { .. }) => open(memory, &new).await?,
                opened => opened?,
            };
            repository.rotate_key(&old, &new, Some(&label("new"))).await.map(drop)
        },
        async |memory| assert!(opens(memory, &old).await || opens(memory, &new).await, "nobody can open it"),
        async |memory| {
            assert_eq!([opens(memory, &old).await, opens(memory, &new).await], [false, true]);
            assert_eq!(open(memory, &new).await.unwrap().key_slots().await.unwrap().len(), 2);
        },
    )
    .await;
}

#[tokio::test]
async fn invariant_3_a_slot_that_was_removed_does_not_come_back_through_the_copy() {
    let (gone, stays) = (master(), key(1));
    dies_at_every_request(
        async |memory| {
            let repository = open(memory, &stays).await?;
            let Some(slot) = repository.key_slot_of(&gone).await? else { return repository.settle_identity().await };
            match repository.remove_key(slot.id, &stays).await {
                Ok(_) | Err(Error::NoKeySlot { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        },
        async |memory| assert!(opens(memory, &stays).await),
        async |memory| {
            for lost in [FIRST, COPY] {
                let memory = memory.fork().await;
                memory.remove(lost).await;
                assert_eq!([opens(&memory, &gone).await, opens(&memory, &stays).await], [false, true]);
            }
        },
    )
    .await;
}

#[tokio::test]
async fn one_copy_is_enough_and_brings_the_other_back() {
    let scene = Memory::new();
    init(&scene).await.add_key(&key(1), None).await.unwrap();
    let whole = scene.read(FIRST).await;
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for lost in [FIRST, COPY] {
        for damage in [None, Some(flipped.clone()), Some(whole[..40].to_vec()), Some(Vec::new())] {
            let memory = scene.fork().await;
            match damage {
                None => memory.remove(lost).await,
                Some(bytes) => memory.overwrite(lost, bytes).await,
            }
            let error = Repository::init(memory.store(), &key(7), seams(3)).await.unwrap_err();
            assert!(matches!(error, Error::AlreadyInitialised { .. }), "{error:?}");
            let repository = open(&memory, &key(1)).await.unwrap();
            let report = check(&repository).await;
            assert_eq!(report, [lost], "the damaged object is named");
            repository.settle_identity().await.unwrap();
            assert!(memory.read(FIRST).await == whole && memory.read(COPY).await == whole);
            assert_eq!(check(&repository).await, [""; 0]);
        }
    }
    let memory = scene.fork().await;
    memory.overwrite(FIRST, flipped.clone()).await;
    memory.overwrite(COPY, flipped).await;
    let error = open(&memory, &key(1)).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { object, .. } if object == FIRST), "{error:?}");
    let error = Repository::init(memory.store(), &key(7), seams(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "what is damaged is not overwritten: {error:?}");
}

/// The objects that a check finds damaged.
async fn check(repository: &Repository) -> Vec<String> {
    let cancel = tokio_util::sync::CancellationToken::new();
    let level = varve_repository::check::Level::Structure;
    let report = repository.check(level, Progress::default(), cancel).await.unwrap();
    report.damages.into_iter().map(|damage| damage.object).collect()
}

#[tokio::test]
async fn an_older_state_put_back_is_seen_and_does_not_count() {
    let memory = Memory::new();
    let repository = init(&memory).await;
    repository.add_key(&key(1), None).await.unwrap();
    let older = memory.read(FIRST).await;
    let slot = repository.key_slot_of(&master()).await.unwrap().unwrap();
    repository.remove_key(slot.id, &key(1)).await.unwrap();
    let later = memory.read(FIRST).await;
    for replayed in [FIRST, COPY] {
        memory.overwrite(replayed, older.clone()).await;
        assert_eq!([opens(&memory, &master()).await, opens(&memory, &key(1)).await], [false, true], "{replayed}");
        assert_eq!(check(&repository).await, if replayed == FIRST { vec![FIRST] } else { vec![] });
        repository.settle_identity().await.unwrap();
        assert!(memory.read(FIRST).await == later && memory.read(COPY).await == later);
    }
}

#[tokio::test]
async fn a_repository_without_a_second_copy_gets_one() {
    let memory = Memory::new();
    let repository = init(&memory).await;
    memory.remove(COPY).await;
    repository.add_key(&key(1), None).await.unwrap();
    assert_settled(&memory).await;
}

#[tokio::test]
async fn a_wrong_key_is_told_which_keys_there_are() {
    let memory = Memory::new();
    let repository = init(&memory).await;
    let Claim::Created(slot) = repository.add_key(&key(1), Some(&label("laptop of ops"))).await.unwrap() else {
        panic!("it is new");
    };
    let error = open(&memory, &key(9)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    let text = error.to_string();
    let expected = format!("{} \"laptop of ops\"", slot.id);
    for part in ["none of its 2 key slots", expected.as_str(), "without the key of one of them nothing"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    for text in ["", "two\nlines", &"x".repeat(65)] {
        assert!(text.parse::<Label>().is_err(), "{text:?}");
    }
}

/// Everything that somebody could look for who has the bucket and a guess.
fn needles(block: &[u8], names: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut needles: Vec<(String, Vec<u8>)> = Vec::new();
    for name in names {
        needles.push((format!("name {name}"), name.as_bytes().to_vec()));
        for (kind, hash) in hashes(name.as_bytes()) {
            needles.push((format!("{kind} of name {name}"), hash));
        }
    }
    let parts = [block, &block[..BLOCK], &block[BLOCK..2 * BLOCK]];
    for part in parts {
        for (kind, hash) in hashes(part) {
            needles.push((format!("{kind} of {} bytes", part.len()), hash));
        }
    }
    for (at, text) in block.chunks(64).enumerate() {
        needles.push((format!("plain bytes from {}", at * 64), text[..24].to_vec()));
    }
    for level in [1, 3, 19] {
        let frame = zstd::bulk::compress(block, level).unwrap();
        needles.push((format!("zstd frame of level {level}"), frame[8..32].to_vec()));
    }
    // As text, too.
    let hexadecimal = needles.iter().filter(|(_, bytes)| bytes.len() >= 16);
    let hexadecimal: Vec<_> = hexadecimal
        .map(|(what, bytes)| (format!("{what}, as digits"), hex::encode(&bytes[..16]).into_bytes()))
        .collect();
    needles.extend(hexadecimal);
    needles
}

/// Unkeyed hashes of some bytes: the first sixteen bytes of each, as ids have them.
fn hashes(bytes: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let sha = |algorithm| aws_lc_rs::digest::digest(algorithm, bytes).as_ref()[..16].to_vec();
    [
        ("BLAKE3", blake3::hash(bytes).as_bytes()[..16].to_vec()),
        ("SHA-256", sha(&aws_lc_rs::digest::SHA256)),
        ("SHA-512", sha(&aws_lc_rs::digest::SHA512)),
    ]
}

/// Where one of the needles is found, all looked for at once by their first bytes.
fn find(haystack: &[u8], needles: &[(String, Vec<u8>)]) -> Option<String> {
    let begins: HashSet<&[u8]> = needles.iter().map(|(_, needle)| &needle[..4]).collect();
    haystack.windows(4).enumerate().filter(|(_, window)| begins.contains(window)).find_map(|(at, _)| {
        let found = needles.iter().find(|(_, needle)| haystack[at..].starts_with(needle));
        found.map(|(what, _)| format!("{what} at {at}"))
    })
}

/// Snapshots a volume that holds a block which everybody knows; returns the store.
async fn known_content(seed: u64, image: &Image) -> Arc<Memory> {
    let memory = Memory::new();
    let repository = Repository::init(memory.store(), &key(seed), seams(seed)).await.unwrap();
    let mut image = image.clone();
    let first = offload(&repository, "snapshot-name", &image.cut(), Against::Nothing).await.unwrap();
    image.write_noise(50, 3, &Seeded::new(5));
    offload(&repository, "second-name", &image.cut(), image::base(&first)).await.unwrap();
    repository.delete_snapshot(id(&first), "reason-of-deletion").await.unwrap();
    memory
}

#[tokio::test]
async fn invariant_7_without_a_key_nothing_is_to_be_seen() {
    let names = ["snapshot-name", "second-name", "reason-of-deletion", "volume", "node"];
    let mut image = Image::new(96);
    image.write_text(0, 32, &Seeded::new(3));
    image.write_noise(32, 32, &Seeded::new(4));
    let known = image.bytes[..32 * BLOCK].to_vec();
    let needles = needles(&known, &names);
    // The search finds what there is to find.
    for (what, needle) in &needles {
        let haystack = [b"before".as_slice(), needle, b"after"].concat();
        assert!(find(&haystack, &needles).is_some(), "{what}");
    }

    let one = known_content(1, &image).await;
    let other = known_content(2, &image).await;
    let mut seen = 0;
    for (key, bytes) in one.objects().await {
        assert_eq!(find(&bytes, &needles), None, "in {key}");
        assert_eq!(find(key.as_bytes(), &needles), None, "{key} itself");
        // The frame's magic number; chance would have it in one of 300 of such tests.
        assert!(key == "reserve" || !bytes.windows(4).any(|window| window == 0xFD2F_B528_u32.to_le_bytes()), "{key}");
        seen += bytes.len();
    }
    assert!(seen > 32 * BLOCK, "{seen}");

    // The same content, names and ids of another repository: nothing that would show it is shared.
    let (one, other) = (one.objects().await, other.objects().await);
    let own = |(key, _): &&(String, Vec<u8>)| key.contains('/');
    let keys: HashSet<_> = one.iter().filter(own).map(|(key, _)| key).collect();
    assert!(keys.len() > 5, "{keys:?}");
    assert!(!other.iter().filter(own).any(|(key, _)| keys.contains(key)), "an id is shared");
    let windows: HashSet<&[u8]> = one.iter().filter(own).flat_map(|(_, bytes)| bytes[16..].windows(16)).collect();
    for (key, bytes) in other.iter().filter(own) {
        let shared = bytes[16..].windows(16).position(|window| windows.contains(window));
        assert_eq!(shared, None, "{key} shares bytes with the other repository");
    }
}

#[tokio::test]
async fn invariant_7_nothing_that_holds_a_key_shows_it() {
    let memory = Memory::new();
    let repository = init(&memory).await;
    let secret = key(1);
    repository.add_key(&secret, None).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    secret.write_new(&file).unwrap();
    let digits = std::fs::read_to_string(&file).unwrap().trim_end().to_owned();
    let listed = hex::decode(&digits).unwrap().iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    std::fs::write(&file, format!("{digits}0")).unwrap();
    let slot = repository.key_slot_of(&secret).await.unwrap().unwrap();
    let state = repository.snapshot(repository.snapshot_id("none", 0)).await.unwrap();
    assert_eq!(state, SnapshotState::Absent);
    let shown = [
        format!("{secret:?} {repository:?} {slot:?} {:?}", repository.store()),
        format!("{:?}", MasterKey::from_file(&file).unwrap_err()),
        MasterKey::from_file(&file).unwrap_err().to_string(),
        format!("{:?}", secret.write_new(&file).unwrap_err()),
        format!("{:?}", repository.remove_key(slot.id, &secret).await.unwrap_err()),
        format!("{:?}", repository.rotate_key(&secret, &secret, None).await.unwrap_err()),
        format!("{:?}", open(&memory, &key(9)).await.unwrap_err()),
    ];
    for text in shown {
        assert!(!text.is_empty() && !text.contains(&digits[..16]) && !text.contains(&listed[..20]), "{text}");
    }
}
