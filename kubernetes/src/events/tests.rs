//! Against an API server that is played: which objects are found, and what is written of them. What the real one makes of it
//! is looked at where there is one, in the cluster tests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use varve_proto::agent::activity::{Kind, State};

use super::*;
use crate::testing;

const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data";
const VOLUME: &str = "/api/v1/persistentvolumes/pvc-c1";
const CONTENTS: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";
const EVENTS: &str = "/api/v1/namespaces/shop/events";

/// What the server has, and what it was asked for.
#[derive(Debug, Default)]
struct World {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    asked: Vec<String>,
    /// What every request is answered with, where there is one.
    refuses: Option<StatusCode>,
}

struct Server {
    world: Arc<Mutex<World>>,
    url: String,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let shared = Arc::clone(&world);
        let (url, tasks) = testing::serve(move |request| {
            let world = Arc::clone(&shared);
            async move { answer(&world, request).await }
        })
        .await;
        Self { world, url, _tasks: tasks }
    }

    /// With a claim, its volume and its snapshot.
    async fn furnished() -> Self {
        let server = Self::start().await;
        server.put(CLAIM, json!({ "kind": "PersistentVolumeClaim", "metadata": { "uid": "c1" }, "spec": {} }));
        let claim = json!({ "kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data", "uid": "c1" });
        server.put(
            VOLUME,
            json!({ "kind": "PersistentVolume", "metadata": {},
            "spec": { "csi": { "driver": "csi.varve.io", "volumeHandle": "vol-1" }, "claimRef": claim } }),
        );
        server.put(&format!("{CONTENTS}/snapcontent-s1"), content("monday", "s1", "snap-1"));
        server
    }

    fn teller(&self) -> Teller {
        Teller::new(testing::client(&self.url))
    }

    fn put(&self, path: &str, object: Value) {
        self.world().objects.insert(path.to_owned(), object);
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// What users see: of which object, type, reason and count, in the order of reasons.
    fn events(&self) -> Vec<(String, String, String, u64)> {
        let world = self.world();
        let of = world.objects.iter().filter(|(path, _)| path.starts_with(EVENTS)).map(|(_, event)| event);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut events: Vec<_> = of
            .map(|event| {
                let object = &event["involvedObject"];
                let about = format!("{}/{} {}", text(&object["kind"]), text(&object["name"]), text(&object["uid"]));
                (about, text(&event["type"]), text(&event["reason"]), event["count"].as_u64().unwrap())
            })
            .collect();
        events.sort_by(|one, other| one.2.cmp(&other.2));
        events
    }

    fn message(&self, reason: &str) -> String {
        let world = self.world();
        let event = world.objects.values().find(|event| event["reason"] == reason).unwrap();
        event["message"].as_str().unwrap().to_owned()
    }

    fn condition(&self) -> Value {
        self.world().objects[CLAIM]["status"]["conditions"].clone()
    }

    /// The requests since the last look, each as method and path.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.world().asked)
    }
}

fn content(snapshot: &str, uid: &str, handle: &str) -> Value {
    json!({ "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
        "metadata": { "name": format!("snapcontent-{uid}") },
        "spec": { "driver": "csi.varve.io", "source": { "volumeHandle": "vol-1" },
            "volumeSnapshotRef": { "kind": "VolumeSnapshot", "namespace": "shop", "name": snapshot, "uid": uid } },
        "status": { "snapshotHandle": handle } })
}

async fn answer(world: &Mutex<World>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    let mut world = world.lock().unwrap();
    let path = head.uri.path().to_owned();
    world.asked.push(format!("{} {path}", head.method));
    if let Some(code) = world.refuses {
        return refuse(code, "Refused");
    }
    world.version += 1;
    let version = json!(world.version.to_string());
    match head.method {
        Method::POST => {
            let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
            if world.objects.contains_key(&path) {
                return refuse(StatusCode::CONFLICT, "AlreadyExists");
            }
            let mut object = body;
            object["metadata"]["resourceVersion"] = version;
            world.objects.insert(path, object.clone());
            respond(StatusCode::CREATED, &object)
        }
        Method::PATCH if head.headers["content-type"] == "application/apply-patch+yaml" => {
            let query = head.uri.query().unwrap_or_default();
            assert!(query.contains("force=true") && query.contains("fieldManager=varve-controller-"), "{query}");
            let path = path.strip_suffix("/status").expect("only the status is applied").to_owned();
            let Some(object) = world.objects.get_mut(&path) else { return refuse(StatusCode::NOT_FOUND, "NotFound") };
            assert_eq!(object["metadata"]["uid"], body["metadata"]["uid"]);
            // As a list that is a map by type: other types stay as they are.
            let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let applied = &body["status"]["conditions"][0];
            conditions.retain(|condition| condition["type"] != applied["type"]);
            conditions.push(applied.clone());
            object["status"]["conditions"] = json!(conditions);
            respond(StatusCode::OK, object)
        }
        Method::PATCH => {
            let Some(object) = world.objects.get_mut(&path) else { return refuse(StatusCode::NOT_FOUND, "NotFound") };
            if body["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                return refuse(StatusCode::CONFLICT, "Conflict");
            }
            for (field, value) in body.as_object().unwrap().iter().filter(|(field, _)| *field != "metadata") {
                object[field] = value.clone();
            }
            object["metadata"]["resourceVersion"] = version;
            respond(StatusCode::OK, object)
        }
        Method::GET => match world.objects.get(&path) {
            Some(object) => respond(StatusCode::OK, object),
            None if path == CONTENTS || path == "/api/v1/persistentvolumes" => {
                let below = |found: &&String| found.starts_with(&format!("{path}/"));
                let items: Vec<&Value> = world.objects.keys().filter(below).map(|key| &world.objects[key]).collect();
                respond(StatusCode::OK, &json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }))
            }
            None => refuse(StatusCode::NOT_FOUND, "NotFound"),
        },
        method => panic!("nobody asks for {method} {path}"),
    }
}

fn refuse(code: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    respond(
        code,
        &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
            "reason": reason, "code": code.as_u16() }),
    )
}

fn respond(code: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = code;
    response
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn offload(state: State) -> Activity {
    Activity {
        kind: Kind::Offload.into(),
        state: state.into(),
        volume_id: "vol-1".into(),
        volume_name: "pvc-c1".into(),
        snapshot_id: "snap-1".into(),
        snapshot_name: "snapshot-s1".into(),
        message: "the store refuses".into(),
        ..Activity::default()
    }
}

/// Of a claim whose volume is not there yet, as it is while a claim is made from a snapshot.
fn hydration(state: State, percent: u64) -> Activity {
    let claim = [("csi.storage.k8s.io/pvc/namespace", "shop"), ("csi.storage.k8s.io/pvc/name", "data")];
    Activity {
        kind: Kind::Hydration.into(),
        parameters: claim.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        total_bytes: 100,
        done_bytes: percent,
        ..offload(state)
    }
}

fn event(about: &str, kind: &str, reason: &str, count: u64) -> (String, String, String, u64) {
    (about.to_owned(), kind.to_owned(), reason.to_owned(), count)
}

#[tokio::test]
async fn nothing_under_way_asks_nothing_of_the_api() {
    let server = Server::furnished().await;
    server.teller().tell(&[], at(0)).await;
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn two_controllers_tell_things_once() {
    let server = Server::furnished().await;
    let (mut one, mut other) = (server.teller(), server.teller());
    for (seconds, state) in [(0, State::Running), (5, State::Delayed), (10, State::Done)] {
        one.tell(&[offload(state)], at(seconds)).await;
        other.tell(&[offload(state)], at(seconds + 1)).await;
    }
    let about = "VolumeSnapshot/monday s1";
    let expected = [
        event(about, "Normal", "BackedUp", 1),
        event(about, "Warning", "BackupDelayed", 1),
        event(about, "Normal", "BackupStarted", 1),
    ];
    assert_eq!(server.events(), expected);
    // One that starts anew and remembers nothing tells nothing again.
    server.teller().tell(&[offload(State::Done)], at(15)).await;
    assert_eq!(server.events(), expected);
    assert!(server.message("BackupDelayed").starts_with("the store refuses; it is tried again"));
}

#[tokio::test]
async fn what_lasts_is_counted_up_by_whoever_comes_first() {
    let server = Server::furnished().await;
    let (mut one, mut other) = (server.teller(), server.teller());
    for round in 0..4 {
        for (teller, late) in [(&mut one, 0), (&mut other, 100)] {
            let told = Activity { message: format!("round {round}"), ..offload(State::Delayed) };
            teller.tell(&[told], at(round * 900 + late)).await;
        }
    }
    assert_eq!(server.events(), [event("VolumeSnapshot/monday s1", "Warning", "BackupDelayed", 4)]);
    assert!(server.message("BackupDelayed").starts_with("round 3"), "it says what is the matter now");
    let path = server.world().objects.keys().find(|path| path.starts_with(EVENTS)).cloned().unwrap();
    let event = server.world().objects[&path].clone();
    assert_eq!(event["firstTimestamp"], json!(at(0).to_string()));
    assert_eq!(event["lastTimestamp"], json!(at(2700).to_string()));
    assert_eq!(
        (&event["source"]["component"], &event["metadata"]["namespace"]),
        (&json!("varve-controller"), &json!("shop"))
    );
}

#[tokio::test]
async fn a_claim_that_has_no_volume_yet_is_told_how_far_it_is_and_that_it_is_done() {
    let server = Server::furnished().await;
    server.world().objects.remove(VOLUME);
    let foreign = json!([{ "type": "Resizing", "status": "True" }]);
    server.world().objects.get_mut(CLAIM).unwrap()["status"]["conditions"] = foreign.clone();
    let mut teller = server.teller();
    teller.tell(&[hydration(State::Running, 0)], at(0)).await;
    teller.tell(&[hydration(State::Running, 42)], at(10)).await;
    assert_eq!(server.message("HydrationProgress"), "42 % restored: 42 bytes of 100 bytes");
    let conditions = server.condition();
    assert_eq!(conditions[0], foreign[0], "nobody else's is touched");
    let condition = &conditions[1];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("csi.varve.io/Hydrating"), &json!("True")));
    assert_eq!(condition["message"], "42 % restored: 42 bytes of 100 bytes");
    assert_eq!(condition["lastTransitionTime"], json!(at(0).to_string()), "since when it holds");

    teller.tell(&[hydration(State::Done, 100)], at(20)).await;
    let about = "PersistentVolumeClaim/data c1";
    let expected =
        ["Hydrated", "HydrationProgress", "HydrationStarted"].map(|reason| event(about, "Normal", reason, 1));
    assert_eq!(server.events(), expected);
    let condition = &server.condition()[1];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Hydrated")));
    assert_eq!(condition["lastTransitionTime"], json!(at(20).to_string()));
}

#[tokio::test]
async fn a_failed_backup_is_a_condition_of_the_claim_until_one_succeeds() {
    let server = Server::furnished().await;
    let mut teller = server.teller();
    teller.tell(&[offload(State::Failed)], at(0)).await;
    let condition = server.condition()[0].clone();
    assert_eq!((&condition["type"], &condition["status"]), (&json!("csi.varve.io/BackupFailed"), &json!("True")));
    assert!(condition["message"].as_str().unwrap().contains("the store refuses"), "{condition}");
    // Another controller, which knows nothing of it.
    server.teller().tell(&[offload(State::Done)], at(60)).await;
    assert_eq!(server.condition()[0]["status"], "False");
    // A backup that ends well says nothing of what never failed.
    server.world().objects.get_mut(CLAIM).unwrap()["status"] = Value::Null;
    server.teller().tell(&[offload(State::Done)], at(120)).await;
    assert_eq!(server.condition(), Value::Null);
}

#[tokio::test]
async fn another_claim_of_the_same_name_is_not_told() {
    let server = Server::furnished().await;
    server.world().objects.get_mut(CLAIM).unwrap()["metadata"]["uid"] = json!("c2");
    let mut teller = server.teller();
    let health = Activity { kind: Kind::Health.into(), reason: "ImageMissing".into(), ..offload(State::Failed) };
    teller.tell(&[hydration(State::Running, 0), health, offload(State::Failed)], at(0)).await;
    assert_eq!(server.events(), [event("VolumeSnapshot/monday s1", "Warning", "BackupFailed", 1)]);
    assert_eq!(server.condition(), Value::Null);
}

#[tokio::test]
async fn objects_of_other_names_are_found_by_their_handles_among_all_and_not_at_every_look() {
    let server = Server::furnished().await;
    server.put(&format!("{CONTENTS}/imported"), content("old", "s9", "snap-9"));
    let foreign = content("theirs", "s8", "snap-9");
    server.put(&format!("{CONTENTS}/foreign"), foreign);
    server.world().objects.get_mut(&format!("{CONTENTS}/foreign")).unwrap()["spec"]["driver"] = json!("other.example");
    let volume = server.world().objects.remove(VOLUME).unwrap();
    server.put("/api/v1/persistentvolumes/by-hand", volume);
    let member = Activity { snapshot_id: "snap-9".into(), snapshot_name: "member".into(), ..offload(State::Failed) };
    let stranger = Activity { snapshot_id: "snap-7".into(), snapshot_name: "x".into(), ..offload(State::Waiting) };
    let mut teller = server.teller();
    teller.tell(&[member, stranger.clone()], at(0)).await;
    assert_eq!(server.events(), [event("VolumeSnapshot/old s9", "Warning", "BackupFailed", 1)]);
    assert_eq!(server.condition()[0]["type"], "csi.varve.io/BackupFailed", "the volume is found as well");
    server.asked();
    for (seconds, state) in [(20, State::Running), (30, State::Delayed), (40, State::Done)] {
        teller.tell(&[Activity { state: state.into(), ..stranger.clone() }], at(seconds)).await;
    }
    let lists = |asked: &[String]| asked.iter().filter(|one| **one == format!("GET {CONTENTS}")).count();
    assert_eq!(lists(&server.asked()), 0, "the last look at all of them was just now");
    let another = Activity { snapshot_name: "y".into(), state: State::Delayed.into(), ..stranger };
    teller.tell(&[another], at(60)).await;
    assert_eq!(lists(&server.asked()), 1);
}

#[tokio::test]
async fn a_snapshot_that_is_not_even_cut_is_told_of() {
    let server = Server::furnished().await;
    let path = format!("{CONTENTS}/snapcontent-s1");
    server.world().objects.get_mut(&path).unwrap()["status"] = Value::Null;
    let refused = Activity { snapshot_id: String::new(), ..offload(State::Delayed) };
    server.teller().tell(&[refused], at(0)).await;
    assert_eq!(server.events(), [event("VolumeSnapshot/monday s1", "Warning", "BackupDelayed", 1)]);
}

#[tokio::test]
async fn an_api_that_is_away_is_told_when_it_is_back_and_one_that_refuses_is_not_asked_again() {
    let server = Server::furnished().await;
    let mut teller = server.teller();
    let both = [offload(State::Failed), hydration(State::Failed, 0)];
    server.world().refuses = Some(StatusCode::SERVICE_UNAVAILABLE);
    teller.tell(&both, at(0)).await;
    assert!(teller.broken);
    assert_eq!(server.events(), []);
    let asked = server.asked();
    assert!(asked.iter().all(|one| *one == asked[0]), "nobody else is bothered: {asked:?}");
    server.world().refuses = None;
    teller.tell(&both, at(5)).await;
    assert!(!teller.broken);
    assert_eq!(server.events().len(), 2);

    server.world().refuses = Some(StatusCode::FORBIDDEN);
    server.asked();
    let done = [offload(State::Done)];
    teller.tell(&done, at(10)).await;
    let first = server.asked().len();
    teller.tell(&done, at(15)).await;
    assert_eq!((first, server.asked().len()), (1, 0));
}

#[tokio::test]
async fn so_much_is_told_at_a_time_and_the_rest_the_next_time() {
    let server = Server::start().await;
    let of = |number: usize| Activity {
        kind: Kind::Health.into(),
        reason: "ImageMissing".into(),
        volume_id: format!("vol-{number:04}"),
        volume_name: format!("pvc-{number:04}"),
        ..offload(State::Failed)
    };
    let all: Vec<_> = (0..AT_ONCE + 1).map(of).collect();
    let mut teller = server.teller();
    teller.tell(&all, at(0)).await;
    let gets = |asked: Vec<String>| asked.iter().filter(|one| one.contains("/pvc-")).count();
    assert_eq!(gets(server.asked()), AT_ONCE);
    teller.tell(&all, at(5)).await;
    assert_eq!(gets(server.asked()), 1);
    teller.tell(&all, at(10)).await;
    assert_eq!(gets(server.asked()), 0);
}
