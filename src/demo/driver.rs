//! The driver as a process of its own: `varve standalone`, started from this very program.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};
use tonic::transport::Channel;
use varve_proto::csi::{ProbeRequest, identity_client::IdentityClient};

use crate::{arguments::PoolFilesystem, client};

/// How long a driver may take until it is ready, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether it is ready.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of its log that are shown when it fails.
const LOG_TAIL: usize = 30;

/// What a driver is started with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The node's name.
    pub(crate) node: &'static str,
    /// Folder for its socket, pool, configuration and log; it must be there.
    pub(crate) folder: PathBuf,
    /// Size of its pool, in bytes.
    pub(crate) pool_bytes: u64,
    /// What the pool is.
    pub(crate) filesystem: PoolFilesystem,
    /// The repository's location.
    pub(crate) repository: String,
    /// The master key.
    pub(crate) key_file: PathBuf,
}

/// A running driver. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Driver {
    child: Child,
    channel: Channel,
    log: PathBuf,
}

impl Driver {
    /// Starts a driver and waits until it is ready.
    ///
    /// # Errors
    /// That it ended, with the end of its log, or did not become ready in time.
    pub(crate) async fn start(setup: &Setup) -> anyhow::Result<Self> {
        let log = setup.folder.join("driver.log");
        let config = setup.folder.join("varve.toml");
        // CreateSnapshot is to answer at the cut, so that cut and offload can be told apart.
        fs::write(&config, "snapshot_wait_ms = 0\n").context("writing the driver's configuration")?;
        let endpoint = format!("unix://{}", setup.folder.join("csi.sock").display());
        let mut child = Command::new(env::current_exe().context("finding this program")?)
            .arg("standalone")
            .args(["--endpoint", &endpoint])
            .args(["--node-id", setup.node])
            .arg("--pool-image")
            .arg(setup.folder.join("pool.img"))
            .args(["--pool-size", &setup.pool_bytes.to_string()])
            .args(["--pool-filesystem", name(setup.filesystem)])
            .args(["--repository", &setup.repository])
            .arg("--key-file")
            .arg(&setup.key_file)
            .arg("--config")
            .arg(&config)
            .env_remove("VARVE_REPOSITORY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).context("making the driver's log")?)
            // Ctrl-C on a terminal reaches the demo alone, which then ends things in their order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("starting the driver")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().context("watching the driver")? {
                bail!("the driver ended ({status}):\n{}", tail(&log));
            }
            if let Ok(channel) = client::connect(&endpoint).await
                && let Ok(answer) = IdentityClient::new(channel.clone()).probe(ProbeRequest {}).await
                && answer.into_inner().ready.unwrap_or(true)
            {
                return Ok(Self { child, channel, log });
            }
            if Instant::now() > deadline {
                bail!("the driver is not ready after {} s:\n{}", PATIENCE.as_secs(), tail(&log));
            }
            sleep(LOOK).await;
        }
    }

    /// The connection to it.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The end of what it logged.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Kills it, as a node that loses its power would.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Tells it to end, and kills it where it does not.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn end(mut self) -> io::Result<Option<ExitStatus>> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            kill_process(id, Signal::TERM)?;
        }
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.map(Some),
            Err(_) => self.child.kill().await.map(|()| None),
        }
    }
}

/// The name that an argument has for it.
pub(crate) fn name(filesystem: PoolFilesystem) -> &'static str {
    match filesystem {
        PoolFilesystem::Xfs => "xfs",
        PoolFilesystem::Btrfs => "btrfs",
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}
