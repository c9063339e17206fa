use std::collections::BTreeMap;

use super::*;
use crate::{
    Error,
    crypto::MasterKey,
    id::{SnapshotId, UploadId, VolumeId},
    record::{
        intent::{Attempt, Intent},
        snapshot::{Method, SnapshotDescription, SnapshotStatistics},
        volume::{OffloadParameters, Presentation, VolumeRecord},
    },
    seam::fixed,
    store::tests::{
        faulty::{Conditions, Fault, Faulty, Unfit},
        memory,
    },
};

fn master() -> MasterKey {
    MasterKey::generate(&*fixed::seams(9).entropy)
}

async fn repository_on(store: Store) -> Repository {
    Repository::init(store, &master(), fixed::seams(1)).await.unwrap()
}

async fn faulty() -> (Arc<Faulty>, Repository) {
    let (faulty, store) = Faulty::store();
    (faulty, repository_on(store).await)
}

fn volume_record(repository: &Repository, name: &str) -> VolumeRecord {
    VolumeRecord {
        id: repository.volume_id(name),
        name: name.into(),
        incarnation: Uuid::from_bytes(repository.seams().random()),
        capacity_bytes: 1 << 30,
        presentation: Presentation::Ext4,
        home_node: "node-1".into(),
        source: None,
        offload: OffloadParameters::default(),
        parameters: BTreeMap::new(),
        created_at: repository.seams().clock.now(),
        complete: false,
        published: None,
    }
}

fn root(repository: &Repository, id: SnapshotId, upload: u8) -> Root {
    Root {
        description: SnapshotDescription {
            id,
            name: "snap".into(),
            volume: VolumeId::from_bytes([1; 16]),
            volume_name: "pvc".into(),
            incarnation: Uuid::from_u128(1),
            capacity_bytes: 1 << 30,
            presentation: Presentation::Ext4,
            created_at: repository.seams().clock.now(),
            node: "node-1".into(),
            group: None,
            frozen: true,
            pause_nanos: 1,
            parameters: BTreeMap::new(),
        },
        upload: UploadId::from_bytes([upload; 8]),
        method: Method::Full,
        base: None,
        runs: Vec::new(),
        pending: Vec::new(),
        repaired_at: None,
        statistics: SnapshotStatistics { stored_bytes: 5, ..SnapshotStatistics::default() },
    }
}

fn attempt(repository: &Repository, upload: u8) -> Attempt {
    Attempt {
        upload: UploadId::from_bytes([upload; 8]),
        node: "node-1".into(),
        pins: Vec::new(),
        started_at: repository.seams().clock.now(),
    }
}

fn volume_id() -> VolumeId {
    VolumeId::from_bytes([1; 16])
}

fn snapshot_id(number: u8) -> SnapshotId {
    SnapshotId::from_bytes([number; 16])
}

/// What may happen to the answer of a put that was to decide something.
const LOST: [&[Fault]; 5] = [
    &[],
    &[Fault::AppliedUnanswered],
    &[Fault::AppliedRefused],
    &[Fault::RefusedUnapplied],
    &[Fault::Unapplied, Fault::AppliedUnanswered],
];

/// More failures than a read is tried again for.
const UNREADABLE: [Fault; 6] = [Fault::Unread; 6];

#[tokio::test]
async fn an_unfit_store_gets_no_repository() {
    for conditions in [Conditions::Ignored, Conditions::Refused] {
        let store = Unfit::store(conditions);
        let error = Repository::init(store.clone(), &master(), fixed::seams(1)).await.unwrap_err();
        assert!(matches!(error, Error::UnfitStore { .. }), "{error:?}");
        assert_eq!(store.get("repository").await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn invariant_5_a_claim_is_its_own_through_lost_answers() {
    for faults in LOST {
        let (faulty, repository) = faulty().await;
        let record = volume_record(&repository, "pvc");
        faulty.fail(faults);
        assert_eq!(
            repository.claim_volume(record.clone()).await.unwrap(),
            Claim::Created(record.clone()),
            "{faults:?}"
        );
        let rival = volume_record(&repository, "pvc");
        assert_ne!(rival.incarnation, record.incarnation);
        assert_eq!(repository.claim_volume(rival).await.unwrap(), Claim::AlreadyPresent(record));
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_is_its_own_through_lost_answers() {
    for faults in LOST {
        let (faulty, repository) = faulty().await;
        let record = volume_record(&repository, "pvc");
        repository.claim_volume(record.clone()).await.unwrap();
        let stale = repository.volume(record.id).await.unwrap().unwrap();
        let grown = VolumeRecord { capacity_bytes: 2 << 30, ..record.clone() };
        faulty.fail(faults);
        let updated = repository.update_volume(stale.clone(), grown.clone()).await.unwrap();
        let again = VolumeRecord { home_node: "node-2".into(), ..grown.clone() };
        repository.update_volume(updated, again.clone()).await.unwrap();
        let error = repository.update_volume(stale, grown).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        assert_eq!(repository.volume(record.id).await.unwrap().unwrap().value, again);
        repository.remove_volume(record.id).await.unwrap();
        repository.remove_volume(record.id).await.unwrap();
        assert!(repository.volume(record.id).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn invariant_3_a_commit_is_its_own_through_lost_answers() {
    for faults in LOST {
        let (faulty, repository) = faulty().await;
        let root = root(&repository, snapshot_id(1), 1);
        faulty.fail(faults);
        repository.commit_root(&root).await.unwrap();
        repository.commit_root(&root).await.unwrap();
        let rival = self::root(&repository, snapshot_id(1), 2);
        let error = repository.commit_root(&rival).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        assert_eq!(repository.snapshot(snapshot_id(1)).await.unwrap(), SnapshotState::Committed(Box::new(root)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_its_own_through_lost_answers() {
    for faults in LOST {
        let (faulty, repository) = faulty().await;
        let root = root(&repository, snapshot_id(1), 1);
        repository.commit_root(&root).await.unwrap();
        faulty.fail(faults);
        let deletion = repository.delete_snapshot(snapshot_id(1), "deleted").await.unwrap();
        assert_eq!(deletion, Deletion::Deleted(Box::new(root)), "{faults:?}");
        let deletion = repository.delete_snapshot(snapshot_id(1), "again").await.unwrap();
        assert_eq!(deletion, Deletion::AlreadyGone);

        faulty.fail(faults);
        let deletion = repository.delete_snapshot(snapshot_id(2), "cancelled").await.unwrap();
        assert_eq!(deletion, Deletion::Cancelled, "{faults:?}");
    }
}

#[tokio::test]
async fn invariant_3_a_writer_that_wakes_late_cannot_commit() {
    let repository = repository_on(memory()).await;
    let root = root(&repository, snapshot_id(1), 1);
    repository.commit_root(&root).await.unwrap();
    repository.delete_snapshot(snapshot_id(1), "deleted").await.unwrap();
    repository.delete_snapshot(snapshot_id(2), "volume removed").await.unwrap();
    for (id, reason) in [(1, "deleted"), (2, "volume removed")] {
        let late = self::root(&repository, snapshot_id(id), 1);
        match repository.commit_root(&late).await {
            Err(Error::Cancelled { snapshot, reason: found }) => {
                assert_eq!((snapshot, found.as_str()), (snapshot_id(id), reason));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(repository.snapshots().await.unwrap(), []);
}

/// A committer and a deleter race: in the end there is a tombstone, and the two agree on what happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_and_deletions_race() {
    let repository = repository_on(memory()).await;
    for number in 0..50 {
        let id = snapshot_id(number);
        let root = root(&repository, id, number);
        let committer = tokio::spawn({
            let (repository, root) = (repository.clone(), root.clone());
            async move { repository.commit_root(&root).await }
        });
        let deleters = [(); 4].map(|()| {
            let repository = repository.clone();
            tokio::spawn(async move { repository.delete_snapshot(id, "raced").await.unwrap() })
        });
        let committed = committer.await.unwrap();
        let mut decisive = Vec::new();
        for deleter in deleters {
            match deleter.await.unwrap() {
                Deletion::AlreadyGone => {}
                deletion => decisive.push(deletion),
            }
        }
        match (committed, decisive.as_slice()) {
            (Ok(()), [Deletion::Deleted(deleted)]) => assert_eq!(**deleted, root),
            (Err(Error::Cancelled { .. }), [Deletion::Cancelled]) => {}
            other => panic!("{other:?}"),
        }
        assert!(matches!(repository.snapshot(id).await.unwrap(), SnapshotState::Gone(_)));
    }
}

#[tokio::test]
async fn a_name_is_used_again_after_each_deletion() {
    let repository = repository_on(memory()).await;
    for generation in 0..20 {
        let (id, found) = repository.current_snapshot("nightly").await.unwrap();
        assert_eq!(id, repository.snapshot_id("nightly", generation));
        assert_eq!(found, None);
        let root = root(&repository, id, 1);
        repository.commit_root(&root).await.unwrap();
        assert_eq!(repository.current_snapshot("nightly").await.unwrap(), (id, Some(Box::new(root))));
        repository.delete_snapshot(id, "deleted").await.unwrap();
    }
    assert_eq!(repository.current_snapshot("other").await.unwrap().0, repository.snapshot_id("other", 0));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_fails_the_search_for_a_name() {
    let (faulty, repository) = faulty().await;
    repository.delete_snapshot(repository.snapshot_id("nightly", 0), "deleted").await.unwrap();
    faulty.fail(&UNREADABLE);
    assert!(repository.current_snapshot("nightly").await.unwrap_err().is_transient());
    assert_eq!(repository.current_snapshot("nightly").await.unwrap().0, repository.snapshot_id("nightly", 1));
}

#[tokio::test(start_paused = true)]
async fn every_root_is_listed_and_read_once() {
    let (faulty, repository) = faulty().await;
    for number in [3, 1, 2] {
        repository.commit_root(&root(&repository, snapshot_id(number), number)).await.unwrap();
    }
    repository.delete_snapshot(snapshot_id(9), "cancelled").await.unwrap();
    let ids = |roots: &[Arc<Root>]| roots.iter().map(|root| root.description.id).collect::<Vec<_>>();
    let first = repository.snapshots().await.unwrap();
    assert_eq!(ids(&first), [snapshot_id(1), snapshot_id(2), snapshot_id(3)]);

    faulty.fail(&UNREADABLE);
    let second = repository.snapshots().await.unwrap();
    assert!(Arc::ptr_eq(&first[0], &second[0]), "a root is kept");
    assert!(!faulty.is_spent(), "nothing was read");
    assert!(repository.snapshot(snapshot_id(1)).await.is_err());

    repository.delete_snapshot(snapshot_id(2), "deleted").await.unwrap();
    assert_eq!(ids(&repository.snapshots().await.unwrap()), [snapshot_id(1), snapshot_id(3)]);
}

#[tokio::test]
async fn invariant_6_a_damaged_or_moved_root_is_named() {
    let repository = repository_on(memory()).await;
    repository.commit_root(&root(&repository, snapshot_id(1), 1)).await.unwrap();
    let key = names::snapshot_key(snapshot_id(1));
    let (bytes, _) = repository.store().get(&key).await.unwrap().unwrap();

    let moved = names::snapshot_key(snapshot_id(2));
    repository.store().put_new(&moved, bytes.clone()).await.unwrap();
    let error = repository.snapshot(snapshot_id(2)).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { object, .. } if *object == moved), "{error:?}");
    let error = repository.snapshots().await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { object, .. } if *object == moved), "{error:?}");
    repository.store().delete(&moved).await.unwrap();

    let mut damaged = bytes.to_vec();
    damaged[40] ^= 1;
    repository.store().delete(&key).await.unwrap();
    repository.store().put_new(&key, damaged.into()).await.unwrap();
    let error = repository.snapshots().await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { object, .. } if *object == key), "{error:?}");

    // Deleting it is the way out.
    assert_eq!(repository.delete_snapshot(snapshot_id(1), "damaged").await.unwrap(), Deletion::Cancelled);
    assert_eq!(repository.delete_snapshot(snapshot_id(1), "damaged").await.unwrap(), Deletion::AlreadyGone);
    assert_eq!(repository.snapshots().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn attempts_stand_beside_one_another_until_the_intent_is_removed() {
    for faults in LOST {
        let (faulty, repository) = faulty().await;
        let (mine, later) = (attempt(&repository, 1), attempt(&repository, 2));
        faulty.fail(faults);
        repository.enter_attempt(snapshot_id(1), volume_id(), &mine).await.unwrap();
        repository.enter_attempt(snapshot_id(1), volume_id(), &mine).await.unwrap();
        faulty.fail(faults);
        repository.enter_attempt(snapshot_id(1), volume_id(), &later).await.unwrap();
        let other = attempt(&repository, 3);
        repository.enter_attempt(snapshot_id(0), volume_id(), &other).await.unwrap();
        let intent = |number, attempts| Intent { snapshot: snapshot_id(number), volume: volume_id(), attempts };
        assert_eq!(repository.intents().await.unwrap(), [intent(0, vec![other]), intent(1, vec![mine, later])]);

        repository.remove_intent(snapshot_id(1)).await.unwrap();
        repository.remove_intent(snapshot_id(1)).await.unwrap();
        assert!(repository.read_intent(snapshot_id(1)).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn objects_with_strange_names_are_passed_over() {
    let repository = repository_on(memory()).await;
    for key in ["snapshots/notes.txt", "volumes/.hidden", "uploads/x", "packs/x"] {
        repository.store().put_new(key, "not ours".into()).await.unwrap();
    }
    assert_eq!(repository.snapshots().await.unwrap(), []);
    assert_eq!(repository.volumes().await.unwrap(), []);
    assert_eq!(repository.intents().await.unwrap(), []);
    assert_eq!(repository.stats().await.unwrap().packs, 0);
}

#[tokio::test]
async fn statistics_count_what_is_there() {
    let repository = repository_on(memory()).await;
    repository.claim_volume(volume_record(&repository, "pvc")).await.unwrap();
    for number in 1..=3 {
        repository.commit_root(&root(&repository, snapshot_id(number), number)).await.unwrap();
    }
    repository.delete_snapshot(snapshot_id(3), "deleted").await.unwrap();
    for undecided_and_decided in [4, 2] {
        let snapshot = snapshot_id(undecided_and_decided);
        repository.enter_attempt(snapshot, volume_id(), &attempt(&repository, 1)).await.unwrap();
    }
    repository.store().put_new(&format!("packs/{}", "0".repeat(32)), vec![0; 100].into()).await.unwrap();
    repository.store().put_new(&format!("relocated/{}", "0".repeat(32)), vec![0; 5].into()).await.unwrap();
    repository.store().put_new(&format!("runs/{}", "0".repeat(32)), vec![0; 10].into()).await.unwrap();
    let stats = repository.stats().await.unwrap();
    assert_eq!(
        stats,
        crate::stats::Stats {
            uuid: repository.uuid(),
            volumes: 1,
            snapshots: 2,
            tombstones: 1,
            uploads: 1,
            packs: 1,
            pack_bytes: 100,
            relocations: 1,
            runs: 1,
            run_bytes: 10,
            logical_bytes: 2 << 30,
            stored_bytes: 10,
        }
    );
}
