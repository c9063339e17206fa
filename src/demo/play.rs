//! The demo's acts, in their order.
//!
//! # Concurrency
//!
//! Work on files runs on blocking threads and is tracked, so that it is waited for even when nobody waits for its result:
//! its file systems go at the end.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::fs::statvfs;
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use varve_repository::{
    Repository, SnapshotState, crypto::MasterKey, record::snapshot::Root, seam::Seams, store::Store,
};
use varve_scratch::Scratch;

use super::{
    Narrator,
    change::{self, Changes},
    driver::{self, Driver, Setup},
    fill::{self, Plan},
    in_millis,
    kubelet::{Kubelet, Mounted},
    report::{Comparison, Report, SnapshotReport, WriterReport},
    tree::Tree,
    writer::{self, Ledger},
};
use crate::{
    arguments::PoolFilesystem,
    failure::chain,
    quantity::{bytes, millis},
};

/// The volume's size is a multiple of this, in bytes.
const VOLUME_GRANULE: u64 = 64 << 20;
/// Where in the volume the writer writes.
const LOG: &str = "journal/log";
/// How long the writer writes before the snapshot is asked for.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long to wait for work on files to end once it is told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// A demo under way.
#[derive(Debug)]
pub(super) struct Play {
    filesystem: PoolFilesystem,
    limit: u64,
    source: PathBuf,
    narrator: Narrator,
    scratch: Arc<Scratch>,
    driver: Option<Driver>,
    /// Tells work on files to end.
    stop: CancellationToken,
    /// The work on files, which must have ended before its file systems go.
    work: TaskTracker,
}

/// What is known of a snapshot when it is made.
#[derive(Debug)]
struct Taken {
    name: &'static str,
    id: String,
    tree: Tree,
    cut: Duration,
}

impl Play {
    /// Makes a demo that takes at most `limit` bytes from `source`.
    pub(super) fn new(
        filesystem: PoolFilesystem,
        source: PathBuf,
        limit: u64,
        narrator: Narrator,
        scratch: Arc<Scratch>,
    ) -> Self {
        Self {
            filesystem,
            limit,
            source,
            narrator,
            scratch,
            driver: None,
            stop: CancellationToken::new(),
            work: TaskTracker::new(),
        }
    }

    /// Plays it to its end.
    ///
    /// # Errors
    /// Whatever fails; that files differ is no error but part of the report.
    pub(super) async fn play(&mut self) -> anyhow::Result<Report> {
        let plan = self.survey().await?;
        let volume_bytes = volume_bytes(&plan);
        self.check_room(volume_bytes)?;
        let key_file = self.scratch.path().join("master.key");
        let seams = Seams::system();
        let master = MasterKey::generate(seams.entropy.as_ref());
        master.write_new(&key_file)?;
        let repository = format!("file://{}", self.scratch.path().join("repository").display());
        let setup = |node: &'static str| Setup {
            node,
            folder: self.scratch.path().join(node),
            pool_bytes: 3 * volume_bytes + (1 << 30),
            filesystem: self.filesystem,
            repository: repository.clone(),
            key_file: key_file.clone(),
        };
        let (first, second) = (setup("node-1"), setup("node-2"));

        let kubelet = self.start(&first).await?;
        let volume = self.provision(&kubelet, &plan, volume_bytes).await?;
        let entries = plan.len();
        let data_bytes = plan.bytes;
        let one = self.first_snapshot(&kubelet, &volume, plan).await?;
        let (two, changes, mut writer) = self.second_snapshot(&kubelet, &volume, &one).await?;
        let engine = Repository::open(Store::open(&repository, &[])?, &master, seams).await?;
        let roots = [root(&engine, &one).await?, root(&engine, &two).await?];
        self.lose_the_node(&first).await?;

        let kubelet = self.start(&second).await?;
        let restored_one = self.restore(&kubelet, &one, volume_bytes, None).await?;
        let restored_two = self.restore(&kubelet, &two, volume_bytes, Some(&mut writer)).await?;
        self.narrator.say("");
        let restore_ms = in_millis(restored_one.restore + restored_two.restore);
        let snapshots = vec![
            SnapshotReport::new(&roots[0], one.cut, restored_one),
            SnapshotReport::new(&roots[1], two.cut, restored_two),
        ];
        Ok(Report {
            identical: snapshots.iter().all(SnapshotReport::identical),
            pool_filesystem: driver::name(self.filesystem),
            entries,
            data_bytes,
            changes,
            snapshots,
            writer,
            restore_ms,
        })
    }

    async fn survey(&self) -> anyhow::Result<Plan> {
        let (source, limit) = (self.source.clone(), self.limit);
        let plan = self.on_files(move |stop| Plan::survey(&source, limit, stop)).await?;
        self.narrator.say(format_args!(
            "{} files with {} from {}",
            plan.len(),
            bytes(plan.bytes),
            self.source.display()
        ));
        Ok(plan)
    }

    /// Makes sure that there is room for the volume, the repository and two volumes restored.
    fn check_room(&self, volume_bytes: u64) -> anyhow::Result<()> {
        let folder = self.scratch.path();
        let system = statvfs(folder).context("measuring the temporary folder's file system")?;
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        let needed = volume_bytes.saturating_mul(4);
        if free < needed {
            bail!(
                "{} has {} free: {} are needed; name another folder with TMPDIR or take less with --limit",
                folder.display(),
                bytes(free),
                bytes(needed)
            );
        }
        Ok(())
    }

    async fn start(&mut self, setup: &Setup) -> anyhow::Result<Kubelet> {
        fs::create_dir(&setup.folder).with_context(|| format!("making {}", setup.folder.display()))?;
        let driver = Driver::start(setup).await?;
        self.narrator.say(format_args!(
            "driver {} is ready, with an empty {} pool of {}",
            setup.node,
            driver::name(setup.filesystem),
            bytes(setup.pool_bytes)
        ));
        let kubelet = Kubelet::new(driver.channel(), setup.folder.clone());
        self.driver = Some(driver);
        Ok(kubelet)
    }

    async fn provision(&self, kubelet: &Kubelet, plan: &Plan, volume_bytes: u64) -> anyhow::Result<Mounted> {
        let id = kubelet.provision("pvc-demo", volume_bytes, None).await?;
        let volume = kubelet.mount(&id).await?;
        self.narrator.say(format_args!(
            "volume {id} of {} is mounted; filling it with {} files",
            bytes(volume_bytes),
            plan.len()
        ));
        Ok(volume)
    }

    /// Fills the volume, records what is in it, and snapshots it.
    async fn first_snapshot(&self, kubelet: &Kubelet, volume: &Mounted, plan: Plan) -> anyhow::Result<Taken> {
        let target = volume.path().to_owned();
        let tree = self
            .on_files(move |stop| {
                let data = target.join("data");
                fs::create_dir(&data).context("making a folder in the volume")?;
                plan.copy(&data, stop)?;
                fill::oddities(&target.join("oddities")).context("making odd files")?;
                Tree::record(&target, Path::new(LOG), stop)
            })
            .await?;
        let (id, cut) = self.snapshot(kubelet, volume, "first").await?;
        Ok(Taken { name: "first", id, tree, cut })
    }

    /// Changes files, records what is in the volume, and snapshots it while a writer writes.
    async fn second_snapshot(
        &self,
        kubelet: &Kubelet,
        volume: &Mounted,
        first: &Taken,
    ) -> anyhow::Result<(Taken, Changes, WriterReport)> {
        let (target, mut files) = (volume.path().to_owned(), first.tree.files());
        files.retain(|file| file.path.starts_with("data"));
        let (changes, tree) = self
            .on_files(move |stop| {
                let changes = change::change(&target, &files, &target.join("fresh"))?;
                let log = target.join(LOG);
                fs::create_dir(log.parent().expect("the log lies in a folder")).context("making the log's folder")?;
                fs::File::create(&log).context("making the log")?;
                Ok((changes, Tree::record(&target, Path::new(LOG), stop)?))
            })
            .await?;
        self.narrator.say(format_args!(
            "changed about 1 %: {} files edited, {} made, {} removed, {} renamed",
            changes.edited, changes.created, changes.deleted, changes.renamed
        ));

        let (ledger, stop) = (Ledger::default(), self.stop.child_token());
        let writer = self.work.spawn_blocking({
            let (log, ledger, stop) = (volume.path().join(LOG), ledger.clone(), stop.clone());
            move || writer::write(&log, &ledger, &stop)
        });
        while ledger.synced() == 0 && !writer.is_finished() {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(WARM_UP).await;
        ledger.take_longest();
        let synced_before = ledger.synced();
        let started = Instant::now();
        let snapshot = kubelet.cut(volume.id(), "second").await?;
        let cut = started.elapsed();
        let written_after = ledger.started();
        let longest_stall_ms = in_millis(ledger.take_longest());
        stop.cancel();
        writer.await??;
        self.narrator.say(format_args!(
            "snapshot second is cut after {}; the writer waited {} at the most",
            millis(in_millis(cut)),
            millis(longest_stall_ms)
        ));
        self.wait_until_ready(kubelet, volume, "second").await?;
        let report = WriterReport { synced_before, restored: 0, written_after, longest_stall_ms };
        Ok((Taken { name: "second", id: snapshot.snapshot_id, tree, cut }, changes, report))
    }

    async fn snapshot(&self, kubelet: &Kubelet, volume: &Mounted, name: &str) -> anyhow::Result<(String, Duration)> {
        let started = Instant::now();
        let snapshot = kubelet.cut(volume.id(), name).await?;
        let cut = started.elapsed();
        self.narrator.say(format_args!("snapshot {name} is cut after {}", millis(in_millis(cut))));
        self.wait_until_ready(kubelet, volume, name).await?;
        Ok((snapshot.snapshot_id, cut))
    }

    async fn wait_until_ready(&self, kubelet: &Kubelet, volume: &Mounted, name: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        kubelet.wait_until_ready(volume.id(), name).await?;
        self.narrator
            .say(format_args!("snapshot {name} is in the repository, {} later", millis(in_millis(started.elapsed()))));
        Ok(())
    }

    /// Kills the driver and destroys its pool and everything on it.
    async fn lose_the_node(&mut self, setup: &Setup) -> anyhow::Result<()> {
        if let Some(driver) = self.driver.take() {
            driver.kill().await.context("killing the driver")?;
        }
        let (scratch, folder) = (Arc::clone(&self.scratch), setup.folder.clone());
        self.on_files(move |_| {
            scratch.clear(&folder).context("taking the lost node's mounts away")?;
            fs::remove_dir_all(&folder).context("destroying the lost node's pool")
        })
        .await?;
        self.narrator
            .say(format_args!("killed driver {} and destroyed its pool: only the repository is left", setup.node));
        Ok(())
    }

    /// Restores a snapshot into a new volume and compares every file.
    async fn restore(
        &self,
        kubelet: &Kubelet,
        taken: &Taken,
        volume_bytes: u64,
        writer: Option<&mut WriterReport>,
    ) -> anyhow::Result<Comparison> {
        let started = Instant::now();
        let id = kubelet.provision(&format!("pvc-restored-{}", taken.name), volume_bytes, Some(&taken.id)).await?;
        let restore = started.elapsed();
        let volume = kubelet.mount(&id).await?;
        self.narrator.say(format_args!("snapshot {} is restored after {}", taken.name, millis(in_millis(restore))));
        let target = volume.path().to_owned();
        let restored = self.on_files(move |stop| Tree::record(&target, Path::new(LOG), stop)).await?;
        let mut differences = taken.tree.differences(&restored);
        if let Some(report) = writer {
            let (log, least, most) = (volume.path().join(LOG), report.synced_before, report.written_after);
            match self.on_files(move |_| writer::verify(&log, least, most)).await {
                Ok(records) => report.restored = records,
                Err(error) => differences.push(format!("{LOG}: {}", chain(&error))),
            }
        }
        self.narrator.say(format_args!(
            "compared {} files with those of snapshot {}: {}",
            restored.len(),
            taken.name,
            if differences.is_empty() { "identical".to_owned() } else { format!("{} DIFFER", differences.len()) }
        ));
        kubelet.discard(volume).await?;
        Ok(Comparison { compared: restored.len(), differences, restore })
    }

    /// Runs work on files off the runtime; it is waited for at the end, even when nobody waits for its result.
    async fn on_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CancellationToken) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let stop = self.stop.clone();
        self.work.spawn_blocking(move || work(&stop)).await?
    }

    /// Ends whatever still runs: the driver, which thaws what it froze, then the work on files.
    ///
    /// # Errors
    /// That the driver did not end as it should.
    pub(super) async fn end(&mut self, show_log: bool) -> anyhow::Result<()> {
        self.stop.cancel();
        let mut result = Ok(());
        if let Some(driver) = self.driver.take() {
            if show_log {
                eprintln!("the driver's log ends with:\n{}", driver.log_tail());
            }
            result = match driver.end().await {
                Ok(Some(status)) if status.success() => Ok(()),
                Ok(Some(status)) => Err(anyhow::anyhow!("the driver ended with {status}")),
                Ok(None) => Err(anyhow::anyhow!("the driver did not end when told to and was killed")),
                Err(error) => Err(error).context("ending the driver"),
            };
        }
        self.work.close();
        if timeout(PATIENCE, self.work.wait()).await.is_err() {
            eprintln!("work on files did not end in time");
        }
        result
    }
}

/// Room for the files, their metadata and changes; a new ext4 has one inode for every 16 KiB.
fn volume_bytes(plan: &Plan) -> u64 {
    let entries = u64::try_from(plan.len()).unwrap_or(u64::MAX);
    let needed =
        plan.bytes.saturating_add(plan.bytes / 5).saturating_add(entries.saturating_mul(20 << 10)) + (256 << 20);
    needed.next_multiple_of(VOLUME_GRANULE)
}

/// Reads a snapshot's root from the repository.
async fn root(repository: &Repository, taken: &Taken) -> anyhow::Result<Box<Root>> {
    match repository.snapshot(taken.id.parse()?).await? {
        SnapshotState::Committed(root) => Ok(root),
        state => bail!("snapshot {} is said to be ready and is not in the repository: {state:?}", taken.name),
    }
}
