//! Other programs that back up, on the same data and the same disk, with encryption and compression on.
//!
//! Each is given an empty folder for all that it keeps: its repository, its cache, its settings. Passwords go by the
//! environment, and nothing of the user's is read or written. Their defaults are kept, but for what would cost them time
//! without being asked for: looking for newer versions, maintenance, counting what there is to do.

mod kopia;
mod restic;
pub(crate) mod run;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use tokio::process::Command;
use varve_harness::tools;

use kopia::Kopia;
use restic::Restic;
use run::Taken;

use crate::disk;

/// What opens their repositories: there is nothing to hide.
const PASSWORD: &str = "not-a-secret-in-benchmarks";

/// A program that backs up a folder into a repository in another one.
#[async_trait]
pub(crate) trait Rival: Send + Sync {
    /// Its name, as figures have it.
    fn name(&self) -> &'static str;

    /// The folder of its repository.
    fn repository(&self) -> PathBuf;

    /// Makes the repository.
    async fn init(&self) -> anyhow::Result<()>;

    /// Backs up a folder; what it backed up before is what it goes by.
    async fn back_up(&self, folder: &Path) -> anyhow::Result<Taken>;

    /// Restores what was backed up last into a folder that is there.
    async fn restore(&self, from: &Path, to: &Path) -> anyhow::Result<Taken>;
}

/// Their names.
pub(crate) const NAMES: [&str; 2] = ["restic", "kopia"];

/// Finds one by its name, and gives it a folder of its own below another.
pub(crate) fn named(name: &str, folder: &Path) -> anyhow::Result<Box<dyn Rival>> {
    match name {
        "restic" => Ok(Box::new(Restic::new(folder))),
        "kopia" => Ok(Box::new(Kopia::new(folder))),
        other => bail!("{other} is nobody to compare with"),
    }
}

/// Backs up a folder, until everything in the repository's folder is on the disk.
pub(crate) async fn back_up(rival: &dyn Rival, folder: &Path) -> anyhow::Result<Taken> {
    let taken = rival.back_up(folder).await?;
    let started = Instant::now();
    disk::settle(&rival.repository()).await?;
    Ok(Taken { wall: taken.wall + started.elapsed(), ..taken })
}

/// Restores into a mounted folder what was backed up last from another, until everything is on the disk.
pub(crate) async fn restore(rival: &dyn Rival, from: &Path, to: &Path) -> anyhow::Result<Taken> {
    let taken = rival.restore(from, to).await?;
    let started = Instant::now();
    disk::settle_filesystem(to).await?;
    Ok(Taken { wall: taken.wall + started.elapsed(), ..taken })
}

/// What they say that they are, with their versions.
pub(crate) async fn versions() -> anyhow::Result<Vec<String>> {
    let mut versions = Vec::new();
    for (name, argument) in [("restic", "version"), ("kopia", "--version")] {
        let mut command = Command::new(program(name)?);
        command.arg(argument).env_clear();
        let (_, output) = run::run(command).await?;
        let text = String::from_utf8(output).context("a version is text")?;
        versions.push(version(name, &text));
    }
    Ok(versions)
}

/// The first word of an answer that looks like a version; a build that was told none is known by its name alone.
fn version(name: &str, answer: &str) -> String {
    let digits = |word: &&str| word.trim_start_matches('v').starts_with(|first: char| first.is_ascii_digit());
    match answer.split_whitespace().find(digits) {
        Some(version) => format!("{name} {}", version.trim_start_matches('v')),
        None => name.to_owned(),
    }
}

/// A command of a rival whose home is a folder.
fn command(name: &str, home: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(program(name)?);
    command.env_clear().env("HOME", home).env("TMPDIR", home).current_dir(home);
    Ok(command)
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    tools::look(name).with_context(|| format!("{name} is not built: `make rivals` builds it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_where_programs_say_them() {
        assert_eq!(version("restic", "restic 0.18.1 compiled with go1.26 on linux/amd64"), "restic 0.18.1");
        assert_eq!(version("kopia", "v0.22.3 build: -(unknown_revision) from: "), "kopia 0.22.3");
        assert_eq!(version("kopia", "unknown"), "kopia");
    }
}
