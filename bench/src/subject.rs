//! What is measured: the release build's driver as a process, with a volume that is mounted, and what it takes to back
//! that volume up and to restore it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tonic::{Code, Status};
use varve_harness::{
    Pool, Setup, Standalone,
    csi::{self, Client, Published},
};
use varve_repository::record::snapshot::Root;

use crate::{
    disk::{self, blocking},
    process,
    rivals::run::Taken,
};

/// How long to wait before a call is made again, as a provisioner would, only sooner.
const AGAIN: Duration = Duration::from_millis(5);

/// The file system of every volume here.
const FILESYSTEM: &str = "ext4";

/// What nobody asked for while something is measured.
const CONFIGURATION: &str = "collect_hours = 0\n";

/// Where a driver is, and how large.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Holds the repository and the key.
    pub folder: PathBuf,
    /// The size of a pool, which is sparse.
    pub pool: &'static str,
    /// The capacity of a volume, in bytes.
    pub capacity: u64,
}

/// A running driver with one mounted volume.
#[derive(Debug)]
pub(crate) struct Subject {
    driver: Standalone,
    client: Client,
    place: Place,
    published: Option<Published>,
}

impl Place {
    /// The repository's folder.
    pub(crate) fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// Starts a driver, with a pool of its own that is empty; it has no volume yet.
    pub(crate) async fn start(&self, name: &str) -> anyhow::Result<Subject> {
        let mut setup = Setup::new(&self.folder);
        setup.folder = self.folder.join(name);
        setup.node = name.into();
        setup.pool = Pool::Image("xfs", self.pool);
        setup.configuration = CONFIGURATION.into();
        let driver = blocking(move || Ok(Standalone::start(&setup))).await?;
        let client = Client::connect(&driver).await;
        Ok(Subject { driver, client, place: self.clone(), published: None })
    }
}

impl Subject {
    /// Makes an empty volume and mounts it.
    pub(crate) async fn make(&mut self, name: &str) -> anyhow::Result<()> {
        let request = csi::volume(name, self.capacity()?, &csi::mount(FILESYSTEM));
        self.provide(request).await
    }

    /// Restores a snapshot into a new volume and mounts it; returns what that took until everything was on the disk.
    pub(crate) async fn restore(&mut self, name: &str, snapshot: &str) -> anyhow::Result<Taken> {
        let mut request = csi::volume(name, self.capacity()?, &csi::mount(FILESYSTEM));
        request.volume_content_source = csi::from_snapshot(snapshot);
        let meter = Meter::start(self.id()?)?;
        self.provide(request).await?;
        disk::settle_filesystem(self.mounted()?).await?;
        meter.stop()
    }

    async fn provide(&mut self, request: varve_proto::csi::CreateVolumeRequest) -> anyhow::Result<()> {
        let volume = loop {
            match self.client.controller.clone().create_volume(request.clone()).await {
                Ok(response) => break response.into_inner().volume.context("the driver answers with a volume")?,
                Err(status) if again(&status) => tokio::time::sleep(AGAIN).await,
                Err(status) => bail!("making a volume: {status}\n{}", self.driver.log()),
            }
        };
        let published = self.client.publish(&volume.volume_id, &csi::mount(FILESYSTEM)).await;
        self.published = Some(published.context("publishing a volume")?);
        Ok(())
    }

    /// Where the volume is mounted.
    pub(crate) fn mounted(&self) -> anyhow::Result<&Path> {
        Ok(&self.volume()?.target)
    }

    /// The folder that the pool is mounted at.
    pub(crate) fn pool(&self) -> PathBuf {
        self.driver.setup().folder.join("pool.img.mount")
    }

    /// The image of the cut of a snapshot, while the driver keeps it.
    pub(crate) fn cut(&self, snapshot: &str) -> PathBuf {
        self.pool().join("cuts").join(snapshot).join("data/image")
    }

    fn volume(&self) -> anyhow::Result<&Published> {
        self.published.as_ref().context("the driver has a volume")
    }

    fn capacity(&self) -> anyhow::Result<i64> {
        i64::try_from(self.place.capacity).context("a capacity fits")
    }

    fn id(&self) -> anyhow::Result<u32> {
        u32::try_from(self.driver.id().as_raw_nonzero().get()).context("a process has a positive id")
    }

    /// Takes a snapshot; returns its id and what it took from the call until the snapshot was ready, everything in
    /// the repository's folder being on the disk.
    pub(crate) async fn back_up(&self, name: &str) -> anyhow::Result<(String, Taken)> {
        let volume = &self.volume()?.id;
        let meter = Meter::start(self.id()?)?;
        let snapshot = loop {
            match self.client.cut(volume, name).await {
                Ok(snapshot) if snapshot.ready_to_use => break snapshot.snapshot_id,
                Err(status) if !again(&status) => bail!("taking a snapshot: {status}\n{}", self.driver.log()),
                _ => tokio::time::sleep(AGAIN).await,
            }
        };
        disk::settle(&self.place.repository()).await?;
        Ok((snapshot, meter.stop()?))
    }

    /// What the repository says of a snapshot.
    pub(crate) async fn root(&self, snapshot: &str) -> anyhow::Result<Root> {
        let output = self.command(["snapshot", "show", snapshot, "--output", "json"]).await?;
        serde_json::from_slice(&output).context("reading a snapshot's root")
    }

    /// Deletes a snapshot and all that it holds, so that the next one is the first of its volume again.
    pub(crate) async fn forget(&self, snapshot: &str) -> anyhow::Result<()> {
        self.client.delete_snapshot(snapshot).await.context("deleting a snapshot")?;
        self.command(["repository", "collect", "--output", "json"]).await?;
        for folder in ["packs", "runs"] {
            let (files, _) = disk::walk(&self.place.repository().join(folder))?;
            ensure!(files.is_empty(), "{} files are left in {folder} of an empty repository", files.len());
        }
        Ok(())
    }

    async fn command<const N: usize>(&self, arguments: [&str; N]) -> anyhow::Result<Vec<u8>> {
        let setup = self.driver.setup().clone();
        let arguments = arguments.map(str::to_owned);
        let output = blocking(move || Ok(setup.varve(arguments.each_ref().map(String::as_str)))).await?;
        ensure!(output.status.success(), "varve: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }

    /// Unmounts the volume, ends the driver and removes its pool.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        if let Some(published) = &self.published {
            self.client.unpublish(published).await.context("unpublishing a volume")?;
        }
        let folder = self.driver.setup().folder.clone();
        let driver = self.driver;
        blocking(move || {
            let status = driver.terminate();
            ensure!(status.success(), "the driver ended with {status}");
            std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
        })
        .await
    }
}

/// Whether Kubernetes would simply make the call again.
fn again(status: &Status) -> bool {
    matches!(status.code(), Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// Measures what a running process takes for something.
struct Meter {
    process: u32,
    cpu: Duration,
    started: Instant,
}

impl Meter {
    fn start(process: u32) -> anyhow::Result<Self> {
        process::forget_peak_memory_of(process)?;
        Ok(Self { process, cpu: process::cpu_of(process)?, started: Instant::now() })
    }

    fn stop(self) -> anyhow::Result<Taken> {
        let wall = self.started.elapsed();
        let cpu = process::cpu_of(self.process)?.saturating_sub(self.cpu);
        Ok(Taken { wall, cpu, peak_memory: process::peak_memory_of(self.process)? })
    }
}
