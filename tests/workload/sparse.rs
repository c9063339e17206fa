//! A volume of 100 GiB that is nearly empty.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
};

use serial_test::serial;

use varve_harness::{Pool, csi::Published};

use super::scene::Scene;

const BYTES: u64 = 100 << 30;

/// Where something is written: at both ends, and far apart in between.
const OFFSETS: [u64; 5] = [0, 4096 * 77, 31 << 30, (64 << 30) - 4096, BYTES - 4096];

fn open(volume: &Published) -> File {
    OpenOptions::new().read(true).write(true).open(&volume.target).expect("the device is there")
}

fn page(seed: u64) -> Vec<u8> {
    let mut page = vec![0; 4096];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut page);
    page
}

#[tokio::test(flavor = "multi_thread")]
#[serial]
async fn a_hundred_gibibytes_cost_what_is_in_them() {
    let bytes = i64::try_from(BYTES).expect("it fits");
    let scene = Scene::start(Pool::Image("xfs", "120GiB"), "", bytes).await;
    let device = open(&scene.volume);
    for offset in OFFSETS {
        device.write_all_at(&page(offset), offset).expect("it is written");
    }
    device.sync_all().expect("it is synced");
    let snapshot = scene.snapshot("sparse").await;
    assert_eq!(snapshot.size_bytes, bytes);
    drop(device);

    let rescue = scene.lose_node().await;
    let restored = rescue.restore(&snapshot).await;
    let device = open(&restored);
    for offset in OFFSETS {
        let mut found = vec![0; 4096];
        device.read_exact_at(&mut found, offset).expect("it is read");
        assert!(found == page(offset), "the page at {offset}");
    }
    let mut between = vec![1; 1 << 20];
    device.read_exact_at(&mut between, 50 << 30).expect("it is read");
    assert!(between.iter().all(|byte| *byte == 0), "nothing was written there");

    let stored: u64 = rescue.stored_bytes();
    assert!(stored < 256 << 10, "{stored} bytes were stored for {} pages", OFFSETS.len());
}
