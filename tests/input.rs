//! Bad input: each kind gets the error that it deserves, at once or after bounded retries, and nothing is damaged.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use tonic::Code;
use varve_proto::csi::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerGetVolumeRequest, CreateVolumeRequest, GetSnapshotRequest,
    ListVolumesRequest, ProbeRequest, VolumeCapability, identity_client::IdentityClient,
    volume_capability::access_mode::Mode,
};

use varve_harness::{
    Pool, S3, Scratch, Setup, Standalone,
    csi::{Client, block, from_snapshot, mount, volume},
    driver::{complaint, text, varve},
    tools,
};

/// A snapshot that no repository has.
const NO_SNAPSHOT: &str = "snap-00000000000000000000000000000000";
/// A volume that no repository has.
const NO_VOLUME: &str = "vol-00000000000000000000000000000000";

fn scratch() -> Scratch {
    Scratch::new("varve-input-").expect("a folder can be made")
}

/// Checks that a command was refused with that status, and that its complaint, one line, has all these words.
fn refused(output: &Output, status: i32, words: &[&str]) {
    let complaint = complaint(output);
    assert_eq!(output.status.code(), Some(status), "{complaint}");
    let line = complaint.lines().filter(|line| line.starts_with("varve: ")).collect::<Vec<_>>();
    assert_eq!(line.len(), 1, "{complaint}");
    for word in words {
        assert!(line[0].contains(word), "{word:?} is not in: {}", line[0]);
    }
    assert!(output.stdout.is_empty());
}

/// A hash over the names and contents below a folder.
fn fingerprint(folder: &Path) -> blake3::Hash {
    let mut pending = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(&path).expect("it can be listed") {
            let entry = entry.expect("it can be listed").path();
            if entry.is_dir() { pending.push(entry) } else { files.push(entry) }
        }
    }
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hasher.update(file.as_os_str().as_encoded_bytes());
        hasher.update(&fs::read(file).expect("it can be read"));
    }
    hasher.finalize()
}

#[test]
fn a_repository_url_with_a_typo_is_bad_usage() {
    let scratch = scratch();
    for url in ["s4://bucket/prefix", "s3:/bucket", "file://relative/path", "srv/varve", "s3://", ""] {
        let setup = Setup { repository: url.into(), ..Setup::new(scratch.path()) };
        let output = setup.refusal();
        assert_eq!(output.status.code(), Some(2), "{url:?}: {}", complaint(&output));
        assert!(complaint(&output).contains(url), "{url:?}: {}", complaint(&output));
        assert!(!setup.folder.join("pool.img").exists(), "{url:?}");
    }
}

#[test]
fn missing_and_contradictory_arguments_are_bad_usage() {
    refused(&varve(["standalone"]), 2, &["--endpoint", "unix://"]);
    refused(&varve(["standalone", "--endpoint", "unix:///x.sock"]), 2, &["--repository"]);
    refused(
        &varve(["standalone", "--endpoint", "unix:///x.sock", "--repository", "file:///r"]),
        2,
        &["--node-id is missing"],
    );
    refused(
        &varve(["standalone", "--endpoint", "x.sock", "--node-id", "n", "--pool", "/p", "--repository", "file:///r"]),
        2,
        &["x.sock", "unix://"],
    );
    refused(&varve(["volume", "show", "vol-1", "--repository", "file:///r", "--key-file", "/k"]), 2, &["vol-1", "32"]);
    refused(
        &varve(["snapshot", "create", NO_VOLUME, "--name", "n", "--endpoint", "tcp://x"]),
        2,
        &["tcp://x", "unix://"],
    );
}

#[test]
fn another_master_key_is_refused_and_nothing_changes() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    assert!(Standalone::start(&setup).terminate().success());
    let before = fingerprint(&scratch.path().join("repository"));
    let other = Setup { key_file: scratch.path().join("other.key"), ..setup };
    refused(&other.refusal(), 1, &["master key", "does not open"]);
    refused(&other.varve(["volume", "list"]), 1, &["master key", "does not open"]);
    assert_eq!(fingerprint(&scratch.path().join("repository")), before);
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    setup.command();
    fs::set_permissions(&setup.key_file, fs::Permissions::from_mode(0o644)).expect("a mode can be set");
    refused(&setup.refusal(), 2, &[text(&setup.key_file), "0644", "chmod 600"]);
}

#[test]
fn a_repository_of_a_future_format_is_refused_and_nothing_changes() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    assert!(setup.varve(["repository", "init", "--generate-key"]).status.success());
    let path = scratch.path().join("repository/repository");
    let mut bytes = fs::read(&path).expect("the repository's record is there");
    bytes[6..8].copy_from_slice(&2_u16.to_le_bytes());
    fs::write(&path, bytes).expect("it can be written");
    let before = fingerprint(&scratch.path().join("repository"));
    refused(&setup.refusal(), 1, &["format version 2", "newer varve"]);
    assert_eq!(fingerprint(&scratch.path().join("repository")), before);
}

#[test]
fn a_command_on_no_repository_says_so() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    setup.command();
    refused(&setup.varve(["snapshot", "list"]), 1, &["no repository at", "varve repository init"]);
    assert!(!scratch.path().join("repository").exists());
}

#[test]
fn a_pool_folder_without_reflinks_is_refused() {
    let scratch = scratch();
    let (image, point) = (scratch.path().join("ext4.img"), scratch.path().join("ext4"));
    fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("a file can be made");
    fs::create_dir(&point).expect("a folder can be made");
    tools::run("mkfs.ext4", ["-q", text(&image)], "e2fsprogs");
    tools::run("mount", ["-o", "loop", text(&image), text(&point)], "mount");
    let setup = Setup { pool: Pool::Folder(point.clone()), ..Setup::new(scratch.path()) };
    refused(&setup.refusal(), 1, &[text(&point), "reflink"]);
    let left: Vec<_> = fs::read_dir(&point)
        .expect("it can be listed")
        .map(|entry| entry.expect("it can be listed").file_name())
        .collect();
    assert_eq!(left, ["lost+found"]);
}

#[test]
fn a_pool_too_small_for_its_file_system_is_refused_and_not_made() {
    for filesystem in ["xfs", "btrfs"] {
        let scratch = scratch();
        let setup = Setup { pool: Pool::Image(filesystem, "100MiB"), ..Setup::new(scratch.path()) };
        refused(&setup.refusal(), 1, &["pool.img", "104857600 bytes", filesystem]);
        assert!(!setup.folder.join("pool.img").exists());
        assert_eq!(scratch.standing().expect("the kernel's tables can be read"), Vec::<String>::new());
    }
}

#[test]
fn a_pool_image_that_is_something_else_is_never_formatted() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    setup.command();
    let image = setup.folder.join("pool.img");
    fs::write(&image, "precious data of somebody else").expect("a file can be written");
    refused(&setup.refusal(), 1, &[text(&image)]);
    assert_eq!(fs::read_to_string(&image).expect("it is there"), "precious data of somebody else");
    assert_eq!(scratch.standing().expect("the kernel's tables can be read"), Vec::<String>::new());
}

#[test]
fn a_pool_of_another_repository_is_refused_and_left_as_it_was() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    assert!(Standalone::start(&setup).terminate().success());
    let repository = format!("file://{}", scratch.path().join("another").display());
    let other = Setup { repository, ..setup.clone() };
    refused(&other.refusal(), 1, &["repository", text(&setup.folder.join("pool.img.mount"))]);
    assert_eq!(scratch.standing().expect("the kernel's tables can be read"), Vec::<String>::new());
    assert!(Standalone::start(&setup).terminate().success(), "it still starts on its own repository");
}

#[tokio::test]
async fn a_second_driver_on_a_pool_or_a_socket_is_refused_and_the_first_serves_on() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    let first = Standalone::start(&setup);
    let other = scratch.path().join("other");
    // The same image, by another socket.
    fs::create_dir(&other).expect("a folder can be made");
    std::os::unix::fs::symlink(setup.folder.join("pool.img"), other.join("pool.img")).expect("a link can be made");
    let same_pool = Setup { folder: other.clone(), ..setup.clone() };
    refused(&same_pool.refusal(), 1, &["pool"]);
    // The same socket, by another pool.
    fs::remove_file(other.join("pool.img")).expect("it is there");
    let mut same_socket = Setup { folder: other.clone(), ..setup.clone() }.command();
    same_socket.args(["--pool-size", "2GiB"]);
    let output = varve([
        "standalone",
        "--endpoint",
        &setup.endpoint(),
        "--node-id",
        "node-2",
        "--pool-image",
        text(&other.join("pool.img")),
        "--pool-size",
        "2GiB",
        "--pool-filesystem",
        "xfs",
        "--repository",
        &setup.repository,
        "--key-file",
        text(&setup.key_file),
    ]);
    refused(&output, 1, &[text(&setup.socket())]);

    let probe = IdentityClient::new(first.connect().await).probe(ProbeRequest {}).await.expect("it serves on");
    assert_eq!(probe.into_inner().ready, Some(true));
    assert!(first.terminate().success());
    assert_eq!(scratch.standing().expect("the kernel's tables can be read"), Vec::<String>::new());
}

#[test]
fn wrong_s3_credentials_and_a_missing_bucket_are_told_apart_within_bounds() {
    let scratch = scratch();
    let server = S3::start(&scratch.path().join("s3"));
    let mut setup = Setup {
        repository: server.repository("input"),
        environment: server.environment(),
        ..Setup::new(scratch.path())
    };
    let started = Instant::now();
    let elsewhere = Setup { repository: "s3://elsewhere/input".into(), ..setup.clone() };
    refused(&elsewhere.refusal(), 2, &["elsewhere", "no such bucket"]);
    for (name, value) in &mut setup.environment {
        if name == "AWS_SECRET_ACCESS_KEY" {
            "wrong".clone_into(value);
        }
    }
    let output = setup.refusal();
    refused(&output, 1, &[]);
    assert!(!complaint(&output).contains("wrong"), "a secret is shown: {}", complaint(&output));
    assert!(started.elapsed() < Duration::from_secs(60), "it took {:?}", started.elapsed());
    assert!(!setup.folder.join("pool.img").exists());
}

#[test]
fn a_restore_replaces_nothing() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    assert!(setup.varve(["repository", "init", "--generate-key"]).status.success());
    let there = scratch.path().join("there");
    fs::write(&there, "precious").expect("a file can be written");
    refused(&setup.varve(["snapshot", "restore", NO_SNAPSHOT, "--to", text(&there)]), 2, &["there already"]);
    assert_eq!(fs::read_to_string(&there).expect("it is there"), "precious");
    let free = scratch.path().join("free");
    refused(&setup.varve(["snapshot", "restore", NO_SNAPSHOT, "--to", text(&free)]), 1, &[NO_SNAPSHOT]);
    assert!(!free.exists());
    refused(&varve(["repository", "keygen", "--to", text(&there)]), 1, &[text(&there)]);
    assert_eq!(fs::read_to_string(&there).expect("it is there"), "precious");
}

#[tokio::test]
async fn bad_volumes_are_refused_with_the_code_that_csi_names() {
    let scratch = scratch();
    let driver = Standalone::start(&Setup { pool: Pool::Image("xfs", "4GiB"), ..Setup::new(scratch.path()) });
    let client = Client::connect(&driver).await;
    let good = volume("good", 64 << 20, &mount("ext4"));
    let with = |change: &dyn Fn(&mut CreateVolumeRequest)| {
        let mut request = good.clone();
        request.name = "bad".into();
        change(&mut request);
        request
    };
    let range = |required_bytes, limit_bytes| Some(CapacityRange { required_bytes, limit_bytes });
    let mode = |mode: Mode| {
        let mut capability: VolumeCapability = mount("ext4");
        capability.access_mode.as_mut().expect("it has one").mode = mode.into();
        capability
    };
    let bad = [
        ("empty name", Code::InvalidArgument, with(&|r| r.name.clear())),
        ("name of 129 bytes", Code::InvalidArgument, with(&|r| r.name = "n".repeat(129))),
        ("no capability", Code::InvalidArgument, with(&|r| r.volume_capabilities.clear())),
        (
            "empty capability",
            Code::InvalidArgument,
            with(&|r| r.volume_capabilities = vec![VolumeCapability::default()]),
        ),
        ("block and mount", Code::InvalidArgument, with(&|r| r.volume_capabilities = vec![block(), mount("ext4")])),
        (
            "two file systems",
            Code::InvalidArgument,
            with(&|r| r.volume_capabilities = vec![mount("xfs"), mount("ext4")]),
        ),
        (
            "many nodes",
            Code::InvalidArgument,
            with(&|r| r.volume_capabilities = vec![mode(Mode::MultiNodeMultiWriter)]),
        ),
        ("no mode", Code::InvalidArgument, with(&|r| r.volume_capabilities = vec![mode(Mode::Unknown)])),
        ("file system", Code::InvalidArgument, with(&|r| r.volume_capabilities = vec![mount("zfs")])),
        ("parameter", Code::InvalidArgument, with(&|r| drop(r.parameters.insert("compresion".into(), "3".into())))),
        ("negative size", Code::InvalidArgument, with(&|r| r.capacity_range = range(-1, 0))),
        ("negative limit", Code::InvalidArgument, with(&|r| r.capacity_range = range(0, -1))),
        ("contradictory range", Code::OutOfRange, with(&|r| r.capacity_range = range(2 << 20, 1 << 20))),
        ("unknown snapshot", Code::NotFound, with(&|r| r.volume_content_source = from_snapshot(NO_SNAPSHOT))),
        ("no snapshot's id", Code::NotFound, with(&|r| r.volume_content_source = from_snapshot("nonsense"))),
    ];
    for (what, code, request) in bad {
        let status = client.create(request).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {}", status.message());
        assert!(!status.message().is_empty(), "{what}");
    }
    for bytes in [5 << 30, 1 << 50, i64::MAX] {
        let status = client.create(with(&|r| r.capacity_range = range(bytes, 0))).await.expect_err("it does not fit");
        assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&status.code()), "{bytes}: {status}");
    }
    let list = client.controller.clone().list_volumes(ListVolumesRequest::default()).await.expect("it can list");
    assert_eq!(list.into_inner().entries, [], "a refused volume is left behind");

    let odd = client.create(with(&|r| r.capacity_range = range(100_000_001, 0))).await.expect("it is rounded up");
    assert!(odd.capacity_bytes >= 100_000_001 && odd.capacity_bytes % 4096 == 0, "{}", odd.capacity_bytes);
    let other = client.create(with(&|r| r.capacity_range = range(200 << 20, 0))).await.expect_err("it is smaller");
    assert_eq!(other.code(), Code::AlreadyExists);
    let default = client.create(volume("default", 0, &mount("ext4"))).await.expect("a default is taken");
    assert!(default.capacity_bytes > 0);
    assert!(driver.terminate().success());
}

#[tokio::test]
async fn unknown_ids_are_not_found_and_deleting_them_is_fine() {
    let scratch = scratch();
    let driver = Standalone::start(&Setup::new(scratch.path()));
    let client = Client::connect(&driver).await;
    for id in [NO_VOLUME, "nonsense", "../../etc/passwd"] {
        client.delete(id).await.expect("it is not there");
        let get = ControllerGetVolumeRequest { volume_id: id.into() };
        let expand = ControllerExpandVolumeRequest {
            volume_id: id.into(),
            capacity_range: Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
            ..Default::default()
        };
        let codes = [
            client.cut(id, "snapshot").await.expect_err(id).code(),
            client.publish(&id.replace('/', "-"), &mount("ext4")).await.expect_err(id).code(),
            client.controller.clone().controller_get_volume(get).await.expect_err(id).code(),
            client.controller.clone().controller_expand_volume(expand).await.expect_err(id).code(),
        ];
        assert_eq!(codes, [Code::NotFound; 4], "{id}");
    }
    for id in [NO_SNAPSHOT, "nonsense"] {
        client.delete_snapshot(id).await.expect("it is not there");
        let get = GetSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
        assert_eq!(client.controller.clone().get_snapshot(get).await.expect_err(id).code(), Code::NotFound);
    }
    let list = ListVolumesRequest { starting_token: "nonsense".into(), ..Default::default() };
    assert_eq!(client.controller.clone().list_volumes(list).await.expect_err("a bad token").code(), Code::Aborted);
    assert!(driver.terminate().success());
}

#[tokio::test]
async fn a_flipped_bit_is_named_with_the_snapshots_it_hurts_and_reaches_no_file() {
    let scratch = scratch();
    let setup = Setup::new(scratch.path());
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let mut ids = Vec::new();
    for name in ["hurt", "whole"] {
        let created = client.create(volume(name, 64 << 20, &block())).await.expect("it can be made");
        let published = client.publish(&created.volume_id, &block()).await.expect("it can be published");
        let mut noise = vec![0; 1 << 20];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut noise);
        let mut device = fs::OpenOptions::new().write(true).open(&published.target).expect("it is a device");
        device.write_all(&noise).and_then(|()| device.sync_all()).expect("it can be written");
        drop(device);
        ids.push(client.snapshot(&created.volume_id, name).await.snapshot_id);
        if name == "hurt" {
            damage(&scratch.path().join("repository/packs"));
        }
        client.unpublish(&published).await.expect("it can be unpublished");
    }
    assert!(driver.terminate().success());

    let check = setup.varve(["repository", "check", "--level", "content", "--output", "json"]);
    assert_eq!(check.status.code(), Some(1), "{}", complaint(&check));
    let report: serde_json::Value = serde_json::from_slice(&check.stdout).expect("it is one JSON value");
    let hurt = report["damages"][0]["hurt"].as_array().expect("it hurts something");
    assert_eq!(hurt.len(), 1, "{report:#}");
    assert_eq!(hurt[0]["snapshot"], ids[0], "{report:#}");
    assert!(!hurt[0]["ranges"].as_array().expect("there are ranges").is_empty(), "{report:#}");

    let (bad, good) = (scratch.path().join("bad.img"), scratch.path().join("good.img"));
    let restore = setup.varve(["snapshot", "restore", &ids[0], "--to", text(&bad)]);
    refused(&restore, 1, &["packs/", "damaged"]);
    assert!(!bad.exists());
    let restore = setup.varve(["snapshot", "restore", &ids[1], "--to", text(&good)]);
    assert!(restore.status.success(), "{}", complaint(&restore));
    let mut noise = vec![0; 1 << 20];
    blake3::Hasher::new().update(b"whole").finalize_xof().fill(&mut noise);
    assert!(fs::read(&good).expect("it is there").starts_with(&noise));
    let left = fs::read_dir(scratch.path()).expect("it can be listed");
    let partial = left.filter_map(Result::ok).filter(|entry| entry.file_name().to_string_lossy().contains("partial"));
    assert_eq!(partial.count(), 0, "a part of an image is left behind");
}

/// Flips one bit in the middle of the only pack.
fn damage(packs: &Path) {
    let mut packs = fs::read_dir(packs).expect("it can be listed");
    let path = packs.next().expect("there is a pack").expect("it can be listed").path();
    assert!(packs.next().is_none(), "there is one pack");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
    let mut file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("it can be opened");
    let middle = file.metadata().expect("it is there").len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).expect("it can be sought");
    file.read_exact(&mut byte).expect("it can be read");
    byte[0] ^= 1;
    file.seek(SeekFrom::Start(middle)).expect("it can be sought");
    file.write_all(&byte).expect("it can be written");
}
