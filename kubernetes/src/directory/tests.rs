//! Against an API server that is played: what lists, watches, their ends and their refusals come to. What the real one
//! says is looked at where there is one, in the cluster tests.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
};
use serde_json::{Value, json};
use tokio::{sync::broadcast, task::JoinSet};

use super::*;
use crate::testing;

/// Longer than anything here takes, and no part of what is asserted.
const PLENTY: Duration = Duration::from_secs(60);

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/varve-system/endpointslices";
const NODES: &str = "/api/v1/nodes";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the server has.
#[derive(Debug, Default)]
struct Objects {
    version: u64,
    /// By path of the collection and name.
    objects: BTreeMap<(&'static str, String), Value>,
    /// What watches are told, with the version it made.
    log: Vec<(u64, &'static str, Value)>,
    /// Whether everything is refused.
    down: bool,
    /// What was asked for, each once.
    asked: Vec<String>,
}

impl Objects {
    fn tell(&mut self, events: &broadcast::Sender<(&'static str, Option<Value>)>, path: &'static str, event: Value) {
        self.log.push((self.version, path, event.clone()));
        let _ = events.send((path, Some(event)));
    }
}

/// An API server that knows nodes and endpoint slices.
struct Server {
    objects: Arc<Mutex<Objects>>,
    /// What happens, by path of the collection; nothing stands for the end of every watch.
    events: broadcast::Sender<(&'static str, Option<Value>)>,
    url: String,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let (objects, events) = (Arc::new(Mutex::new(Objects::default())), broadcast::Sender::new(64));
        let shared = (Arc::clone(&objects), events.clone());
        let (url, tasks) = testing::serve(move |request| ready(answer(&shared.0, &shared.1, &request))).await;
        Self { objects, events, url, _tasks: tasks }
    }

    fn client(&self) -> Client {
        testing::client(&self.url)
    }

    /// Puts an object, and tells those who watch.
    fn put(&self, path: &'static str, name: &str, mut object: Value) {
        let mut objects = self.objects.lock().unwrap();
        objects.version += 1;
        object["metadata"]["name"] = json!(name);
        object["metadata"]["resourceVersion"] = json!(objects.version.to_string());
        let kind = if objects.objects.contains_key(&(path, name.to_owned())) { "MODIFIED" } else { "ADDED" };
        objects.objects.insert((path, name.to_owned()), object.clone());
        objects.tell(&self.events, path, json!({ "type": kind, "object": object }));
    }

    /// Removes an object, and tells those who watch if they are to know.
    fn remove(&self, path: &'static str, name: &str, told: bool) {
        let mut objects = self.objects.lock().unwrap();
        objects.version += 1;
        let object = objects.objects.remove(&(path, name.to_owned())).unwrap();
        if told {
            objects.tell(&self.events, path, json!({ "type": "DELETED", "object": object }));
        }
    }

    /// Waits until somebody watches slices, and somebody nodes: what is told before reaches nobody.
    async fn watched(&self) {
        let look = async {
            while self.events.receiver_count() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PLENTY, look).await.expect("both are watched");
    }

    /// Ends every watch, and says to whoever asks that what he has seen is too old to go on from.
    fn forget(&self) {
        let gone = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": "Expired", "code": 410 });
        for path in [SLICES, NODES] {
            let _ = self.events.send((path, Some(json!({ "type": "ERROR", "object": gone }))));
            let _ = self.events.send((path, None));
        }
    }

    fn slice(&self, name: &str, agents: &[(&str, &str)]) {
        let endpoints: Vec<Value> = agents
            .iter()
            .map(|(node, address)| json!({ "nodeName": node, "addresses": [address], "conditions": { "ready": true } }))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "namespace": "varve-system" },
            "addressType": "IPv4", "ports": [{ "name": "agent", "port": 7420 }], "endpoints": endpoints,
        });
        self.put(SLICES, name, slice);
    }

    fn node(&self, name: &str) {
        let node = json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": { "labels": { topology::NODE: name } } });
        self.put(NODES, name, node);
    }
}

fn answer(
    objects: &Mutex<Objects>,
    events: &broadcast::Sender<(&'static str, Option<Value>)>,
    request: &Request<Incoming>,
) -> Response<Body> {
    let mut objects = objects.lock().unwrap();
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let accept = request.headers().get("accept").and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let asked = format!("{path}?{query} {accept}");
    if !objects.asked.contains(&asked) {
        objects.asked.push(asked);
    }
    if objects.down {
        return respond(StatusCode::SERVICE_UNAVAILABLE, &json!({ "kind": "Status", "code": 503 }));
    }
    let collection = [SLICES, NODES].into_iter().find(|collection| path.starts_with(collection));
    let Some(collection) = collection else { panic!("nobody asks for {path}") };
    if path != collection {
        let name = path.trim_start_matches(collection).trim_start_matches('/').to_owned();
        return match objects.objects.get(&(collection, name)) {
            Some(object) => respond(StatusCode::OK, object),
            None => respond(
                StatusCode::NOT_FOUND,
                &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "not found", "reason": "NotFound", "code": 404 }),
            ),
        };
    }
    if !query.contains("watch=true") {
        let of = |(path, _): &&(&'static str, String)| *path == collection;
        let items: Vec<&Value> = objects.objects.keys().filter(of).map(|key| &objects.objects[key]).collect();
        let list = json!({ "kind": "List", "apiVersion": "v1",
            "metadata": { "resourceVersion": objects.version.to_string() }, "items": items });
        return respond(StatusCode::OK, &list);
    }
    // Under the lock: nothing is told twice, and nothing is missed.
    let since = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
    let since: u64 = since.and_then(|version| version.parse().ok()).unwrap_or_default();
    let missed = objects.log.iter().filter(|(version, path, _)| *version > since && *path == collection);
    let missed: Vec<_> =
        missed.map(|(_, _, event)| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n"))))).collect();
    let lines = stream::unfold(events.subscribe(), move |mut events| async move {
        loop {
            match events.recv().await {
                Ok((path, Some(event))) if path == collection => {
                    let line = format!("{event}\n");
                    return Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), events));
                }
                Ok((path, None)) if path == collection => return None,
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    });
    Response::new(StreamBody::new(stream::iter(missed).chain(lines)).boxed_unsync())
}

fn respond(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::from(value.to_string()).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// Looks until the names are as told.
async fn names(nodes: &Kubernetes, expected: &[&str]) {
    let look = async {
        loop {
            match nodes.names().await {
                Ok(names) if names == expected => return,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(PLENTY, look).await.unwrap_or_else(|_| panic!("{:?} is not {expected:?}", nodes.agents()));
}

/// Looks until a node's address is as told.
async fn address(nodes: &Kubernetes, node: &str, expected: Option<&str>) {
    let look = async {
        while nodes.address(node).await.ok().as_deref() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PLENTY, look).await.unwrap_or_else(|_| panic!("{:?}: {node} is not at {expected:?}", nodes.agents()));
}

#[tokio::test]
async fn nodes_come_and_go_as_the_api_says() {
    let server = Server::start().await;
    server.slice("varve-agents-1", &[("a", "10.0.0.1")]);
    server.node("a");
    server.node("b");
    let cancel = CancellationToken::new();
    let nodes = Kubernetes::with(server.client(), "varve-system", "varve-agents", &cancel);
    names(&nodes, &["a", "b"]).await;
    assert_eq!(nodes.known(), Some(Known { nodes: 2, with_agent: 1 }));
    assert_eq!(nodes.address("a").await.unwrap(), "10.0.0.1:7420");
    let error = nodes.address("b").await.unwrap_err();
    let expected = nodes::Error::Unreachable { node: "b".into(), reason: "no agent runs there".into() };
    assert_eq!(error, expected);
    assert_eq!(nodes.address("c").await.unwrap_err(), nodes::Error::Unknown { node: "c".into() });

    // An agent comes, another moves, and a node goes with its agent.
    server.slice("varve-agents-1", &[("a", "10.0.0.7"), ("b", "10.0.0.2")]);
    address(&nodes, "b", Some("10.0.0.2:7420")).await;
    address(&nodes, "a", Some("10.0.0.7:7420")).await;
    server.slice("varve-agents-1", &[("b", "10.0.0.2")]);
    server.remove(NODES, "a", true);
    names(&nodes, &["b"]).await;
    assert_eq!(nodes.address("a").await.unwrap_err(), nodes::Error::Unknown { node: "a".into() });

    // Only what is needed is asked for.
    let asked = server.objects.lock().unwrap().asked.join("\n");
    assert!(
        asked.contains(&format!("{SLICES}?")) && asked.contains("kubernetes.io%2Fservice-name%3Dvarve-agents"),
        "{asked}"
    );
    let of_nodes: Vec<_> = asked.lines().filter(|line| line.starts_with(NODES)).collect();
    assert!(of_nodes.iter().all(|line| line.contains("PartialObjectMetadata")), "{of_nodes:?}");
    assert!(of_nodes.iter().any(|line| line.contains("labelSelector=topology.varve.io%2Fnode")), "{of_nodes:?}");
    cancel.cancel();
}

#[tokio::test]
async fn what_was_missed_is_listed_anew() {
    let server = Server::start().await;
    server.slice("varve-agents-1", &[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
    server.slice("varve-agents-2", &[("c", "10.0.0.3")]);
    let cancel = CancellationToken::new();
    let nodes = Kubernetes::with(server.client(), "varve-system", "varve-agents", &cancel);
    names(&nodes, &["a", "b", "c"]).await;
    server.watched().await;
    // Removed while nobody is told: only a list shows it.
    server.remove(SLICES, "varve-agents-2", false);
    server.forget();
    names(&nodes, &["a", "b"]).await;
    // And the new watch is at work.
    server.slice("varve-agents-3", &[("d", "10.0.0.4")]);
    names(&nodes, &["a", "b", "d"]).await;
    cancel.cancel();
}

#[tokio::test]
async fn an_api_that_is_away_takes_nothing_with_it() {
    let server = Server::start().await;
    server.objects.lock().unwrap().down = true;
    let cancel = CancellationToken::new();
    let nodes = Kubernetes::with(server.client(), "varve-system", "varve-agents", &cancel);
    assert!(matches!(nodes.names().await.unwrap_err(), nodes::Error::Unlisted { .. }));
    assert_eq!(nodes.known(), None);
    let error = nodes.address("a").await.unwrap_err();
    assert!(matches!(&error, nodes::Error::Unreachable { reason, .. } if reason.contains("cannot be told")), "{error}");

    server.slice("varve-agents-1", &[("a", "10.0.0.1")]);
    server.objects.lock().unwrap().down = false;
    names(&nodes, &["a"]).await;
    server.watched().await;
    server.objects.lock().unwrap().down = true;
    server.forget();
    assert_eq!(nodes.address("a").await.unwrap(), "10.0.0.1:7420", "what is known is still known");
    // That a node is gone is never concluded from what is known.
    let error = nodes.address("b").await.unwrap_err();
    assert!(matches!(&error, nodes::Error::Unreachable { node, .. } if node == "b"), "{error}");
    cancel.cancel();
    assert_eq!(nodes.names().await.unwrap(), ["a"]);
}
