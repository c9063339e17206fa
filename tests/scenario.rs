//! What happens to volumes and snapshots when nodes are lost, drivers killed and workloads busy.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use varve_proto::csi::{ListSnapshotsRequest, ListVolumesRequest};

use varve_harness::{
    Pool, S3, Scratch, Setup, Standalone,
    csi::{Client, Published, block, from_snapshot, from_volume, mount, volume},
    driver::{complaint, text},
    tools, wait_for,
};

/// Most bytes that a snapshot of an idle volume may upload.
const IDLE_LIMIT: u64 = 128 * 1024;

fn scratch() -> Scratch {
    Scratch::new("varve-scenario-").expect("a folder can be made")
}

/// Bytes that do not compress, the same for the same name.
fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes files below a folder and makes them durable; returns their names.
fn fill(folder: &Path, count: usize, length: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|number| format!("file-{number}")).collect();
    for name in &names {
        let mut file = fs::File::create(folder.join(name)).expect("a file can be made");
        file.write_all(&noise(name, length)).and_then(|()| file.sync_all()).expect("a file can be written");
    }
    names
}

/// Checks files that [`fill`] wrote.
fn check(folder: &Path, names: &[String], length: usize) {
    for name in names {
        let found = fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == noise(name, length), "{name} is not what was written");
    }
}

/// A root's statistics, as `varve snapshot show` tells them.
fn statistics(setup: &Setup, snapshot: &str) -> Value {
    let output = setup.varve(["snapshot", "show", snapshot, "--output", "json"]);
    assert!(output.status.success(), "{}", complaint(&output));
    serde_json::from_slice(&output.stdout).expect("it is one JSON value")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Checks that nothing that a driver mounted or attached is left.
fn nothing_stands(scratch: &Scratch) {
    assert_eq!(scratch.standing().expect("the kernel's tables can be read"), Vec::<String>::new());
}

/// Checks that a file can be written: where its file system is frozen, writers hang.
fn takes_writes(file: PathBuf) {
    let writer = thread::spawn(move || fs::write(file, "alive"));
    wait_for("the file system takes writes", || writer.is_finished().then_some(()));
    writer.join().expect("it does not panic").expect("it can be written");
}

/// Provisions and publishes an empty volume.
async fn new_volume(client: &Client, name: &str, bytes: i64, filesystem: &str) -> Published {
    let capability = mount(filesystem);
    let created = client.create(volume(name, bytes, &capability)).await.expect("it can be made");
    client.publish(&created.volume_id, &capability).await.expect("it can be published")
}

#[tokio::test]
async fn volumes_of_every_kind_outlive_their_node() {
    let scratch = scratch();
    let server = S3::start(&scratch.path().join("s3"));
    let first = Setup {
        repository: server.repository("scenario"),
        environment: server.environment(),
        ..Setup::new(scratch.path())
    };
    let driver = Standalone::start(&first);
    let client = Client::connect(&driver).await;
    let mut taken = Vec::new();
    for (filesystem, bytes) in [("ext4", 128 << 20), ("xfs", 512 << 20)] {
        let published = new_volume(&client, filesystem, bytes, filesystem).await;
        let names = fill(&published.target, 20, 100_000);
        let snapshot = client.snapshot(&published.id, &format!("of-{filesystem}")).await;
        taken.push((filesystem, bytes, snapshot.snapshot_id, names));
    }
    let raw = client.create(volume("raw", 64 << 20, &block())).await.expect("it can be made");
    let device = client.publish(&raw.volume_id, &block()).await.expect("it can be published");
    let mut file = fs::OpenOptions::new().write(true).open(&device.target).expect("it is a device");
    file.write_all(&noise("raw", 1 << 20)).and_then(|()| file.sync_all()).expect("it can be written");
    drop(file);
    let raw_snapshot = client.snapshot(&raw.volume_id, "of-raw").await;

    driver.kill();
    scratch.clear(&first.folder).expect("the lost node's mounts can be taken away");
    fs::remove_dir_all(&first.folder).expect("the lost node's pool can be destroyed");

    let second = Setup {
        folder: scratch.path().join("second"),
        node: "node-2".into(),
        pool: Pool::Image("btrfs", "20GiB"),
        ..first
    };
    let driver = Standalone::start(&second);
    let client = Client::connect(&driver).await;
    for (filesystem, bytes, snapshot, names) in taken {
        let capability = mount(filesystem);
        let mut request = volume(&format!("restored-{filesystem}"), bytes, &capability);
        request.volume_content_source = from_snapshot(&snapshot);
        let restored = client.create(request).await.expect("it can be restored");
        let published = client.publish(&restored.volume_id, &capability).await.expect("it can be published");
        check(&published.target, &names, 100_000);
        client.unpublish(&published).await.expect("it can be unpublished");

        let image = scratch.path().join(format!("{filesystem}.img"));
        let output = second.varve(["snapshot", "restore", &snapshot, "--to", text(&image)]);
        assert!(output.status.success(), "{}", complaint(&output));
        let point = scratch.path().join(format!("{filesystem}.mount"));
        fs::create_dir(&point).expect("a folder can be made");
        if filesystem == "ext4" {
            // A frozen ext4 has nothing left in its journal.
            tools::run("e2fsck", ["-f", "-n", text(&image)], "e2fsprogs");
            tools::run("mount", ["-o", "loop,ro", text(&image), text(&point)], "mount");
            check(&point, &names, 100_000);
            tools::run("umount", [text(&point)], "mount");
        } else {
            // A frozen XFS keeps its log dirty on purpose, so that the next mount counts its blocks anew.
            tools::run("mount", ["-o", "loop,nouuid", text(&image), text(&point)], "mount");
            check(&point, &names, 100_000);
            tools::run("umount", [text(&point)], "mount");
            tools::run("xfs_repair", ["-n", text(&image)], "xfsprogs");
        }
    }
    let mut request = volume("restored-raw", 64 << 20, &block());
    request.volume_content_source = from_snapshot(&raw_snapshot.snapshot_id);
    let restored = client.create(request).await.expect("it can be restored");
    let published = client.publish(&restored.volume_id, &block()).await.expect("it can be published");
    assert!(fs::read(&published.target).expect("it is a device").starts_with(&noise("raw", 1 << 20)));
    client.unpublish(&published).await.expect("it can be unpublished");
    assert!(driver.terminate().success());
    nothing_stands(&scratch);
}

#[tokio::test]
async fn a_killed_driver_goes_on_with_the_offload_and_the_workload_notices_nothing() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let published = new_volume(&client, "busy", 512 << 20, "ext4").await;
    let names = fill(&published.target, 150, 1_000_000);
    let cut = client.cut(&published.id, "interrupted").await;
    driver.kill();
    check(&published.target, &names, 1_000_000);
    fs::write(published.path("after"), "written while no driver ran").expect("the volume is still writable");

    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let snapshot = client.snapshot(&published.id, "interrupted").await;
    if let Ok(cut) = cut {
        assert_eq!(snapshot.snapshot_id, cut.snapshot_id);
        assert_eq!(snapshot.creation_time, cut.creation_time, "it is still the same cut");
    }
    let mut request = volume("restored", 512 << 20, &mount("ext4"));
    request.volume_content_source = from_snapshot(&snapshot.snapshot_id);
    let restored = client.create(request).await.expect("it can be restored");
    let second = client.publish(&restored.volume_id, &mount("ext4")).await.expect("it can be published");
    check(&second.target, &names, 1_000_000);

    for published in [&published, &second] {
        client.unpublish(published).await.expect("it can be unpublished");
        client.delete(&published.id).await.expect("it can be deleted");
    }
    assert!(driver.terminate().success());
    nothing_stands(&scratch);
}

#[tokio::test]
async fn a_driver_killed_again_and_again_loses_nothing_and_leaks_nothing() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    let mut driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let published = new_volume(&client, "survivor", 256 << 20, "ext4").await;
    let names = fill(&published.target, 10, 200_000);
    let first = client.snapshot(&published.id, "first").await;

    for round in 0_u64..12 {
        let client = Client::connect(&driver).await;
        // Something is under way in every place when the driver is killed: creations, clones, snapshots, deletions.
        let work = tokio::spawn({
            let (client, id, first) = (client.clone(), published.id.clone(), first.snapshot_id.clone());
            async move {
                for step in 0..100 {
                    let name = format!("round-{round}-{step}");
                    let mut request = volume(&name, 256 << 20, &mount("ext4"));
                    request.volume_content_source =
                        if step % 2 == 0 { from_snapshot(&first) } else { from_volume(&id) };
                    let created = client.controller.clone().create_volume(request).await;
                    let cut = client.cut(&id, &name).await;
                    if let (Ok(created), true) = (created, step % 3 == 0) {
                        let id = created.into_inner().volume.expect("it answers a volume").volume_id;
                        let _ = client.delete(&id).await;
                    }
                    if let (Ok(cut), true) = (cut, step % 4 == 0) {
                        let _ = client.delete_snapshot(&cut.snapshot_id).await;
                    }
                }
            }
        });
        // The moment of the kill differs from round to round; what it hits is what happens to be under way.
        tokio::time::sleep(Duration::from_millis(30 + 47 * round)).await;
        driver.kill();
        work.abort();
        // Whatever it had frozen is thawed though no driver runs.
        takes_writes(published.path("alive"));
        driver = Standalone::start(&setup);
        takes_writes(published.path("alive"));
    }

    let client = Client::connect(&driver).await;
    check(&published.target, &names, 200_000);
    // Every snapshot that is listed becomes ready, and restores.
    let list = client.controller.clone().list_snapshots(ListSnapshotsRequest::default()).await.expect("it can list");
    let snapshots: Vec<_> = list.into_inner().entries.into_iter().filter_map(|entry| entry.snapshot).collect();
    assert!(snapshots.iter().any(|snapshot| snapshot.snapshot_id == first.snapshot_id), "the first one is lost");
    wait_for("offloads have ended", || {
        let output = setup.varve(["repository", "stats", "--output", "json"]);
        let stats: Value = serde_json::from_slice(&output.stdout).expect("it is one JSON value");
        (number(&stats["uploads"]) == 0).then_some(())
    });
    let output = setup.varve(["repository", "check", "--level", "content"]);
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), complaint(&output));

    for snapshot in snapshots {
        client.delete_snapshot(&snapshot.snapshot_id).await.expect("it can be deleted");
    }
    client.unpublish(&published).await.expect("it can be unpublished");
    let list = client.controller.clone().list_volumes(ListVolumesRequest::default()).await.expect("it can list");
    for entry in list.into_inner().entries {
        client.delete(&entry.volume.expect("it is there").volume_id).await.expect("it can be deleted");
    }
    let pool = setup.folder.join("pool.img.mount");
    for folder in ["volumes", "cuts", "making"] {
        let left = fs::read_dir(pool.join(folder)).expect("the pool is mounted").count();
        assert_eq!(left, 0, "{folder} of the pool");
    }
    assert!(driver.terminate().success());
    nothing_stands(&scratch);
}

#[test]
fn invariant_4_what_a_killed_driver_left_frozen_is_thawed_without_it() {
    let scratch = scratch();
    let (image, point) = (scratch.path().join("ext4.img"), scratch.path().join("mounted"));
    fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("a file can be made");
    fs::create_dir(&point).expect("a folder can be made");
    tools::run("mkfs.ext4", ["-q", text(&image)], "e2fsprogs");
    tools::run("mount", ["-o", "loop", text(&image), text(&point)], "mount");
    // What a driver does, step by step: it tells the sentinel, freezes, and is gone.
    let mut sentinel = Command::new(env!("CARGO_BIN_EXE_varve"))
        .arg("sentinel")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be started");
    let mut pipe = sentinel.stdin.take().expect("it is piped");
    pipe.write_all(format!("f{}\0", text(&point)).as_bytes()).expect("it listens");
    tools::run("fsfreeze", ["--freeze", text(&point)], "util-linux");
    let writer = thread::spawn({
        let file = point.join("held");
        move || fs::write(file, "let go")
    });
    drop(pipe);
    assert!(sentinel.wait().expect("it ends").success());
    wait_for("the writer is let go", || writer.is_finished().then_some(()));
    writer.join().expect("it does not panic").expect("it can be written");
}

#[tokio::test]
async fn a_driver_told_to_end_leaves_its_workload_alone_and_is_taken_over_from() {
    let scratch = scratch();
    let setup = Setup { pool: Pool::Image("btrfs", "20GiB"), ..Setup::new(scratch.path()) };
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let published = new_volume(&client, "staying", 128 << 20, "ext4").await;
    let names = fill(&published.target, 10, 10_000);
    assert!(driver.terminate().success());
    assert!(!setup.socket().exists());
    check(&published.target, &names, 10_000);
    fs::write(published.path("meanwhile"), "written while no driver ran").expect("the volume is still writable");

    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    client.stage(&published).await.expect("staging again is fine");
    client.snapshot(&published.id, "after").await;
    client.unpublish(&published).await.expect("it can be unpublished");
    assert!(driver.terminate().success());
    nothing_stands(&scratch);
}

#[tokio::test]
async fn snapshots_send_what_changed_and_an_idle_volume_next_to_nothing() {
    let scratch = scratch();
    for kind in ["xfs", "btrfs"] {
        let folder = scratch.path().join(kind);
        fs::create_dir(&folder).expect("a folder can be made");
        let setup = Setup { pool: Pool::Image(kind, "20GiB"), ..Setup::new(&folder) };
        let driver = Standalone::start(&setup);
        let client = Client::connect(&driver).await;
        let device = client.create(volume("raw", 256 << 20, &block())).await.expect("it can be made");
        let published = client.publish(&device.volume_id, &block()).await.expect("it can be published");
        let write = |offset: u64, bytes: &[u8]| {
            let file = fs::OpenOptions::new().write(true).open(&published.target).expect("it is a device");
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset).expect("it can be written");
            file.sync_all().expect("it can be synced");
        };
        write(0, &noise("all", 64 << 20));
        let first = client.snapshot(&device.volume_id, "first").await;
        let root = statistics(&setup, &first.snapshot_id);
        assert_eq!(root["method"], "full");
        assert_eq!(number(&root["statistics"]["stored_bytes"]), 64 << 20, "{kind}: {root:#}");

        let idle = client.snapshot(&device.volume_id, "idle").await;
        let root = statistics(&setup, &idle.snapshot_id);
        assert_eq!(root["method"], "incremental");
        assert_eq!(number(&root["statistics"]["changed_bytes"]), 0, "{kind}: {root:#}");
        assert!(number(&root["statistics"]["uploaded_bytes"]) <= IDLE_LIMIT, "{kind}: {root:#}");

        for block in 0..100 {
            write(block * 613 * 1024 / 4096 * 4096, &noise(&format!("block-{block}"), 4096));
        }
        let changed = client.snapshot(&device.volume_id, "changed").await;
        let root = statistics(&setup, &changed.snapshot_id);
        let uploaded = number(&root["statistics"]["uploaded_bytes"]);
        assert_eq!(root["method"], "incremental");
        assert_eq!(number(&root["statistics"]["changed_bytes"]), 100 * 4096, "{kind}: {root:#}");
        assert!(uploaded <= 100 * 4096 * 13 / 10 + 64 * 1024, "{kind}: {uploaded} bytes were uploaded");
        client.unpublish(&published).await.expect("it can be unpublished");
        assert!(driver.terminate().success());
    }
    nothing_stands(&scratch);
}

#[tokio::test]
async fn an_interrupted_restore_leaves_nothing_behind() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let device = client.create(volume("raw", 512 << 20, &block())).await.expect("it can be made");
    let published = client.publish(&device.volume_id, &block()).await.expect("it can be published");
    let mut file = fs::OpenOptions::new().write(true).open(&published.target).expect("it is a device");
    file.write_all(&noise("much", 400 << 20)).and_then(|()| file.sync_all()).expect("it can be written");
    drop(file);
    let snapshot = client.snapshot(&device.volume_id, "much").await;
    client.unpublish(&published).await.expect("it can be unpublished");
    assert!(driver.terminate().success());

    let folder = scratch.path().join("restored");
    fs::create_dir(&folder).expect("a folder can be made");
    let mut restore = Command::new(env!("CARGO_BIN_EXE_varve"))
        .args(["snapshot", "restore", &snapshot.snapshot_id, "--to", text(&folder.join("image"))])
        .args(["--repository", &setup.repository, "--key-file", text(&setup.key_file)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be started");
    let names = || fs::read_dir(&folder).expect("it can be listed").filter_map(Result::ok).collect::<Vec<_>>();
    wait_for("the restore has begun", || (!names().is_empty()).then_some(()));
    kill_process(Pid::from_child(&restore), Signal::INT).expect("it runs");
    let status = restore.wait().expect("it ends");
    assert_eq!(status.code(), Some(1));
    assert!(names().is_empty(), "{:?}", names());
}
