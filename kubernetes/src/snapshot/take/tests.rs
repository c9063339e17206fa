//! What is made, how long it is waited for, and what goes.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::testing::{Server, claim, class, ready, snapshot};

const SNAPSHOTS: &str = "volumesnapshots";

fn now() -> Timestamp {
    "2026-11-22T01:48:50Z".parse().unwrap()
}

fn order<'a>(name: Option<&'a str>, series: Option<&'a str>) -> Order<'a> {
    Order { namespace: "mesh", claim: "data", name, class: "varve", series, now: now() }
}

async fn server() -> Server {
    let server = Server::start().await;
    server.put("persistentvolumeclaims", claim("mesh", "data"));
    server.put("volumesnapshotclasses", class("varve", "csi.varve.io", "bucket"));
    server
}

#[test]
fn a_name_says_the_claim_and_the_second() {
    assert_eq!(name("data", now(), 0), "data-20261122-014850");
    assert_eq!(name("data", now(), 2), "data-20261122-014850-3");
    let long = name(&format!("{}.{}", "d".repeat(236), "e".repeat(16)), now(), 0);
    assert_eq!(long, format!("{}-20261122-014850", "d".repeat(236)), "no name ends a part with a dot");
    assert!(name(&"d".repeat(253), now(), 9).len() <= LONGEST_NAME);
}

#[test]
fn errors_pass_or_last() {
    for (message, outlook) in [
        ("rpc error: code = Unavailable desc = the store does not answer", Outlook::Passing),
        ("failed to take snapshot: \"rpc error: code = Aborted desc = busy\"", Outlook::Passing),
        ("Operation cannot be fulfilled: the object has been modified; please apply your changes", Outlook::Passing),
        ("rpc error: code = FailedPrecondition desc = cannot be offloaded", Outlook::Lasting),
        ("rpc error: code = InvalidArgument desc = unknown key", Outlook::Lasting),
        ("rpc error: code = Internal desc = something", Outlook::Unclear),
        ("volumesnapshotclass \"gold\" not found", Outlook::Unclear),
        ("", Outlook::Unclear),
    ] {
        assert_eq!(Outlook::of(message), outlook, "{message}");
    }
}

/// Members of a series by their minute; those that are not ready have a `!`.
fn series(members: &[&str]) -> Vec<Member> {
    let member = |text: &&str| Member {
        name: (*text).to_owned(),
        uid: None,
        asked_at: Some(format!("2026-11-22T01:{:0>2}:00Z", text.trim_matches('!')).parse().unwrap()),
        ready: !text.ends_with('!'),
    };
    members.iter().map(member).collect()
}

#[test]
fn what_is_older_than_the_newest_ready_ones_goes() {
    for (members, newest, keep, expected) in [
        (&["1", "2", "3"][..], "3", 3, &[][..]),
        (&["1", "2", "3"], "3", 2, &["1"]),
        (&["3", "1", "2"], "3", 1, &["2", "1"]),
        // The new one is not ready, or is not there: none goes.
        (&["1", "2", "3!"], "3!", 1, &[]),
        (&["1", "2"], "3", 1, &[]),
        // One that is not ready does not count, and goes once it is older than all that stay.
        (&["1", "2!", "3", "4"], "4", 2, &["2!", "1"]),
        (&["1!", "2", "3!", "4"], "4", 2, &["1!"]),
        (&["1!", "2!", "4"], "4", 2, &[]),
        // The new one is the newest, whatever the clock says.
        (&["5", "4", "3"], "3", 1, &["5", "4"]),
    ] {
        let gone = superseded(series(members), newest, NonZeroUsize::new(keep).unwrap());
        let gone: Vec<_> = gone.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(gone, expected, "{members:?} {newest} {keep}");
    }
}

#[tokio::test]
async fn a_snapshot_is_asked_for_by_a_name_that_is_free() {
    let server = server().await;
    let cluster = server.cluster("mesh");
    for expected in ["data-20261122-014850", "data-20261122-014850-2"] {
        assert_eq!(cluster.take(&order(None, None)).await.unwrap().name_any(), expected);
    }
    let made = server.object(SNAPSHOTS, "mesh", "data-20261122-014850").unwrap();
    let expected = json!({ "volumeSnapshotClassName": "varve", "source": { "persistentVolumeClaimName": "data" } });
    assert_eq!(made["spec"], expected);
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("VolumeSnapshot"), &json!("snapshot.storage.k8s.io/v1")));
    assert_eq!(made["metadata"]["labels"], json!({ "app.kubernetes.io/managed-by": "kubectl-varve" }), "no series");

    cluster.take(&order(Some("monday"), Some("nightly"))).await.unwrap();
    let made = server.object(SNAPSHOTS, "mesh", "monday").unwrap();
    assert_eq!(made["metadata"]["labels"]["varve.io/series"], "nightly");
    let error = cluster.take(&order(Some("monday"), None)).await.unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("--name"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_snapshotted_is_refused_before_anything_is_made() {
    let server = server().await;
    server.put("volumesnapshotclasses", class("other", "csi.example.com", "bucket"));
    let mut pending = claim("mesh", "new");
    pending["status"]["phase"] = json!("Pending");
    server.put("persistentvolumeclaims", pending);
    let cluster = server.cluster("mesh");
    for (claim, class, parts) in [
        ("none", "varve", ["\"none\"", "kubectl get pvc"]),
        ("new", "varve", ["Pending", "first pod"]),
        ("data", "gold", ["\"gold\"", "varve"]),
        ("data", "other", ["csi.example.com", "csi.varve.io"]),
    ] {
        let error = cluster.take(&Order { claim, class, ..order(None, None) }).await.unwrap_err();
        assert!(
            matches!(error, Error::Unfit(_)) && parts.iter().all(|part| error.to_string().contains(part)),
            "{error}"
        );
    }
    assert_eq!(server.written(), Vec::<String>::new());
    // Who may not read classes is not kept from asking.
    server.forbid("volumesnapshotclasses");
    cluster.take(&Order { class: "gold", ..order(None, None) }).await.unwrap();
}

/// Changes a snapshot that is waited for, each time when the change before was heard of, and returns what came of the wait.
async fn wait(server: &Server, changes: &[Value]) -> (Result<VolumeSnapshot, Error>, Vec<String>) {
    server.put(SNAPSHOTS, snapshot("mesh", "monday", "data"));
    let cluster = server.cluster("mesh");
    let (told, mut heard) = mpsc::unbounded_channel();
    let patience = Duration::from_secs(60);
    let waiting = cluster.wait_until_ready("mesh", "monday", patience, move |text| told.send(text.to_owned()).unwrap());
    let changing = async {
        let mut news = Vec::new();
        for change in changes {
            server.change(SNAPSHOTS, "mesh", "monday", change);
            // Nothing is heard any more when the wait has ended.
            news.extend(heard.recv().await);
        }
        news
    };
    tokio::join!(waiting, changing)
}

fn error(message: &str) -> Value {
    json!({ "status": { "readyToUse": false, "error": { "message": message } } })
}

#[tokio::test]
async fn a_wait_ends_with_a_snapshot_that_is_ready() {
    let passing = error("rpc error: code = Unavailable desc = the store does not answer");
    let (ended, news) = wait(&server().await, &[passing, error("the moon is full"), ready()]).await;
    assert!(ended.unwrap().is_ready());
    assert!(news[0].contains("the store does not answer"), "{news:?}");
}

#[tokio::test]
async fn a_wait_ends_with_what_a_person_has_to_put_right() {
    let server = server().await;
    server.put(
        "events",
        json!({ "apiVersion": "v1", "kind": "Event", "metadata": { "namespace": "mesh", "name": "1" },
        "involvedObject": { "kind": "VolumeSnapshot", "name": "monday" }, "message": "the sidecar gave up" }),
    );
    let lasting = error("rpc error: code = FailedPrecondition desc = the key is wrong");
    let (ended, _) = wait(&server, &[lasting]).await;
    let error = ended.unwrap_err();
    for part in ["monday", "mesh", "the key is wrong", "the sidecar gave up", "until it is deleted"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(!error.is_usage());
}

#[tokio::test]
async fn a_wait_ends_when_the_snapshot_goes() {
    let server = server().await;
    server.put(SNAPSHOTS, snapshot("mesh", "monday", "data"));
    let cluster = server.cluster("mesh");
    let waiting = cluster.wait_until_ready("mesh", "monday", Duration::from_secs(60), |_| {});
    let (ended, ()) = tokio::join!(waiting, async { server.remove(SNAPSHOTS, "mesh", "monday") });
    assert!(ended.unwrap_err().to_string().contains("is gone"));
    server.forbid(SNAPSHOTS);
    let error = cluster.wait_until_ready("mesh", "monday", Duration::from_secs(60), |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("forbidden"), "{error}");
}

#[tokio::test]
async fn a_wait_has_an_end() {
    let server = server().await;
    server.put(SNAPSHOTS, snapshot("mesh", "monday", "data"));
    let cluster = server.cluster("mesh");
    let patience = Duration::from_millis(50);
    let error = cluster.wait_until_ready("mesh", "monday", patience, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("not ready after 50ms"), "{error}");
    // An error that is there then is the reason.
    server.change(SNAPSHOTS, "mesh", "monday", &self::error("the moon is full"));
    let error = cluster.wait_until_ready("mesh", "monday", patience, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("the moon is full"), "{error}");
}

#[tokio::test]
async fn of_a_series_the_newest_stay_and_what_is_not_of_it_is_not_touched() {
    let server = server().await;
    let cluster = server.cluster("mesh");
    let put = |name: &str, claim: &str, series: Option<&str>, minute: u32| {
        let mut object = snapshot("mesh", name, claim);
        object["metadata"]["creationTimestamp"] = json!(format!("2026-11-22T01:{minute:02}:00Z"));
        object["status"] = ready()["status"].clone();
        if let Some(series) = series {
            let labels = json!({ "app.kubernetes.io/managed-by": "kubectl-varve", "varve.io/series": series });
            object["metadata"]["labels"] = labels;
        }
        server.put(SNAPSHOTS, object);
    };
    put("by-hand", "data", None, 1);
    put("of-another-claim", "log", Some("nightly"), 2);
    put("hourly", "data", Some("hourly"), 3);
    for (name, minute) in [("first", 4), ("second", 5), ("third", 6)] {
        put(name, "data", Some("nightly"), minute);
    }
    let keep = NonZeroUsize::new(2).unwrap();
    let gone = cluster.prune(&order(None, Some("nightly")), "third", keep).await.unwrap();
    assert_eq!(gone, ["first"]);
    let left = ["by-hand", "hourly", "of-another-claim", "second", "third"].map(|name| format!("mesh/{name}"));
    assert_eq!(server.names(SNAPSHOTS), left);
    // Without a series none goes, and none where the new one is not ready.
    assert_eq!(cluster.prune(&order(None, None), "third", keep).await.unwrap(), Vec::<String>::new());
    server.change(SNAPSHOTS, "mesh", "third", &json!({ "status": { "readyToUse": false } }));
    let one = NonZeroUsize::MIN;
    assert_eq!(cluster.prune(&order(None, Some("nightly")), "third", one).await.unwrap(), Vec::<String>::new());
    assert_eq!(server.names(SNAPSHOTS).len(), 5);
}
