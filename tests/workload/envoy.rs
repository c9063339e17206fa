//! An Envoy under load, whose access log and file cache are on the volume.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use serial_test::serial;

use varve_harness::{Pool, tools, wait_for};

use super::{
    http::Connection,
    process::{Process, free_port},
    scene::Scene,
};

/// How many different pages are asked for.
const PAGES: u64 = 200;

/// A proxy with a cache on the volume in front of a server, which is another listener of the same Envoy.
fn start(volume: &Path, configuration: &Path) -> (Process, u16) {
    let (front, back) = (free_port(), free_port());
    fs::create_dir_all(volume.join("cache")).expect("a folder can be made");
    let text = include_str!("envoy.yaml")
        .replace("@FRONT@", &front.to_string())
        .replace("@BACK@", &back.to_string())
        .replace("@VOLUME@", volume.to_str().expect("test paths are UTF-8"));
    fs::write(configuration, text).expect("a file can be written");
    let mut command = Command::new(tools::find("envoy"));
    // Log lines are to leave Envoy's memory soon; that it buffers them is not what is tested here.
    command.arg("-c").arg(configuration).args(["--disable-hot-restart", "--file-flush-interval-msec", "20"]);
    command.args(["--concurrency", "1", "--log-level", "off"]);
    let mut process = Process::start(&mut command, "`make tools`");
    wait_for("envoy is ready", || {
        assert!(process.is_running(), "envoy ended");
        let answer = Connection::open(front).ok()?.send("GET", "/ready", "", "").ok()?;
        (answer.status == 200).then_some(())
    });
    (process, front)
}

/// The cache's files and their content.
fn cached(volume: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(volume.join("cache")).expect("the cache is there").filter_map(|entry| {
        let entry = entry.expect("it can be listed");
        let name = entry.file_name().to_string_lossy().into_owned();
        // A file that is still being made may be gone by now.
        Some((name, fs::read(entry.path()).ok()?))
    });
    files.collect()
}

#[tokio::test(flavor = "multi_thread")]
#[serial]
async fn invariant_1_a_loaded_envoy_keeps_its_log_and_its_cache() {
    let scene = Scene::start(Pool::Image("xfs", "4GiB"), "ext4", 512 << 20).await;
    let (envoy, port) = start(&scene.volume.target, &scene.beside("first.yaml"));
    let (answered, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let load = {
        let (answered, stop) = (Arc::clone(&answered), Arc::clone(&stop));
        thread::spawn(move || {
            let mut proxy = Connection::open(port).expect("envoy listens");
            while !stop.load(Ordering::Relaxed) {
                let number = answered.load(Ordering::Relaxed);
                let path = format!("/page/{}", number % PAGES);
                let answer = proxy.send("GET", &path, &format!("x-number: {number}\r\n"), "");
                assert_eq!(answer.expect("envoy answers").status, 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    wait_for("pages are cached", || (answered.load(Ordering::Relaxed) > 4 * PAGES).then_some(()));
    let log = scene.volume.path("access.log");
    wait_for("the log is written", || (fs::metadata(&log).ok()?.len() > 10_000).then_some(()));

    // What has reached the file system before the call has to be in the snapshot.
    let cached_before = cached(&scene.volume.target);
    let logged_before = fs::metadata(&log).expect("it is there").len();
    let snapshot = scene.snapshot("loaded").await;
    stop.store(true, Ordering::Relaxed);
    load.join().expect("no request fails");
    envoy.kill();
    let logged = fs::read(&log).expect("it is there");

    let rescue = scene.lose_node().await;
    rescue.check(&snapshot);
    let restored = rescue.restore(&snapshot).await;
    let kept = fs::read(restored.path("access.log")).expect("the log is restored");
    assert!(kept.len() as u64 >= logged_before, "{} of {logged_before} bytes of log are there", kept.len());
    assert!(logged.starts_with(&kept), "the restored log is not how the log began");
    let kept = cached(&restored.target);
    assert!(cached_before.len() as u64 >= PAGES, "the cache was filled");
    for (name, content) in &cached_before {
        assert_eq!(kept.get(name), Some(content), "cache entry {name}");
    }

    let (_envoy, port) = start(&restored.target, &restored.staging.with_extension("yaml"));
    let answer = Connection::open(port).and_then(|mut proxy| proxy.send("GET", "/page/7", "", ""));
    let answer = answer.expect("envoy answers");
    assert_eq!(answer.status, 200);
    assert!(answer.headers.iter().any(|line| line.starts_with("age:")), "not from the cache: {:?}", answer.headers);
}
