//! `docs/format.md` suffices to read a repository: `format/restore.py` was written from it alone, and restores every
//! snapshot to the same bytes as Varve does.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rustix::fs::FallocateFlags;
use serde_json::Value;
use varve_proto::csi::{CapacityRange, ControllerExpandVolumeRequest, NodeExpandVolumeRequest};

use varve_harness::{
    Scratch, Setup, Standalone,
    csi::{Client, Published, block, mount, volume},
    driver::{complaint, text, varve},
    tools,
};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// Where `scripts/python-packages` puts what the reader imports.
fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python")
}

/// Runs the second reader.
fn reader<const N: usize>(arguments: [&str; N]) -> Output {
    Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format/restore.py"))
        .args(arguments)
        .env("PYTHONPATH", packages())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("python3: {error}: `apt-get install -y python3` installs it"))
}

/// Fails with what is to be done where a package is missing.
fn require_packages() {
    for package in ["blake3", "zstandard", "cryptography"] {
        assert!(packages().join(package).is_dir(), "the Python package {package} is missing: `make tools` installs it");
    }
}

/// Checks that a command succeeded, and returns what it printed.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, complaint(output));
    String::from_utf8(output.stdout.clone()).expect("it prints UTF-8")
}

/// Bytes that do not compress, the same for the same name.
fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Grows a volume that is in use.
async fn grow(client: &Client, published: &Published, bytes: u64) {
    let range = Some(CapacityRange { required_bytes: bytes.try_into().expect("it is small"), limit_bytes: 0 });
    let request = ControllerExpandVolumeRequest {
        volume_id: published.id.clone(),
        capacity_range: range,
        volume_capability: Some(published.capability.clone()),
        ..Default::default()
    };
    client.controller.clone().controller_expand_volume(request).await.expect("it can grow");
    let request = NodeExpandVolumeRequest {
        volume_id: published.id.clone(),
        volume_path: text(&published.target).into(),
        staging_target_path: text(&published.staging).into(),
        capacity_range: range,
        volume_capability: Some(published.capability.clone()),
        ..Default::default()
    };
    client.node.clone().node_expand_volume(request).await.expect("the node can grow it");
}

fn device(published: &Published) -> File {
    OpenOptions::new().read(true).write(true).open(&published.target).expect("it is a device")
}

fn write(file: &File, bytes: &[u8], offset: u64) {
    file.write_all_at(bytes, offset).expect("it can be written");
}

/// Snapshots of an ext4: files made, then changed and trimmed away, then more of them after growth.
async fn files(client: &Client) -> Vec<String> {
    let created = client.create(volume("files", 128 << 20, &mount("ext4"))).await.expect("it can be made");
    let published = client.publish(&created.volume_id, &mount("ext4")).await.expect("it can be published");
    for number in 0..20 {
        fs::write(published.path(number.to_string()), noise("file", 300_000 + number)).expect("it can be written");
    }
    fs::write(published.path("text"), "all the same, line by line\n".repeat(200_000)).expect("it can be written");
    let mut taken = vec![client.snapshot(&published.id, "files-1").await.snapshot_id];

    for number in (0..20).step_by(3) {
        fs::remove_file(published.path(number.to_string())).expect("it can be removed");
    }
    fs::write(published.path("1"), noise("changed", 500_000)).expect("it can be written");
    tools::run("fstrim", [text(&published.target)], "util-linux");
    taken.push(client.snapshot(&published.id, "files-2").await.snapshot_id);

    grow(client, &published, 192 * MIB).await;
    fs::write(published.path("late"), noise("late", 3_000_000)).expect("it can be written");
    taken.push(client.snapshot(&published.id, "files-3").await.snapshot_id);
    client.unpublish(&published).await.expect("it can be unpublished");
    taken
}

/// Snapshots of a raw device, each with the device's bytes at that time. The first has so many extents that it fills
/// pages and stays a level of its own below the later ones.
async fn raw(client: &Client) -> Vec<(String, Vec<u8>)> {
    let created = client.create(volume("raw", 64 << 20, &block())).await.expect("it can be made");
    let published = client.publish(&created.volume_id, &block()).await.expect("it can be published");
    let mut taken = Vec::new();
    let content = noise("raw", 32 << 20);
    let file = device(&published);
    for (number, bytes) in (0_u64..).zip(content.chunks(4096).take(6000)) {
        write(&file, bytes, 2 * number * BLOCK);
    }
    // Whole windows, one of them twice, and bytes that compress.
    write(&file, &content[..4 << 20], 50 * MIB);
    write(&file, &content[..1 << 20], 56 * MIB);
    write(&file, &b"0123456789abcdef".repeat(1 << 16), 60 * MIB);
    keep(client, &published, "raw-1", &mut taken).await;

    for number in 0..200_u64 {
        write(&file, &noise(&number.to_string(), 4096), 17 * number * BLOCK);
    }
    write(&file, &vec![0; 1 << 20], 51 * MIB);
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 20 * MIB, 3 * MIB)
        .expect("the device can discard");
    keep(client, &published, "raw-2", &mut taken).await;

    grow(client, &published, 96 * MIB).await;
    // Over zeroes of the level below, beyond the old end, and up to the new one.
    write(&file, &content[..5000 * 4], 21 * MIB);
    write(&file, &content[1 << 20..2 << 20], 64 * MIB - BLOCK);
    write(&file, &content[..4096], 96 * MIB - BLOCK);
    keep(client, &published, "raw-3", &mut taken).await;
    drop(file);
    client.unpublish(&published).await.expect("it can be unpublished");
    taken
}

/// The last of three snapshots of a raw device that was mostly overwritten between them, and the device's bytes; the others
/// are deleted.
async fn overwritten(client: &Client) -> (String, Vec<u8>) {
    let created = client.create(volume("overwritten", 16 << 20, &block())).await.expect("it can be made");
    let published = client.publish(&created.volume_id, &block()).await.expect("it can be published");
    let mut taken = Vec::new();
    for (number, (from, to)) in [(0, 16), (0, 10), (2, 10)].into_iter().enumerate() {
        // Windows of 32 blocks, of which each is a chunk.
        let window = 32 * usize::try_from(BLOCK).expect("it is small");
        let content = noise(&format!("overwritten-{number}"), (to - from) * window);
        write(&device(&published), &content, (from * window) as u64);
        keep(client, &published, &format!("overwritten-{number}"), &mut taken).await;
    }
    client.unpublish(&published).await.expect("it can be unpublished");
    let last = taken.pop().expect("three were taken");
    for (id, _) in taken {
        client.delete_snapshot(&id).await.expect("it can be deleted");
    }
    last
}

/// Takes a snapshot of a raw device and keeps its bytes.
async fn keep(client: &Client, published: &Published, name: &str, taken: &mut Vec<(String, Vec<u8>)>) {
    device(published).sync_all().expect("it can be synced");
    let snapshot = client.snapshot(&published.id, name).await;
    taken.push((snapshot.snapshot_id, fs::read(&published.target).expect("it is a device")));
}

/// The names below a folder of the repository.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut objects: Vec<_> =
        fs::read_dir(folder).expect("it is a folder").map(|entry| entry.expect("it can be read").path()).collect();
    objects.sort();
    objects
}

/// Changes one byte of a file.
fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it is that long");
    write(&file, &[byte[0] ^ 1], offset);
}

#[tokio::test]
async fn the_document_suffices_to_restore_every_snapshot() {
    require_packages();
    let scratch = Scratch::new("varve-format-").expect("a folder can be made");
    let setup = Setup::new(scratch.path());
    let (repository, key) = (scratch.path().join("repository"), setup.key_file.clone());
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;

    let raw = raw(&client).await;
    // Nothing else is in the repository yet: the snapshots of the device are all that these objects are of.
    let (packs, runs) = (objects(&repository.join("packs")), objects(&repository.join("runs")));
    let files = files(&client).await;

    let listed = printed(&reader(["list", text(&repository), text(&key)]));
    let mut taken: Vec<_> = raw.iter().map(|(id, _)| id).chain(&files).cloned().collect();
    taken.sort();
    assert_eq!(listed.lines().filter_map(|line| line.split('\t').next()).collect::<Vec<_>>(), taken);

    let image = |name: &str| scratch.path().join(name);
    for id in &taken {
        let (ours, theirs) = (image("varve.img"), image("python.img"));
        printed(&setup.varve(["snapshot", "restore", id, "--to", text(&ours)]));
        printed(&reader(["restore", text(&repository), text(&key), id, text(&theirs)]));
        tools::run("cmp", [text(&ours), text(&theirs)], "diffutils");
        let found = fs::metadata(&theirs).expect("it is there");
        assert!(found.blocks() * 512 < found.len() / 4 * 3, "{id}: the image is not sparse");
        if let Some((_, bytes)) = raw.iter().find(|(raw, _)| raw == id) {
            assert!(fs::read(&theirs).expect("it is there") == *bytes, "{id} is not what the device held");
        }
        fs::remove_file(ours).and_then(|()| fs::remove_file(theirs)).expect("they are there");
    }
    // The readers agreed on more than one level.
    let shown = printed(&setup.varve(["snapshot", "show", &raw[2].0, "--output", "json"]));
    let shown: Value = serde_json::from_str(&shown).expect("it is one JSON value");
    assert!(shown["runs"].as_array().is_some_and(|runs| runs.len() > 1), "there is one level only: {shown}");

    // One byte anywhere in the chain is enough.
    let refuses = |id: &str, complaint_: &str| {
        let to = image("refused.img");
        let output = reader(["restore", text(&repository), text(&key), id, text(&to)]);
        let complaint = complaint(&output);
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(complaint.starts_with("error: ") && complaint.contains(complaint_), "{complaint}");
        assert!(!to.exists(), "an image is left behind");
    };
    let first = &raw[0].0;
    let size = |path: &Path| fs::metadata(path).expect("it is there").len();
    let pack = packs.iter().max_by_key(|pack| size(pack)).expect("there are packs");
    let run = runs.iter().max_by_key(|run| size(run)).expect("there are runs");
    let root = repository.join("snapshots").join(first);
    for (object, offset, complaint) in [
        (pack, size(pack) / 2, "does not open under its key"),
        (pack, size(pack) - 1, "is damaged"),
        (run, size(run) / 2, "is damaged"),
        (run, size(run) - 1, "is damaged"),
        (&root, size(&root) / 2, "is damaged"),
        (&root, 6, "format version 0"),
    ] {
        flip(object, offset);
        refuses(first, complaint);
        flip(object, offset);
    }

    let other = image("other.key");
    printed(&varve(["repository", "keygen", "--to", text(&other)]));
    let output = reader(["list", text(&repository), text(&other)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("the master key is wrong"), "{}", complaint(&output));

    client.delete_snapshot(first).await.expect("it can be deleted");
    refuses(first, "was deleted");
    let listed = printed(&reader(["list", text(&repository), text(&key)]));
    assert_eq!(listed.lines().count(), taken.len() - 1);

    // What the last snapshot of a device does not have any more is dead once the others are deleted.
    let (id, bytes) = overwritten(&client).await;
    printed(&setup.varve(["repository", "collect"]));
    let record = objects(&repository.join("relocated")).pop().expect("a pack is repacked");
    assert!(!repository.join("packs").join(record.file_name().expect("it has a name")).exists(), "it stays");
    let to = image("repacked.img");
    printed(&reader(["restore", text(&repository), text(&key), &id, text(&to)]));
    assert!(fs::read(&to).expect("it is there") == bytes, "{id} is not what the device held");
    fs::remove_file(&record).expect("it is there");
    let output = reader(["restore", text(&repository), text(&key), &id, text(&image("lost.img"))]);
    assert_eq!(output.status.code(), Some(1), "a repacked pack is read without its record");
    assert!(driver.terminate().success());
}

/// What version 1 wrote once and for all: `format/golden`, which Varve itself reads in `repository/tests/golden.rs`.
#[test]
fn the_document_suffices_for_the_golden_repositories() {
    require_packages();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format/golden");
    let manifest = fs::read(folder.join("manifest.json")).expect("it is there");
    let manifest: Value = serde_json::from_slice(&manifest).expect("it is JSON");
    let scratch = Scratch::new("varve-golden-").expect("a folder can be made");
    let (key, image) = (scratch.path().join("key"), scratch.path().join("image"));
    let golden = manifest.as_object().expect("it names repositories");
    assert!(!golden.is_empty());
    for (name, golden) in golden {
        let repository = folder.join(name);
        let snapshots = golden["snapshots"].as_object().expect("it has snapshots");
        for digits in golden["keys"].as_array().expect("it has keys") {
            fs::write(&key, digits.as_str().expect("a key is text")).expect("it can be written");
            let listed = printed(&reader(["list", text(&repository), text(&key)]));
            let listed: Vec<_> = listed.lines().filter_map(|line| line.split('\t').next()).collect();
            assert!(snapshots.keys().eq(&listed), "{name}: {listed:?}");
        }
        for (id, expected) in snapshots {
            printed(&reader(["restore", text(&repository), text(&key), id, text(&image)]));
            let restored = fs::read(&image).expect("it is there");
            assert_eq!(blake3::hash(&restored).to_hex().as_str(), expected["blake3"], "{name}: {id}");
            fs::remove_file(&image).expect("it is there");
        }
        for gone in golden["gone"].as_array().expect("it says what is gone") {
            let gone = gone.as_str().expect("an id is text");
            let output = reader(["restore", text(&repository), text(&key), gone, text(&image)]);
            assert!(complaint(&output).contains("was deleted"), "{name}: {}", complaint(&output));
        }
    }
}
