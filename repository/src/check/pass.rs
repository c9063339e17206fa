//! A pass over all packs, in as many runs as it takes: a file remembers which were looked at.
//!
//! # Invariants
//! A pack is in the file only after all that the level asks of it was looked at. Packs never change, so it needs not be
//! looked at again in the same pass; whether it is still there is asked in every run.
//!
//! # Crash consistency
//! The file is replaced whole, and not oftener than every few seconds: a crash costs what was looked at since.
//!
//! # Concurrency
//! Two checks with one file harm nothing: the later save counts, and what the other one looked at is looked at again.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Level, PassReport};
use crate::{Error, Repository, Result, id::PackId, work::Worker};

/// How often the state is written.
const EVERY: Duration = Duration::from_secs(5);

/// The form of the file.
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    repository: Uuid,
    level: Level,
    began_at: Timestamp,
    /// Packs that were looked at and are whole.
    verified: BTreeSet<PackId>,
    /// Packs that were found damaged: every run of the pass looks at them again, and reports what it finds.
    damaged: BTreeSet<PackId>,
}

/// A pass that this run is a part of.
#[derive(Debug)]
pub(super) struct Pass {
    path: PathBuf,
    state: State,
    saved: Instant,
}

impl Pass {
    /// Takes up the pass of which a file speaks, or begins one where there is no such file.
    ///
    /// # Errors
    /// `CheckState` where it is of another repository or level or cannot be understood, `Local` where it cannot be read.
    pub(super) async fn open(path: PathBuf, repository: &Repository, level: Level, worker: &Worker) -> Result<Self> {
        let at = path.clone();
        let read = worker.start(move || match fs::read(&at) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("reading", &at, source)),
        });
        let began_at = repository.seams().clock.now();
        let fresh = State {
            format: FORMAT,
            repository: repository.uuid(),
            level,
            began_at,
            verified: BTreeSet::new(),
            damaged: BTreeSet::new(),
        };
        let state = match read.await?? {
            None => fresh,
            Some(bytes) => {
                let unfit = |reason: String| Error::CheckState { path: path.display().to_string(), reason };
                let state: State = serde_json::from_slice(&bytes)
                    .map_err(|error| unfit(format!("it is not the state of a check: {error}")))?;
                if state.format != FORMAT {
                    return Err(unfit(format!("it has form {}, and this program knows form {FORMAT}", state.format)));
                }
                if state.repository != fresh.repository {
                    return Err(unfit(format!("it is of repository {}, not {}", state.repository, fresh.repository)));
                }
                if state.level != level {
                    return Err(unfit("it is of a check of another level".into()));
                }
                state
            }
        };
        Ok(Self { path, state, saved: Instant::now() })
    }

    /// Tells whether a pack needs not be looked at any more.
    pub(super) fn is_verified(&self, pack: PackId) -> bool {
        self.state.verified.contains(&pack)
    }

    /// Tells whether a pack was found damaged.
    pub(super) fn is_damaged(&self, pack: PackId) -> bool {
        self.state.damaged.contains(&pack)
    }

    /// Enters a pack that was looked at, and saves what is known now and then.
    ///
    /// # Errors
    /// `Local`.
    pub(super) async fn enter(&mut self, pack: PackId, sound: bool, worker: &Worker) -> Result<()> {
        if sound {
            self.state.damaged.remove(&pack);
            self.state.verified.insert(pack);
        } else {
            self.state.verified.remove(&pack);
            self.state.damaged.insert(pack);
        }
        if self.saved.elapsed() < EVERY {
            return Ok(());
        }
        self.saved = Instant::now();
        self.save(worker).await
    }

    /// Says how far it has come, where these are all packs.
    pub(super) fn report(&self, all: impl Iterator<Item = PackId>) -> PassReport {
        let (mut packs, mut of_packs) = (0, 0);
        for pack in all {
            of_packs += 1;
            packs += u64::from(self.is_verified(pack) || self.is_damaged(pack));
        }
        PassReport { began_at: self.state.began_at, packs, of_packs, complete: packs == of_packs }
    }

    /// Ends this run's part: saves it, or removes the file where the pass is complete.
    ///
    /// # Errors
    /// `Local`.
    pub(super) async fn end(self, complete: bool, worker: &Worker) -> Result<()> {
        if !complete {
            return self.save(worker).await;
        }
        let path = self.path;
        let removed = worker.start(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", &path, error)),
            _ => Ok(()),
        });
        removed.await?
    }

    async fn save(&self, worker: &Worker) -> Result<()> {
        let bytes = serde_json::to_vec(&self.state).expect("ids and times can be written");
        let path = self.path.clone();
        worker.start(move || write(&path, &bytes).map_err(|source| failed("writing", &path, source))).await?
    }
}

/// Replaces the file, durably.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let mut partial = OsString::from(path);
    partial.push(format!(".partial-{}-{}", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed)));
    let partial = PathBuf::from(partial);
    let written = File::create(&partial)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn failed(what: &str, path: &Path, source: io::Error) -> Error {
    Error::Local { what: format!("{what} the state of a check in {}", path.display()), source }
}
