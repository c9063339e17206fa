//! Repositories as their users see them, on a local folder and on a real S3 server.

mod gateway;

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, sync::Arc};

use gateway::Gateway;
use jiff::Timestamp;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use uuid::Uuid;
use varve_repository::{
    Claim, Deletion, Error, ErrorKind, Repository, SnapshotState,
    crypto::MasterKey,
    record::volume::{OffloadParameters, Presentation, VolumeRecord},
    seam::{Seams, System},
    store::Store,
};

fn record(repository: &Repository, name: &str) -> VolumeRecord {
    VolumeRecord {
        id: repository.volume_id(name),
        name: name.into(),
        incarnation: Uuid::new_v4(),
        capacity_bytes: 1 << 30,
        presentation: Presentation::Xfs,
        home_node: "node-1".into(),
        source: None,
        offload: OffloadParameters { compression: Some(3), bandwidth: None, ..OffloadParameters::default() },
        parameters: BTreeMap::from([("class".to_owned(), "fast".to_owned())]),
        created_at: Timestamp::UNIX_EPOCH,
        complete: false,
        published: None,
    }
}

/// What holds on every store; `open` opens the same place anew.
async fn suite(open: impl Fn() -> Store) {
    let master = MasterKey::generate(&System);
    let error = Repository::open(open(), &master, Seams::system()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");

    // Of repositories that are made at once, one is, and every maker that settles for it gets that one.
    let makers = (0..8).map(|_| {
        let (store, master) = (open(), master.clone());
        tokio::spawn(async move { Repository::open_or_init(store, &master, Seams::system()).await.unwrap() })
    });
    let repositories = futures::future::try_join_all(makers).await.unwrap();
    let repository = &repositories[0];
    assert!(repositories.iter().all(|other| other.uuid() == repository.uuid()));
    match Repository::init(open(), &master, Seams::system()).await {
        Err(Error::AlreadyInitialised { uuid, .. }) => assert_eq!(uuid, repository.uuid()),
        other => panic!("{other:?}"),
    }

    let other_key = MasterKey::generate(&System);
    for error in [
        Repository::open(open(), &other_key, Seams::system()).await.unwrap_err(),
        Repository::open_or_init(open(), &other_key, Seams::system()).await.unwrap_err(),
    ] {
        assert!(matches!(&error, Error::WrongKey { slots } if slots.len() == 1), "{error:?}");
    }

    // Of claims on one name from handles that know nothing of each other, one wins, and all see whose it is.
    let claims = repositories.iter().map(|repository| {
        let repository = repository.clone();
        tokio::spawn(async move {
            let record = record(&repository, "pvc-1");
            (record.clone(), repository.claim_volume(record).await.unwrap())
        })
    });
    let claims = futures::future::try_join_all(claims).await.unwrap();
    let winners: Vec<_> = claims.iter().filter(|(_, claim)| matches!(claim, Claim::Created(_))).collect();
    assert_eq!(winners.len(), 1);
    let winner = &winners[0].0;
    let losers = claims.iter().filter(|(_, claim)| *claim == Claim::AlreadyPresent(winner.clone()));
    assert_eq!(losers.count(), claims.len() - 1);

    let reopened = Repository::open(open(), &master, Seams::system()).await.unwrap();
    assert_eq!(reopened.uuid(), repository.uuid());
    assert_eq!(reopened.volume_id("pvc-1"), repository.volume_id("pvc-1"));
    assert_eq!(reopened.volumes().await.unwrap(), std::slice::from_ref(winner));

    // Of updates from one version, one wins.
    let versions = [(); 4].map(|()| reopened.volume(winner.id));
    let versions = futures::future::try_join_all(versions).await.unwrap();
    let updates = versions.into_iter().enumerate().map(|(number, version)| {
        let grown = VolumeRecord { capacity_bytes: (2 + number as u64) << 30, ..winner.clone() };
        reopened.update_volume(version.unwrap(), grown)
    });
    let outcomes = futures::future::join_all(updates).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(Error::Conflict { .. }))));

    let (id, found) = reopened.current_snapshot("nightly").await.unwrap();
    assert_eq!((id, found), (reopened.snapshot_id("nightly", 0), None));
    assert_eq!(reopened.delete_snapshot(id, "never wanted").await.unwrap(), Deletion::Cancelled);
    assert_eq!(repository.delete_snapshot(id, "again").await.unwrap(), Deletion::AlreadyGone);
    match repository.snapshot(id).await.unwrap() {
        SnapshotState::Gone(tombstone) => assert_eq!(tombstone.reason, "never wanted"),
        other => panic!("{other:?}"),
    }
    assert_eq!(reopened.current_snapshot("nightly").await.unwrap().0, reopened.snapshot_id("nightly", 1));

    reopened.remove_volume(winner.id).await.unwrap();
    assert_eq!(repository.volumes().await.unwrap(), []);
    let stats = repository.stats().await.unwrap();
    assert_eq!((stats.volumes, stats.snapshots, stats.tombstones, stats.packs), (0, 0, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_a_folder() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("backups/one");
    let url = format!("file://{}", folder.display());
    suite(|| Store::open(&url, &[]).unwrap()).await;
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_s3() {
    let gateway = Gateway::start();
    suite(|| Store::open(&gateway.url("cluster/one"), &gateway.options()).unwrap()).await;
}

#[tokio::test]
async fn opening_where_nothing_is_makes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("backups");
    let url = format!("file://{}", folder.display());
    let open = async || {
        let store = Store::open(&url, &[]).unwrap();
        Repository::open(store, &MasterKey::generate(&System), Seams::system()).await.unwrap_err()
    };
    assert!(matches!(open().await, Error::NoRepository { url: found } if found == url));
    assert!(!folder.exists());
    std::fs::create_dir(&folder).unwrap();
    assert!(matches!(open().await, Error::NoRepository { .. }));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[tokio::test]
async fn a_wrong_secret_and_a_wrong_bucket_are_told_apart() {
    let gateway = Gateway::start();
    let master = MasterKey::generate(&System);
    let wrong = Store::open(&gateway.url("x"), &Gateway::options_at(gateway.address(), "wrong")).unwrap();
    for error in [
        Repository::open(wrong.clone(), &master, Seams::system()).await.unwrap_err(),
        Repository::init(wrong, &master, Seams::system()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    }
    let missing = Store::open("s3://nowhere/x", &gateway.options()).unwrap();
    let error = Repository::init(missing, &master, Seams::system()).await.unwrap_err();
    assert!(matches!(&error, Error::Location { reason, .. } if reason.contains("no such bucket")), "{error:?}");
}

#[tokio::test]
async fn a_later_format_and_damage_are_told_from_a_wrong_key() {
    let memory = Arc::new(InMemory::new());
    let store = || Store::new(Arc::clone(&memory) as Arc<dyn ObjectStore>, "memory:///");
    let master = MasterKey::generate(&System);
    Repository::init(store(), &master, Seams::system()).await.unwrap();
    let key = Path::from("repository");
    // With its second copy it would open all the same.
    memory.delete(&Path::from("repository.copy")).await.unwrap();
    let original = memory.get(&key).await.unwrap().bytes().await.unwrap().to_vec();
    let open_with = async |bytes: Vec<u8>| {
        memory.put(&key, bytes.into()).await.unwrap();
        Repository::open(store(), &master, Seams::system()).await.unwrap_err()
    };

    let mut later = original.clone();
    later[6] = 2;
    let error = open_with(later).await;
    assert!(matches!(error, Error::FutureFormat { found: 2, supported: 1, .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    for at in [0, 5, 12, 28, 100, original.len() - 1] {
        let mut damaged = original.clone();
        damaged[at] ^= 1;
        let error = open_with(damaged).await;
        assert!(matches!(&error, Error::Corrupt { object, .. } if object == "repository"), "byte {at}: {error:?}");
    }
    let error = open_with(original[..original.len() / 2].to_vec()).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");

    memory.put(&key, original.into()).await.unwrap();
    Repository::open(store(), &master, Seams::system()).await.unwrap();
}
