//! An API server that is played: it keeps any objects, selects by labels and by the few fields that are asked for here, tells
//! watches, and refuses what it is told to refuse. What the real one does is looked at in the cluster tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast, task::JoinSet};

use crate::cluster::Cluster;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Plural of the kind, namespace, name.
type Key = (String, String, String);

/// What the server has.
#[derive(Debug, Default)]
struct Objects {
    version: u64,
    objects: BTreeMap<Key, Value>,
    forbidden: BTreeSet<String>,
    /// What was written, as method, plural and name.
    written: Vec<String>,
    /// What watches are told, with the version it made.
    log: Vec<(u64, Key, Value)>,
}

/// The server.
pub(crate) struct Server {
    objects: Arc<Mutex<Objects>>,
    events: broadcast::Sender<(Key, Value)>,
    url: String,
    _tasks: JoinSet<()>,
}

/// What a request is about.
#[derive(Clone, Debug, Default)]
struct Target {
    plural: String,
    namespace: String,
    name: Option<String>,
    query: BTreeMap<String, String>,
}

impl Target {
    fn of(request: &Request<Incoming>) -> Self {
        let segments: Vec<_> = request.uri().path().trim_matches('/').split('/').collect();
        let rest = &segments[if segments[0] == "api" { 2 } else { 3 }..];
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let decode = |text: &str| text.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",");
        let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        Self {
            plural: rest[0].to_owned(),
            namespace: namespace.to_owned(),
            name: rest.get(1).map(|name| (*name).to_owned()),
            query: pairs.map(|(key, value)| (key.to_owned(), decode(value))).collect(),
        }
    }

    fn selects(&self, (plural, namespace, _): &Key, object: &Value) -> bool {
        let inside = *plural == self.plural && (self.namespace.is_empty() || *namespace == self.namespace);
        let selector = |name: &str| self.query.get(name).cloned().unwrap_or_default();
        let labels = selector("labelSelector");
        let labelled = labels.split(',').filter(|part| !part.is_empty()).all(|part| {
            let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
            let label = object["metadata"]["labels"][key].as_str();
            label.is_some() && value.is_none_or(|value| label == Some(value))
        });
        let fields = selector("fieldSelector");
        let fits = fields.split(',').filter_map(|part| part.split_once('=')).all(|(path, value)| {
            object.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str) == Some(value)
        });
        inside && labelled && fits
    }
}

/// Answers every request at an address of its own, until the tasks are dropped; returns its URL.
pub(crate) async fn serve<A, F, B>(answer: A) -> (String, JoinSet<()>)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                // A client that leaves is no concern of the server's.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
            });
        }
    });
    (url, tasks)
}

/// A client of a server that is played. An answer is an answer: its own patience with a server is not what is looked at.
pub(crate) fn client(url: &str) -> Client {
    let mut config = Config::new(url.parse().unwrap());
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

impl Server {
    pub(crate) async fn start() -> Self {
        let (objects, events) = (Arc::new(Mutex::new(Objects::default())), broadcast::Sender::new(64));
        let shared = (Arc::clone(&objects), events.clone());
        let (url, tasks) = serve(move |request| {
            let (objects, events) = shared.clone();
            async move { answer(&objects, &events, request).await }
        })
        .await;
        Self { objects, events, url, _tasks: tasks }
    }

    /// The cluster, with a namespace of its own.
    pub(crate) fn cluster(&self, namespace: &str) -> Cluster {
        Cluster::with(client(&self.url), namespace)
    }

    fn state(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    /// Puts an object, and tells those who watch.
    pub(crate) fn put(&self, plural: &str, object: Value) {
        put(&mut self.state(), &self.events, plural, object);
    }

    /// Changes an object by a merge patch, and tells those who watch.
    pub(crate) fn change(&self, plural: &str, namespace: &str, name: &str, patch: &Value) {
        let mut state = self.state();
        let mut object = state.objects[&key(plural, namespace, name)].clone();
        merge(&mut object, patch);
        put(&mut state, &self.events, plural, object);
    }

    /// Removes an object, and tells those who watch.
    pub(crate) fn remove(&self, plural: &str, namespace: &str, name: &str) {
        remove(&mut self.state(), &self.events, &key(plural, namespace, name)).unwrap();
    }

    /// Refuses to show or change objects of a kind from now on.
    pub(crate) fn forbid(&self, plural: &str) {
        self.state().forbidden.insert(plural.to_owned());
    }

    /// An object.
    pub(crate) fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&key(plural, namespace, name)).cloned()
    }

    /// The names of the objects of a kind, with their namespaces.
    pub(crate) fn names(&self, plural: &str) -> Vec<String> {
        let state = self.state();
        let of_kind = state.objects.keys().filter(|(kind, _, _)| kind == plural);
        of_kind.map(|(_, namespace, name)| format!("{namespace}/{name}")).collect()
    }

    /// What was written so far, as method, plural and name.
    pub(crate) fn written(&self) -> Vec<String> {
        self.state().written.clone()
    }
}

fn key(plural: &str, namespace: &str, name: &str) -> Key {
    (plural.to_owned(), namespace.to_owned(), name.to_owned())
}

fn put(state: &mut Objects, events: &broadcast::Sender<(Key, Value)>, plural: &str, mut object: Value) -> Value {
    state.version += 1;
    let version = state.version;
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let key = key(plural, &text("namespace"), &text("name"));
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    if object["metadata"]["uid"].is_null() {
        object["metadata"]["uid"] = json!(format!("uid-{version}"));
    }
    let kind = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
    state.objects.insert(key.clone(), object.clone());
    tell(state, events, key, json!({ "type": kind, "object": object }));
    object
}

fn remove(state: &mut Objects, events: &broadcast::Sender<(Key, Value)>, key: &Key) -> Option<Value> {
    let object = state.objects.remove(key)?;
    state.version += 1;
    tell(state, events, key.clone(), json!({ "type": "DELETED", "object": object }));
    Some(object)
}

fn tell(state: &mut Objects, events: &broadcast::Sender<(Key, Value)>, key: Key, event: Value) {
    state.log.push((state.version, key.clone(), event.clone()));
    let _ = events.send((key, event));
}

/// A merge patch (RFC 7396).
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    for (name, value) in patch {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(name);
        } else {
            if value.is_object() && !object.get(name).is_some_and(Value::is_object) {
                object[name] = json!({});
            }
            merge(&mut object[name], value);
        }
    }
}

async fn answer(
    objects: &Mutex<Objects>,
    events: &broadcast::Sender<(Key, Value)>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (target, method) = (Target::of(&request), request.method().clone());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut state = objects.lock().unwrap();
    if state.forbidden.contains(&target.plural) {
        return refuse(StatusCode::FORBIDDEN, "Forbidden", &format!("{} is forbidden", target.plural));
    }
    if method == Method::GET && target.name.is_none() {
        return if target.query.contains_key("watch") {
            watch(&state, events, target)
        } else {
            let items: Vec<_> = state.objects.iter().filter(|(key, object)| target.selects(key, object)).collect();
            let items: Vec<_> = items.into_iter().map(|(_, object)| object).collect();
            let metadata = json!({ "resourceVersion": state.version.to_string() });
            respond(
                StatusCode::OK,
                &json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items }),
            )
        };
    }
    let name = target.name.clone().or_else(|| body["metadata"]["name"].as_str().map(str::to_owned)).unwrap();
    let key = key(&target.plural, &target.namespace, &name);
    if method != Method::GET {
        state.written.push(format!("{method} {} {name}", target.plural));
    }
    let found = state.objects.get(&key).cloned();
    match (method, found) {
        (Method::POST, Some(_)) => refuse(StatusCode::CONFLICT, "AlreadyExists", &format!("{name:?} already exists")),
        (Method::POST, None) => respond(StatusCode::CREATED, &put(&mut state, events, &target.plural, body)),
        (_, None) => refuse(StatusCode::NOT_FOUND, "NotFound", &format!("{name:?} not found")),
        (Method::GET, Some(object)) => respond(StatusCode::OK, &object),
        (Method::PATCH, Some(mut object)) => {
            merge(&mut object, &body);
            respond(StatusCode::OK, &put(&mut state, events, &target.plural, object))
        }
        (Method::DELETE, Some(object)) => {
            let expected = &body["preconditions"]["uid"];
            if !expected.is_null() && *expected != object["metadata"]["uid"] {
                return refuse(StatusCode::CONFLICT, "Conflict", "the UID in the precondition is another one");
            }
            remove(&mut state, events, &key);
            respond(StatusCode::OK, &object)
        }
        (method, Some(_)) => panic!("nobody asks for {method}"),
    }
}

fn watch(state: &Objects, events: &broadcast::Sender<(Key, Value)>, target: Target) -> Response<Body> {
    // Under the lock: nothing is told twice, and nothing is missed.
    let since: u64 = target.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let line = |event: &Value| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n"))));
    let missed =
        state.log.iter().filter(|(version, key, event)| *version > since && target.selects(key, &event["object"]));
    let missed: Vec<_> = missed.map(|(_, _, event)| line(event)).collect();
    let lines = stream::unfold((events.subscribe(), target), move |(mut events, target)| async move {
        loop {
            let (key, event) = events.recv().await.ok()?;
            if target.selects(&key, &event["object"]) {
                return Some((line(&event), (events, target)));
            }
        }
    });
    Response::new(StreamBody::new(stream::iter(missed).chain(lines)).boxed_unsync())
}

fn refuse(status: StatusCode, reason: &str, message: &str) -> Response<Body> {
    respond(
        status,
        &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "code": status.as_u16() }),
    )
}

fn respond(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::from(value.to_string()).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A snapshot object of a claim, made by hand.
pub(crate) fn snapshot(namespace: &str, name: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": { "namespace": namespace, "name": name, "creationTimestamp": "2026-11-22T01:00:00Z" },
        "spec": { "volumeSnapshotClassName": "varve", "source": { "persistentVolumeClaimName": claim } },
    })
}

/// What makes it ready.
pub(crate) fn ready() -> Value {
    json!({ "status": { "readyToUse": true, "restoreSize": "1Gi", "creationTime": "2026-11-22T01:00:01Z" } })
}

/// A content of a snapshot of a volume.
pub(crate) fn content(name: &str, of: (&str, &str), handle: &str, volume: &str) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": { "name": name },
        "spec": { "driver": "csi.varve.io", "deletionPolicy": "Delete", "source": { "volumeHandle": volume },
            "sourceVolumeMode": "Filesystem", "volumeSnapshotClassName": "varve",
            "volumeSnapshotRef": { "namespace": of.0, "name": of.1, "uid": "1" } },
        "status": { "snapshotHandle": handle, "restoreSize": 1_u64 << 30, "readyToUse": true },
    })
}

/// A snapshot that is ready, with its content.
pub(crate) fn ready_pair(server: &Server, namespace: &str, name: &str, claim: &str, handle: &str) {
    let content_name = format!("snapcontent-{name}");
    server.put("volumesnapshotcontents", content(&content_name, (namespace, name), handle, "vol-1"));
    let mut object = snapshot(namespace, name, claim);
    merge(&mut object, &ready());
    object["status"]["boundVolumeSnapshotContentName"] = json!(content_name);
    server.put("volumesnapshots", object);
}

/// A claim that has its volume.
pub(crate) fn claim(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "namespace": namespace, "name": name },
        "spec": { "storageClassName": "varve-xfs", "accessModes": ["ReadWriteOncePod"], "volumeMode": "Filesystem",
            "resources": { "requests": { "storage": "2Gi" } } },
        "status": { "phase": "Bound" },
    })
}

/// A class of snapshots.
pub(crate) fn class(name: &str, driver: &str, durability: &str) -> Value {
    json!({ "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": { "name": name },
        "driver": driver, "deletionPolicy": "Delete", "parameters": { "durability": durability } })
}

/// A volume of the driver's on a node.
pub(crate) fn volume(name: &str, handle: &str, node: &str) -> Value {
    let terms = json!([{ "matchExpressions": [
        { "key": "topology.varve.io/node", "operator": "In", "values": [node] }] }]);
    json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
        "spec": { "capacity": { "storage": "1Gi" }, "csi": { "driver": "csi.varve.io", "volumeHandle": handle },
            "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } },
        "status": { "phase": "Bound" } })
}
