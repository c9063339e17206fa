//! A volume that a workload writes to, the loss of its node, and its return elsewhere.

use std::{fs, path::PathBuf};

use varve_proto::csi::Snapshot;

use varve_harness::{
    Pool, Scratch, Setup, Standalone,
    csi::{Client, Published, from_snapshot, mount, volume},
    driver::{complaint, text},
    tools,
};

/// A driver with one published volume.
#[derive(Debug)]
pub(crate) struct Scene {
    setup: Setup,
    driver: Standalone,
    pub(crate) client: Client,
    pub(crate) volume: Published,
    filesystem: &'static str,
    bytes: i64,
    // Last: it takes away what the driver leaves behind.
    scratch: Scratch,
}

/// A second node, which has the repository alone.
#[derive(Debug)]
pub(crate) struct Rescue {
    setup: Setup,
    _driver: Standalone,
    client: Client,
    filesystem: &'static str,
    bytes: i64,
    scratch: Scratch,
}

impl Scene {
    /// Starts a driver on a pool of its own and publishes a volume: ext4, xfs or (`""`) the raw device.
    pub(crate) async fn start(pool: Pool, filesystem: &'static str, bytes: i64) -> Self {
        let scratch = Scratch::new("varve-workload-").expect("a folder can be made");
        let setup = Setup { pool, ..Setup::new(scratch.path()) };
        let driver = Standalone::start(&setup);
        let client = Client::connect(&driver).await;
        let capability = capability(filesystem);
        let made = client.create(volume("workload", bytes, &capability)).await.expect("a volume is made");
        let volume = client.publish(&made.volume_id, &capability).await.expect("it is published");
        Self { setup, driver, client, volume, filesystem, bytes, scratch }
    }

    /// Takes a snapshot and waits until it is in the repository.
    pub(crate) async fn snapshot(&self, name: &str) -> Snapshot {
        self.client.snapshot(&self.volume.id, name).await
    }

    /// A folder for what is not to be on the volume.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Kills the driver, destroys its pool with every image, and starts another on an empty one. Whatever uses the
    /// volume is to be ended before.
    pub(crate) async fn lose_node(self) -> Rescue {
        self.driver.kill();
        self.scratch.clear(&self.setup.folder).expect("what stood on the node is gone");
        fs::remove_dir_all(&self.setup.folder).expect("the node is gone");
        let folder = self.scratch.path().join("second");
        let setup = Setup { folder, node: "node-2".into(), ..self.setup };
        let driver = Standalone::start(&setup);
        let client = Client::connect(&driver).await;
        let Self { filesystem, bytes, scratch, .. } = self;
        Rescue { setup, _driver: driver, client, filesystem, bytes, scratch }
    }
}

impl Rescue {
    /// Restores a snapshot into a new volume and publishes it.
    pub(crate) async fn restore(&self, snapshot: &Snapshot) -> Published {
        let capability = capability(self.filesystem);
        let mut request = volume(&format!("restored-{}", snapshot.snapshot_id), self.bytes, &capability);
        request.volume_content_source = from_snapshot(&snapshot.snapshot_id);
        let made = self.client.create(request).await.expect("a snapshot is restored");
        self.client.publish(&made.volume_id, &capability).await.expect("it is published")
    }

    /// Restores a snapshot into a file with the operator's command and has the file system's own checker look at it.
    pub(crate) fn check(&self, snapshot: &Snapshot) {
        let image = self.scratch.path().join(format!("{}.img", snapshot.snapshot_id));
        let output = self.setup.varve(["snapshot", "restore", &snapshot.snapshot_id, "--to", text(&image)]);
        assert!(output.status.success(), "{}", complaint(&output));
        match self.filesystem {
            "ext4" => drop(tools::run("e2fsck", ["-f", "-n", text(&image)], "e2fsprogs")),
            "xfs" => {
                // What a freeze leaves in XFS's log is for the next mount to replay; its checker does not.
                let folder = self.scratch.path().join("checked");
                fs::create_dir_all(&folder).expect("a folder can be made");
                tools::run("mount", ["-o", "loop,nouuid", text(&image), text(&folder)], "mount");
                tools::run("umount", [text(&folder)], "mount");
                tools::run("xfs_repair", ["-n", "-f", text(&image)], "xfsprogs");
            }
            other => panic!("{other} has no checker here"),
        }
        fs::remove_file(image).expect("it is there");
    }

    /// Bytes of all packs and runs in the repository.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let output = self.setup.varve(["repository", "stats", "--output", "json"]);
        assert!(output.status.success(), "{}", complaint(&output));
        let stats: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
        let bytes = |field: &str| stats[field].as_u64().unwrap_or_else(|| panic!("{field} in {stats}"));
        bytes("pack_bytes") + bytes("run_bytes")
    }
}

fn capability(filesystem: &str) -> varve_proto::csi::VolumeCapability {
    if filesystem.is_empty() { varve_harness::csi::block() } else { mount(filesystem) }
}
