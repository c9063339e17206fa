//! Lost and misleading answers at a conditional put, and stores that are unfit.

use super::faulty::{Conditions, Fault, Faulty, Unfit};
use crate::{
    Error, ErrorKind, Result,
    seam::fixed,
    store::{Created, Store},
};

const KEY: &str = "snapshots/a";

async fn create(store: &Store, text: &'static str) -> Result<Created> {
    store.create(KEY, text.into(), |found| found == text.as_bytes()).await
}

async fn standing(store: &Store) -> Option<String> {
    let read = store.get(KEY).await.unwrap();
    read.map(|(bytes, _)| String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn invariant_3_a_creation_is_judged_by_what_is_there() {
    for faults in [
        &[Fault::AppliedUnanswered][..],
        &[Fault::AppliedRefused],
        &[Fault::RefusedUnapplied],
        &[Fault::Unapplied],
        &[Fault::Unapplied, Fault::RefusedUnapplied, Fault::AppliedUnanswered],
        &[Fault::AppliedUnanswered, Fault::Unread],
        &[Fault::Unapplied, Fault::Unread, Fault::RefusedUnapplied, Fault::Unread],
    ] {
        let (faulty, store) = Faulty::store();
        faulty.fail(faults);
        assert_eq!(create(&store, "mine").await.unwrap(), Created::Created, "{faults:?}");
        assert!(faulty.is_spent(), "{faults:?}");
        assert_eq!(standing(&store).await.as_deref(), Some("mine"));
    }
}

#[tokio::test(start_paused = true)]
async fn invariant_3_a_rival_is_seen_through_every_fault() {
    for faults in [&[][..], &[Fault::Unapplied], &[Fault::RefusedUnapplied], &[Fault::Unapplied, Fault::Unread]] {
        let (faulty, store) = Faulty::store();
        create(&store, "theirs").await.unwrap();
        faulty.fail(faults);
        assert_eq!(create(&store, "mine").await.unwrap(), Created::Theirs("theirs".into()), "{faults:?}");
        assert_eq!(standing(&store).await.as_deref(), Some("theirs"));
    }
}

#[tokio::test(start_paused = true)]
async fn faults_without_end_end_as_unavailable() {
    for fault in [Fault::Unapplied, Fault::RefusedUnapplied] {
        let (faulty, store) = Faulty::store();
        faulty.fail(&[fault; 100]);
        let error = create(&store, "mine").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.is_transient());
        assert!(!faulty.is_spent(), "attempts are bounded");
    }
}

#[tokio::test]
async fn a_refusal_of_permission_is_final() {
    let (faulty, store) = Faulty::store();
    faulty.fail(&[Fault::Denied]);
    let error = create(&store, "mine").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(standing(&store).await, None);
}

#[tokio::test(start_paused = true)]
async fn invariant_3_an_update_is_judged_by_what_is_there() {
    for faults in [
        &[Fault::AppliedUnanswered][..],
        &[Fault::AppliedRefused],
        &[Fault::RefusedUnapplied],
        &[Fault::Unapplied],
        &[Fault::Unapplied, Fault::Unread, Fault::AppliedUnanswered, Fault::Unread],
    ] {
        let (faulty, store) = Faulty::store();
        create(&store, "one").await.unwrap();
        let (_, version) = store.get(KEY).await.unwrap().unwrap();
        faulty.fail(faults);
        let updated = store.replace(KEY, "two".into(), &version, |found| found == b"two").await.unwrap();
        assert!(faulty.is_spent(), "{faults:?}");
        assert_eq!(store.get(KEY).await.unwrap().unwrap(), ("two".into(), updated));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rival_update_is_a_conflict_through_every_fault() {
    for faults in [&[][..], &[Fault::Unapplied], &[Fault::RefusedUnapplied], &[Fault::Unapplied, Fault::Unread]] {
        let (faulty, store) = Faulty::store();
        create(&store, "one").await.unwrap();
        let (_, version) = store.get(KEY).await.unwrap().unwrap();
        store.replace(KEY, "two".into(), &version, |_| false).await.unwrap();
        faulty.fail(faults);
        let result = store.replace(KEY, "six".into(), &version, |found| found == b"six").await;
        assert!(matches!(result, Err(Error::Conflict { .. })), "{faults:?}: {result:?}");
        assert_eq!(standing(&store).await.as_deref(), Some("two"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unfit_store_is_refused_with_what_it_lacks() {
    for (conditions, lacks) in [
        (Conditions::Ignored, "create-if-absent is missing: 16 of 16 writers of one object won"),
        (Conditions::Refused, "conditional put"),
        (Conditions::CreateOnly, "conditional update is missing: 16 of 16 updates of one version won"),
    ] {
        let store = Unfit::store(conditions);
        match store.probe(&fixed::seams(1)).await {
            Err(Error::UnfitStore { url, reason }) => {
                assert_eq!(url, "memory:///unfit");
                assert!(reason.contains(lacks), "{reason}");
            }
            other => panic!("{conditions:?}: {other:?}"),
        }
    }
}
