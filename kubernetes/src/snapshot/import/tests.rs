//! Names that follow from records, and objects that are made once.

use super::*;
use crate::testing::{Server, ready_pair};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_763_776_130 + second).unwrap()
}

fn named(namespace: &str, name: &str) -> Option<Named> {
    Some(Named { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn recorded(handle: &str, second: i64, snapshot: Option<Named>, claim: Option<Named>) -> Recorded {
    let (taken_at, volume) = (at(second), "pvc-1".to_owned());
    Recorded { handle: handle.to_owned(), taken_at, block: false, snapshot, claim, volume }
}

fn names(plan: &Plan) -> Vec<(String, String)> {
    let name = |import: &Import| {
        let handle = import.content.handle().unwrap().to_owned();
        (handle, format!("{}/{}", import.snapshot.namespace().unwrap(), import.snapshot.name_any()))
    };
    plan.imports.iter().map(name).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(handle, name)| ((*handle).to_owned(), (*name).to_owned())).collect()
}

#[test]
fn names_come_from_the_snapshot_else_from_the_claim_else_from_the_volume() {
    let all = [
        recorded("snap-3", 0, None, None),
        recorded("snap-2", 1, None, named("mesh", "data")),
        recorded("snap-1", 2, named("mesh", "before-upgrade"), named("mesh", "data")),
    ];
    let expected = [("snap-1", "mesh/before-upgrade"), ("snap-2", "mesh/data-20251122-014851")];
    let planned = plan(&all, None);
    assert_eq!(names(&planned), pairs(&expected));
    assert_eq!(planned.homeless, ["snap-3"]);
    // A namespace that is named is that of all.
    let planned = plan(&all, Some("rescue"));
    let expected = [
        ("snap-1", "rescue/before-upgrade"),
        ("snap-2", "rescue/data-20251122-014851"),
        ("snap-3", "rescue/pvc-1-20251122-014850"),
    ];
    assert_eq!((names(&planned), planned.homeless.len()), (pairs(&expected), 0));
}

#[test]
fn of_one_name_the_newest_has_it_whatever_the_order() {
    let one = |digits: &str, second| recorded(&format!("snap-{digits}"), second, named("mesh", "nightly"), None);
    let mut all = [one("0123456789abcdef", 1), one("aaaaaaaaaaaaaaaa", 3), one("bbbbbbbbbbbbbbbb", 2)];
    let expected = [
        ("snap-aaaaaaaaaaaaaaaa", "mesh/nightly"),
        ("snap-bbbbbbbbbbbbbbbb", "mesh/nightly-bbbbbbbb"),
        ("snap-0123456789abcdef", "mesh/nightly-01234567"),
    ];
    assert_eq!(names(&plan(&all, None)), pairs(&expected));
    all.reverse();
    assert_eq!(names(&plan(&all, None)), pairs(&expected));
}

#[test]
fn names_are_such_as_objects_may_have() {
    let of = |volume: &str| {
        let recorded = Recorded { volume: volume.to_owned(), ..recorded("snap-1", 0, None, None) };
        name(&recorded)
    };
    assert_eq!(of("My Volume/ü"), "my-volume-20251122-014850");
    assert_eq!(of("///"), "volume-20251122-014850");
    assert!(of(&"v".repeat(300)).len() <= LONGEST_NAME);
    assert!(distinguished(&"v".repeat(253), "snap-0123456789").len() <= LONGEST_NAME);
}

#[test]
fn objects_say_where_the_data_is_and_never_delete_it() {
    let device = Recorded { block: true, ..recorded("snap-1", 0, named("mesh", "monday"), None) };
    let planned = plan(&[device], None);
    let [Import { content, snapshot }] = planned.imports.as_slice() else { panic!("{planned:?}") };
    let content = serde_json::to_value(content).unwrap();
    let expected = serde_json::json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
        "metadata": { "name": "snap-1-mesh",
            "labels": { "app.kubernetes.io/managed-by": "kubectl-varve", "varve.io/durability": "bucket" } },
        "spec": { "deletionPolicy": "Retain", "driver": "csi.varve.io", "source": { "snapshotHandle": "snap-1" },
            "sourceVolumeMode": "Block", "volumeSnapshotRef": { "apiVersion": "snapshot.storage.k8s.io/v1",
                "kind": "VolumeSnapshot", "namespace": "mesh", "name": "monday" } },
    });
    assert_eq!(content, expected);
    let snapshot = serde_json::to_value(snapshot).unwrap();
    assert_eq!(snapshot["spec"], serde_json::json!({ "source": { "volumeSnapshotContentName": "snap-1-mesh" } }));
}

#[tokio::test]
async fn what_is_imported_twice_is_made_once() {
    let server = Server::start().await;
    let cluster = server.cluster("default");
    // One of them is still known, by its own objects.
    ready_pair(&server, "mesh", "known", "data", "snap-1");
    let all = [
        recorded("snap-1", 0, named("mesh", "known"), None),
        recorded("snap-2", 1, named("mesh", "lost"), None),
        recorded("snap-3", 2, named("mesh", "taken"), None),
    ];
    server.put("volumesnapshots", crate::testing::snapshot("mesh", "taken", "data"));
    let imports = plan(&all, None).imports;
    let done = |outcomes: &[Outcome]| outcomes.iter().map(|one| (one.name.clone(), one.done)).collect::<Vec<_>>();
    let expected = |lost| {
        [("known", Done::Known), ("lost", lost), ("taken", Done::Failed)].map(|(name, done)| (name.to_owned(), done))
    };
    let first = cluster.import(&imports).await.unwrap();
    assert_eq!(done(&first), expected(Done::Made));
    assert!(first[2].reason.as_ref().unwrap().contains("already"), "{first:?}");
    let second = cluster.import(&imports).await.unwrap();
    assert_eq!(done(&second), expected(Done::Known));
    assert_eq!(
        server.names("volumesnapshotcontents"),
        ["/snap-2-mesh", "/snapcontent-known"],
        "nothing is made halfway"
    );
    let expected = ["mesh/known", "mesh/lost", "mesh/taken"];
    assert_eq!(server.names("volumesnapshots"), expected);
}
