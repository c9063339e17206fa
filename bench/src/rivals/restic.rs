//! restic, with compression as it is by default.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use async_trait::async_trait;
use tokio::process::Command;

use super::{
    PASSWORD, Rival, command,
    run::{Taken, run},
};

/// restic, and the folder that it keeps everything in.
pub(crate) struct Restic {
    folder: PathBuf,
}

impl Restic {
    /// Gives it a folder below another.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.join("restic") }
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = command("restic", &self.folder)?;
        command
            .env("RESTIC_REPOSITORY", self.repository())
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RESTIC_CACHE_DIR", self.folder.join("cache"))
            .arg("--quiet");
        Ok(command)
    }
}

#[async_trait]
impl Rival for Restic {
    fn name(&self) -> &'static str {
        "restic"
    }

    fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    async fn init(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder).context("making a folder for restic")?;
        let mut command = self.command()?;
        command.arg("init");
        run(command).await.map(drop)
    }

    async fn back_up(&self, folder: &Path) -> anyhow::Result<Taken> {
        let mut command = self.command()?;
        // A scan only serves to show how far it has come.
        command.args(["backup", "--compression", "auto", "--no-scan", "--host", "bench"]).arg(folder);
        Ok(run(command).await?.0)
    }

    async fn restore(&self, from: &Path, to: &Path) -> anyhow::Result<Taken> {
        let mut command = self.command()?;
        let mut snapshot = OsString::from("latest:");
        snapshot.push(from);
        command.arg("restore").arg(snapshot).arg("--target").arg(to);
        Ok(run(command).await?.0)
    }
}
