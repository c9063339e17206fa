//! An etcd (raft log and bbolt) that keys are put into while a snapshot is taken.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serial_test::serial;

use varve_harness::{Pool, wait_for};

use super::{
    http::Connection,
    process::{Process, free_port},
    scene::Scene,
};

fn start(data: &Path) -> (Process, u16) {
    let (client, peer) = (free_port(), free_port());
    let client_url = format!("http://127.0.0.1:{client}");
    let peer_url = format!("http://127.0.0.1:{peer}");
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(data).args(["--name", "one", "--force-new-cluster"]);
    command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
    command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    command.args(["--initial-cluster", &format!("one={peer_url}")]);
    let mut process = Process::start(&mut command, "the Debian package etcd-server");
    wait_for("etcd is healthy", || {
        assert!(process.is_running(), "etcd ended");
        let answer = Connection::open(client).ok()?.send("GET", "/health", "", "").ok()?;
        String::from_utf8_lossy(&answer.body).contains("true").then_some(())
    });
    (process, client)
}

fn key(number: u64) -> String {
    BASE64_STANDARD.encode(format!("key-{number:08}"))
}

/// Puts keys, one after another, until etcd is gone.
fn put_keys(port: u16) -> (Arc<AtomicU64>, JoinHandle<()>) {
    let acknowledged = Arc::<AtomicU64>::default();
    let count = Arc::clone(&acknowledged);
    let thread = thread::spawn(move || {
        let mut connection = Connection::open(port).expect("etcd listens");
        let value = BASE64_STANDARD.encode([b'v'; 700]);
        for number in 1.. {
            let body = format!("{{\"key\":\"{}\",\"value\":\"{value}\"}}", key(number));
            match connection.send("POST", "/v3/kv/put", "", &body) {
                Ok(answer) if answer.status == 200 => count.store(number, Ordering::SeqCst),
                _ => break,
            }
        }
    });
    (acknowledged, thread)
}

/// How many keys there are from the first to the one numbered `last`.
fn count_keys(port: u16, last: u64) -> u64 {
    let body = format!("{{\"key\":\"{}\",\"range_end\":\"{}\",\"count_only\":true}}", key(1), key(last + 1));
    let answer = Connection::open(port).and_then(|mut etcd| etcd.send("POST", "/v3/kv/range", "", &body));
    let answer: serde_json::Value =
        serde_json::from_slice(&answer.expect("etcd answers").body).expect("it answers JSON");
    answer["count"].as_str().unwrap_or("0").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
#[serial]
async fn invariant_1_etcd_keeps_every_acknowledged_key() {
    let scene = Scene::start(Pool::Image("xfs", "4GiB"), "ext4", 1 << 30).await;
    let (etcd, port) = start(&scene.volume.path("etcd"));
    let (acknowledged, load) = put_keys(port);
    let put = |least: u64| wait_for("keys are put", || (acknowledged.load(Ordering::SeqCst) >= least).then_some(()));
    put(200);
    let before = acknowledged.load(Ordering::SeqCst);
    let snapshot = scene.snapshot("loaded").await;
    put(before + 100);
    etcd.kill();
    load.join().expect("it does not panic");

    let rescue = scene.lose_node().await;
    rescue.check(&snapshot);
    let restored = rescue.restore(&snapshot).await;
    let (_etcd, port) = start(&restored.path("etcd"));
    assert_eq!(count_keys(port, before), before, "keys that were acknowledged before the snapshot are missing");
}
