//! What happens when there is no room left: in the pool, and in the repository. Nothing that was written and synced, and
//! no snapshot that was ready, may be hurt by it; and once there is room again, things go on by themselves.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use serial_test::serial;
use tonic::Code;
use varve_proto::csi::ListVolumesRequest;

use varve_harness::{
    Pool, Scratch, Setup, Standalone,
    csi::{Client, block, from_snapshot, mount, volume},
    driver::text,
    tools,
};

const MIB: i64 = 1 << 20;

/// Bytes that do not compress, the same for the same name.
fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a file durably.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes to a device until it takes no more, and returns how many bytes it took.
fn fill(device: &Path) -> u64 {
    let mut device = OpenOptions::new().write(true).open(device).expect("the device is there");
    let chunk = noise("fill", 8 << 20);
    let mut taken = 0;
    while device.write_all(&chunk).and_then(|()| device.sync_data()).is_ok() {
        taken += chunk.len() as u64;
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
#[serial]
async fn a_full_pool_hurts_nothing_that_is_safe_and_takes_volumes_again_when_there_is_room() {
    let scratch = Scratch::new("varve-full-").expect("a folder can be made");
    let setup = Setup { pool: Pool::Image("xfs", "1GiB"), ..Setup::new(scratch.path()) };
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;

    let capability = mount("ext4");
    let made = client.create(volume("kept", 512 * MIB, &capability)).await.expect("it can be made");
    let kept = client.publish(&made.volume_id, &capability).await.expect("it can be published");
    let content = noise("kept", 64 << 20);
    write(&kept.path("file"), &content).expect("there is room");
    let snapshot = client.snapshot(&kept.id, "kept").await;
    // The cut of the newest snapshot stays here; the one before is from now on in the repository alone.
    write(&kept.path("later"), b"later").expect("there is room");
    client.snapshot(&kept.id, "later").await;

    // The pool's capacity may be promised more than once; this volume takes all that is left of it.
    let made = client.create(volume("greedy", 900 * MIB, &block())).await.expect("it can be made");
    let greedy = client.publish(&made.volume_id, &block()).await.expect("it can be published");
    let taken = fill(&greedy.target);
    assert!(taken < 900 << 20, "the pool was to be filled, and took {taken} bytes");

    // A restore finds no room, says so, and leaves nothing behind.
    let mut request = volume("restored", 512 * MIB, &capability);
    request.volume_content_source = from_snapshot(&snapshot.snapshot_id);
    let refusal = client.create(request.clone()).await.expect_err("there is no room");
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
    let listed = client.controller.clone().list_volumes(ListVolumesRequest::default()).await.expect("it lists");
    assert_eq!(listed.into_inner().entries.len(), 2, "a volume that could not be made is listed");
    assert_eq!(fs::read(kept.path("file")).expect("it can be read"), content);

    client.unpublish(&greedy).await.expect("it can be unpublished");
    client.delete(&greedy.id).await.expect("it can be deleted");
    let made = client.create(request).await.expect("there is room again");
    let restored = client.publish(&made.volume_id, &capability).await.expect("it can be published");
    assert!(fs::read(restored.path("file")).expect("it can be read") == content, "the restored file differs");
    write(&kept.path("another"), b"after").expect("there is room again");

    for volume in [&kept, &restored] {
        client.unpublish(volume).await.expect("it can be unpublished");
        let device = scratch.path().join("checked.img");
        fs::copy(setup.folder.join("pool.img.mount/volumes").join(&volume.id).join("data/image"), &device)
            .expect("the image is where the documentation says");
        tools::run("e2fsck", ["-f", "-n", text(&device)], "e2fsprogs");
    }
    assert!(driver.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
#[serial]
async fn a_full_repository_keeps_what_it_has_and_goes_on_when_there_is_room() {
    let scratch = Scratch::new("varve-full-").expect("a folder can be made");
    let (disk, store) = (scratch.path().join("disk.img"), scratch.path().join("store"));
    File::create(&disk).and_then(|file| file.set_len(160 << 20)).expect("a file can be made");
    fs::create_dir(&store).expect("a folder can be made");
    tools::run("mkfs.ext4", ["-q", text(&disk)], "e2fsprogs");
    tools::run("mount", ["-o", "loop", text(&disk), text(&store)], "mount");

    let setup = Setup { repository: format!("file://{}/repository", store.display()), ..Setup::new(scratch.path()) };
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let capability = mount("ext4");
    let made = client.create(volume("growing", 512 * MIB, &capability)).await.expect("it can be made");
    let growing = client.publish(&made.volume_id, &capability).await.expect("it can be published");
    write(&growing.path("first"), &noise("first", 16 << 20)).expect("there is room");
    let first = client.snapshot(&growing.id, "first").await;

    let ballast = store.join("ballast");
    write(&ballast, &vec![1; 100 << 20]).expect("there is room");
    write(&growing.path("second"), &noise("second", 64 << 20)).expect("there is room in the pool");
    // It is cut all the same, and is not ready for as long as the repository is full.
    let refusal = loop {
        match client.cut(&growing.id, "second").await {
            Ok(snapshot) => assert!(!snapshot.ready_to_use, "it cannot have been stored"),
            Err(status) => break status,
        }
    };
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    assert!(refusal.message().contains("No space left"), "{refusal}");

    // What was ready still restores from the full repository.
    let image = scratch.path().join("first.img");
    let output = setup.varve(["snapshot", "restore", &first.snapshot_id, "--to", text(&image)]);
    assert!(output.status.success(), "{}", varve_harness::driver::complaint(&output));
    tools::run("e2fsck", ["-f", "-n", text(&image)], "e2fsprogs");

    // With room again, the next start takes the cut up where it was.
    fs::remove_file(&ballast).expect("it is there");
    assert!(driver.terminate().success());
    let driver = Standalone::start(&setup);
    let client = Client::connect(&driver).await;
    let second = client.snapshot(&growing.id, "second").await;
    let image = scratch.path().join("second.img");
    let output = setup.varve(["snapshot", "restore", &second.snapshot_id, "--to", text(&image)]);
    assert!(output.status.success(), "{}", varve_harness::driver::complaint(&output));
    let folder = scratch.path().join("mounted");
    fs::create_dir(&folder).expect("a folder can be made");
    tools::run("mount", ["-o", "loop,ro", text(&image), text(&folder)], "mount");
    for (name, length) in [("first", 16 << 20), ("second", 64 << 20)] {
        assert!(fs::read(folder.join(name)).expect("it is there") == noise(name, length), "{name} differs");
    }
    tools::run("umount", [text(&folder)], "mount");
    assert!(driver.terminate().success());
}
