//! A driver with a pool of its own, on which volumes are measured.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use varve_harness::{
    Pool, Scratch, Setup, Standalone,
    csi::{self, Client, Published},
};
use varve_node::extent::{self, State};
use varve_proto::csi::{CreateSnapshotRequest, Snapshot};
use varve_repository::block::{BLOCK_SIZE, BlockRange};

use crate::fio;

/// A running driver, its pool and its repository, all in a folder that goes with it.
#[derive(Debug)]
pub(crate) struct Bed {
    pub client: Client,
    driver: Standalone,
    scratch: Scratch,
}

impl Bed {
    /// Starts a driver below `folder`, on a pool image formatted as `filesystem`, with this text as its configuration.
    pub(crate) async fn start(
        folder: &Path,
        filesystem: &'static str,
        size: &'static str,
        configuration: &str,
    ) -> anyhow::Result<Self> {
        let scratch = Scratch::within(folder, "varve-bench-").context("making a folder for a driver")?;
        let mut setup = Setup::new(scratch.path());
        setup.pool = Pool::Image(filesystem, size);
        setup.configuration = configuration.to_owned();
        let driver =
            tokio::task::spawn_blocking(move || Standalone::start(&setup)).await.context("starting a driver")?;
        Ok(Self { client: Client::connect(&driver).await, driver, scratch })
    }

    /// Makes a volume, and mounts it.
    pub(crate) async fn volume(&self, name: &str, bytes: u64, filesystem: &str) -> anyhow::Result<Published> {
        let capability = csi::mount(filesystem);
        let request = csi::volume(name, i64::try_from(bytes)?, &capability);
        let volume = self.client.create(request).await.context("making a volume")?;
        self.client.publish(&volume.volume_id, &capability).await.context("mounting a volume")
    }

    /// Writes a file, `file`, into a new volume, so that its image lies in about so many extents; returns how many.
    pub(crate) async fn fragment(&self, volume: &Published, wanted: u64) -> anyhow::Result<u64> {
        let file = volume.path("file");
        let length = format!("size={}k", wanted * BLOCK_SIZE / 1024);
        let fixed = ["bs=1m", "iodepth=4", "ioengine=libaio", "end_fsync=1", "buffer_compress_percentage=50", &length];
        fio::run(&file, &[&["rw=write"][..], &fixed].concat()).await?;
        // Every other block is overwritten once it is shared, and moves: what was one extent becomes one for each block.
        let shared = self.cut(volume, "shared").await?;
        fio::run(&file, &["rw=write:4k", "bs=4k", "iodepth=16", "ioengine=libaio", "end_fsync=1", &length]).await?;
        self.client.delete_snapshot(&shared.snapshot_id).await.context("deleting a cut")?;
        let found = extents(&self.image(volume))?;
        ensure!(found >= wanted * 9 / 10, "the image has {found} extents, and {wanted} were wanted");
        Ok(found)
    }

    /// Unmounts a volume and deletes it.
    pub(crate) async fn remove(&self, volume: &Published) -> anyhow::Result<()> {
        self.client.unpublish(volume).await.context("unmounting a volume")?;
        self.client.delete(&volume.id).await.context("deleting a volume")
    }

    /// Makes a snapshot, kept on the node alone.
    pub(crate) async fn cut(&self, volume: &Published, name: &str) -> anyhow::Result<Snapshot> {
        let request = CreateSnapshotRequest {
            source_volume_id: volume.id.clone(),
            name: name.to_owned(),
            parameters: [("durability".to_owned(), "node".to_owned())].into(),
            ..Default::default()
        };
        let answered = self.client.controller.clone().create_snapshot(request).await.context("making a cut")?;
        answered.into_inner().snapshot.context("a cut was not answered with a snapshot")
    }

    /// How long writers were held for a snapshot that the node still has, in seconds.
    pub(crate) fn pause(&self, snapshot: &str) -> anyhow::Result<f64> {
        let path = self.pool().join("cuts").join(snapshot).join("record.json");
        let record: serde_json::Value = serde_json::from_slice(&fs::read(&path).context("reading a cut's record")?)?;
        let description = &record["record"]["description"];
        ensure!(description["frozen"] == true, "{} says that nobody was held", path.display());
        let nanos = description["pause_nanos"].as_u64().context("a cut's record has no pause")?;
        Ok(nanos as f64 / 1e9)
    }

    /// Where the pool is mounted.
    pub(crate) fn pool(&self) -> PathBuf {
        self.driver.setup().folder.join("pool.img.mount")
    }

    /// A volume's image in the pool.
    pub(crate) fn image(&self, volume: &Published) -> PathBuf {
        self.pool().join("volumes").join(&volume.id).join("data/image")
    }

    /// The folder of it all.
    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// The driver.
    pub(crate) fn driver(&self) -> &Standalone {
        &self.driver
    }
}

/// Counts the written extents of an image.
pub(crate) fn extents(image: &Path) -> anyhow::Result<u64> {
    let file = fs::File::open(image).context("opening an image")?;
    let whole = BlockRange::new(0, file.metadata()?.len() / BLOCK_SIZE);
    let mut count = 0;
    for mapped in extent::map(&file, whole) {
        count += u64::from(mapped.context("reading an extent map")?.state != State::Unwritten);
    }
    Ok(count)
}
