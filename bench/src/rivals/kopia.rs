//! kopia, with zstd as its compression.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::Context;
use async_trait::async_trait;
use serde::Deserialize;
use tokio::process::Command;

use super::{
    PASSWORD, Rival, command,
    run::{Taken, run},
};

/// kopia, and the folder that it keeps everything in.
pub(crate) struct Kopia {
    folder: PathBuf,
    /// The snapshot that was made last.
    last: Mutex<Option<String>>,
}

/// What kopia answers to `snapshot create`.
#[derive(Deserialize)]
struct Created {
    id: String,
}

impl Kopia {
    /// Gives it a folder below another.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.join("kopia"), last: Mutex::default() }
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = command("kopia", &self.folder)?;
        command
            .env("KOPIA_PASSWORD", PASSWORD)
            .env("KOPIA_CONFIG_PATH", self.folder.join("repository.config"))
            .env("KOPIA_CACHE_DIRECTORY", self.folder.join("cache"))
            .env("KOPIA_LOG_DIR", self.folder.join("log"))
            .env("KOPIA_CHECK_FOR_UPDATES", "false")
            .env("KOPIA_USE_KEYRING", "false")
            .args(["--no-progress", "--no-auto-maintenance", "--log-level=warning", "--file-log-level=warning"]);
        Ok(command)
    }
}

#[async_trait]
impl Rival for Kopia {
    fn name(&self) -> &'static str {
        "kopia"
    }

    fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    async fn init(&self) -> anyhow::Result<()> {
        fs::create_dir_all(self.repository()).context("making a folder for kopia")?;
        let mut create = self.command()?;
        create.args(["repository", "create", "filesystem", "--override-hostname=bench", "--override-username=bench"]);
        create.arg("--path").arg(self.repository());
        run(create).await?;
        let mut policy = self.command()?;
        policy.args(["policy", "set", "--global", "--compression=zstd-fastest"]);
        run(policy).await.map(drop)
    }

    async fn back_up(&self, folder: &Path) -> anyhow::Result<Taken> {
        let mut command = self.command()?;
        command.args(["snapshot", "create", "--json"]).arg(folder);
        let (taken, output) = run(command).await?;
        let created: Created = serde_json::from_slice(&output).context("reading what kopia made")?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(created.id);
        Ok(taken)
    }

    async fn restore(&self, _: &Path, to: &Path) -> anyhow::Result<Taken> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut command = self.command()?;
        command.args(["snapshot", "restore", &last.context("nothing was backed up yet")?]).arg(to);
        Ok(run(command).await?.0)
    }
}
