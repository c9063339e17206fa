//! What a process says of itself over HTTP: that it lives, whether it is ready, and what it did; and that whatever the
//! dashboard and the alert rules look at is there to be looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
};

use tonic::Code;
use varve_harness::{
    Controller, Node, Scratch, Setup, Standalone,
    csi::{Client, from_snapshot, mount, volume},
    driver::free_address,
    wait_for,
};
use varve_proto::csi::{ProbeRequest, identity_client::IdentityClient};

/// Asks for a page; the status and the body.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).expect("it listens");
    write!(connection, "GET {path} HTTP/1.1\r\nhost: varve\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

/// Metrics: each sample's name with its labels, and its value.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| line.rsplit_once(' ').expect("a name and a value"));
    samples.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

/// Names of metrics in a text: whole words that begin as ours do.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("varve_")).map(str::to_owned).collect()
}

fn setup(scratch: &Scratch, http: SocketAddr) -> Setup {
    let mut setup = Setup::new(scratch.path());
    setup.configuration = format!("http_listen = \"{http}\"\n");
    setup
}

#[tokio::test]
async fn what_a_driver_did_is_told_without_telling_of_whom() {
    let scratch = Scratch::new("varve-monitor-").expect("a folder can be made");
    let http = free_address();
    let driver = Standalone::start(&setup(&scratch, http));
    assert_eq!(get(http, "/healthz"), (200, "alive\n".into()));
    assert_eq!(get(http, "/readyz"), (200, "serving: ready\nrepository: ready\npool: ready\n".into()));

    let client = Client::connect(&driver).await;
    let made = client.create(volume("secret-name", 64 << 20, &mount("ext4"))).await.expect("it can be made");
    let published = client.publish(&made.volume_id, &mount("ext4")).await.expect("it can be published");
    let mut bytes = vec![0; 3_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let mut file = fs::File::create(published.path("file")).expect("a file can be made");
    file.write_all(&bytes).and_then(|()| file.sync_all()).expect("a file can be written");
    drop(file);
    let snapshot = client.snapshot(&made.volume_id, "secret-snapshot").await;
    client.unpublish(&published).await.expect("it can be unpublished");
    client.delete(&made.volume_id).await.expect("it can be deleted");
    // Its cut goes with it, so the next one comes from the repository.
    let mut restored = volume("other-name", 64 << 20, &mount("ext4"));
    restored.volume_content_source = from_snapshot(&snapshot.snapshot_id);
    client.create(restored).await.expect("it can be restored");
    let refused = client.cut("vol-00000000000000000000000000000000", "none").await.expect_err("there is none");
    assert_eq!(refused.code(), Code::NotFound);

    let (status, page) = get(http, "/metrics");
    assert_eq!(status, 200);
    let samples = samples(&page);
    let value = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("{name} is not there:\n{page}"));
    assert_eq!(value("varve_cuts_total"), 1.0);
    assert_eq!(value("varve_cut_pause_seconds_count"), 1.0);
    assert!(value("varve_cut_pause_seconds_sum") > 0.0, "{page}");
    assert_eq!(value("varve_offloads_total{outcome=\"done\"}"), 1.0);
    assert_eq!(value("varve_offloads_total{outcome=\"failed\"}"), 0.0);
    assert_eq!(value("varve_hydrations_total{outcome=\"done\"}"), 1.0);
    for bytes in ["offload_read", "offload_sent", "hydration_fetched", "hydration_written"] {
        let name = format!("varve_{bytes}_bytes_total");
        assert!((3_000_000.0..64_000_000.0).contains(&value(&name)), "{name}\n{page}");
    }
    for stage in ["read", "gather", "hash", "compress", "seal", "put", "fetch", "open", "write"] {
        assert!(value(&format!("varve_stage_busy_seconds_total{{stage=\"{stage}\"}}")) > 0.0, "{stage}\n{page}");
    }
    for kind in ["get", "put"] {
        assert!(value(&format!("varve_repository_requests_total{{kind=\"{kind}\"}}")) > 0.0, "{kind}\n{page}");
    }
    assert!(value("varve_repository_written_bytes_total") > 3_000_000.0, "{page}");
    let calls =
        |code: &str| format!("varve_calls_total{{method=\"csi.v1.Controller/CreateSnapshot\",code=\"{code}\"}}");
    assert!(value(&calls("Ok")) >= 1.0 && value(&calls("NotFound")) == 1.0, "{page}");
    assert_eq!(value("varve_volumes"), 1.0);
    assert_eq!(value("varve_cuts_present{state=\"waiting\"}"), 0.0);
    assert_eq!(value("varve_backlog_age_seconds"), 0.0);
    assert_eq!(value("varve_pool_promised_bytes"), f64::from(64 << 20));
    let (capacity, free) = (value("varve_pool_capacity_bytes"), value("varve_pool_free_bytes"));
    assert!(free > 0.0 && free < capacity && capacity < 20.0 * f64::from(1 << 30), "{page}");
    assert_eq!(value("varve_ready{condition=\"pool\"}"), 1.0);

    // Invariant 7, and no more labels than are known beforehand.
    for word in ["vol-", "snap-", "secret", "other-name", "file://", scratch.path().to_str().expect("text"), "node-1"] {
        assert!(!page.contains(word), "{word}\n{page}");
    }
    assert_eq!(get(http, "/metrics/..").0, 404);
    assert!(driver.terminate().success());
    TcpStream::connect(http).expect_err("nobody listens any more");
}

#[tokio::test]
async fn a_driver_whose_repository_is_gone_says_so_and_is_alive() {
    let scratch = Scratch::new("varve-monitor-").expect("a folder can be made");
    let http = free_address();
    let mut setup = setup(&scratch, http);
    let registry = scratch.path().join("registry");
    fs::create_dir(&registry).expect("a folder can be made");
    setup.configuration.push_str(&format!("kubelet_registration = {registry:?}\n"));
    let driver = Standalone::start(&setup);
    let not_ready = "serving: ready\nrepository: ready\npool: ready\nkubelet: not ready, see the log\n";
    assert_eq!(get(http, "/readyz"), (503, not_ready.into()), "no kubelet has been here");
    let mut identity = IdentityClient::new(driver.connect().await);
    let probe = identity.probe(ProbeRequest {}).await.expect("it answers").into_inner();
    assert_eq!(probe.ready, Some(true), "calls can be served all the same");

    fs::rename(scratch.path().join("repository"), scratch.path().join("away")).expect("it can be moved");
    wait_for("it is noticed", || get(http, "/readyz").1.contains("repository: not ready").then_some(()));
    let probe = identity.probe(ProbeRequest {}).await.expect("it answers").into_inner();
    assert_eq!(probe.ready, Some(false));
    assert_eq!(get(http, "/healthz").0, 200, "starting it anew would not help");
    assert_eq!(samples(&get(http, "/metrics").1)["varve_ready{condition=\"repository\"}"], 0.0);
    fs::rename(scratch.path().join("away"), scratch.path().join("repository")).expect("it can be moved");
    wait_for("it is noticed", || get(http, "/readyz").1.contains("repository: ready").then_some(()));

    // Somebody removes the socket: nobody can call any more, and a new process would make a new one.
    fs::remove_file(setup.socket()).expect("it is there");
    assert_eq!(get(http, "/healthz").0, 503);
}

#[tokio::test]
async fn what_dashboard_and_alerts_look_at_is_served() {
    let scratch = Scratch::new("varve-monitor-").expect("a folder can be made");
    let (base, addresses) = (Setup::new(scratch.path()), [free_address(), free_address(), free_address()]);
    let process = |name: &str, http: SocketAddr| Setup {
        folder: scratch.path().join(name),
        configuration: format!("http_listen = \"{http}\"\n"),
        ..base.clone()
    };
    let node = Node::start(&process("node", addresses[0]), addresses[2]);
    let controller = Controller::start(&process("controller", addresses[1]), &[("node-1", addresses[2])]);
    // A call, so that calls are among what there is.
    let client = Client::between(&controller, &node).await;
    client.create(volume("one", 64 << 20, &mount("ext4"))).await.expect("it can be made");
    let mut served: BTreeSet<String> = BTreeSet::new();
    for http in &addresses[..2] {
        for name in samples(&get(*http, "/metrics").1).into_keys() {
            served.insert(name.split('{').next().expect("a name").to_owned());
        }
    }
    // The agent's calls are seen on the node, the controller has no pool, and each has what concerns it.
    let page = get(addresses[0], "/metrics").1;
    assert!(page.contains("method=\"varve.agent.v1.Agent/CreateImage\""), "{page}");
    assert!(!get(addresses[1], "/metrics").1.contains("varve_pool_"));

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring");
    let mut looked_at = 0;
    for file in ["dashboard.json", "rules.yaml"] {
        let text = fs::read_to_string(folder.join(file)).expect("it is part of the project");
        for name in names(&text) {
            assert!(served.contains(&name), "{file} looks at {name}, which nobody serves; there is {served:#?}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 30, "{looked_at}");
    let dashboard = fs::read_to_string(folder.join("dashboard.json")).expect("it is part of the project");
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("it is JSON");
}
