//! Making cuts: of one volume, or of several at one instant.
//!
//! Flush, prepare, flush again and [catch up](super::tracker): so that little is left to do while writers are held. Then
//! freeze all, clone all, thaw all; then seal, sync and commit. Everything runs in one blocking call, so that no dropped future leaves anything frozen.
//!
//! A volume that is not mounted has no writers to hold. A raw block volume has writers that nobody can hold: its device is
//! flushed and its image cloned in one step of the pool's file system, which is what a power cut would have left.
//!
//! # Crash consistency
//!
//! A cut is made below `making/` and renamed into place when it is durable. The members of a group lie in one folder, which
//! is renamed as a whole to `cuts/<group>.group`: that is the commit. They are then moved to their own places, one by
//! one; where that fails it is done again before anything else is done with these cuts, and [`finish_groups`] at the next
//! start moves those that a crash left behind. So all members are there, or none.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use varve_repository::{id::SnapshotId, seam::Clock};

use super::{
    Cut, Record,
    freeze::{FreezeError, Frozen},
    haste::{Ahead, Hurry},
    mounted::Use,
    sentinel::Sentinel,
    tracker::{self, Tracker},
    write_record,
};
use crate::{
    durable,
    pool::{IMAGE, Pool, PoolFilesystem},
    volume::DATA,
};

/// What the folder of a group ends with, between its commit and the moment that its members are in their own places.
const GROUP: &str = "group";

/// One cut to be made.
#[derive(Clone, Debug)]
pub struct Member {
    /// The folder that holds the volume's image.
    pub data: PathBuf,
    /// The cut's record; what only the cut can tell (its instant, size, freeze and pause) is filled in.
    pub record: Record,
}

/// Why nothing was cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Writers could not be held.
    #[error("nothing was cut")]
    Freeze(#[from] FreezeError),
    /// The system refused.
    #[error("{action} {path:?}")]
    System {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, path: path.to_owned(), source }
    }
}

/// Cuts that are made and not yet committed, below `making/`.
#[derive(Debug)]
pub struct Made {
    folder: PathBuf,
    members: Vec<Record>,
    pause: Duration,
}

impl Made {
    /// How long writers were held.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// The folder that holds a member's image.
    #[must_use]
    pub fn data(&self, id: SnapshotId) -> PathBuf {
        self.folder.join(id.to_string()).join(DATA)
    }
}

/// How writers are held.
#[derive(Clone, Debug)]
pub struct Hold {
    /// For how long at the most.
    pub limit: Duration,
    /// Who thaws what this process leaves frozen.
    pub sentinel: Option<Arc<Sentinel>>,
}

/// Makes cuts of all members at one instant, into the empty folder `folder`, holding writers as `hold` says. The
/// caller sees to it that nobody else stages, unstages or cuts these volumes meanwhile.
///
/// # Errors
/// See [`Error`]: nothing is frozen then, and what is in `folder` is to be thrown away.
pub fn make(
    filesystem: &dyn PoolFilesystem,
    folder: PathBuf,
    mut members: Vec<Member>,
    hold: &Hold,
    clock: &dyn Clock,
) -> Result<Made, Error> {
    let mut uses = Vec::with_capacity(members.len());
    let mut trackers = Vec::with_capacity(members.len());
    for member in &members {
        let image = member.data.join(IMAGE);
        let used = Use::of(&image).map_err(Error::system("finding out what uses", &image))?;
        let into = folder.join(member.record.description.id.to_string());
        fs::create_dir(&into).map_err(Error::system("making", &into))?;
        used.flush().map_err(Error::system("flushing what uses", &image))?;
        let mut tracker = Tracker::of(&used, filesystem);
        filesystem
            .prepare_in_steps(&member.data, &into.join(DATA), &mut || tracker.go_on())
            .map_err(Error::system("preparing a clone of", &image))?;
        uses.push(used);
        trackers.push(tracker);
    }
    for ((member, used), tracker) in members.iter().zip(&uses).zip(&mut trackers) {
        let into = folder.join(member.record.description.id.to_string()).join(DATA);
        tracker.catch_up(filesystem, used, &member.data, &into).map_err(Error::system("cloning", &member.data))?;
    }
    let mounted: Vec<bool> = uses.iter().map(|used| matches!(used, Use::Mounted(..))).collect();
    let mount_points = uses
        .into_iter()
        .filter_map(|used| match used {
            Use::Mounted(mount_point, _) => Some(mount_point.watched_by(hold.sentinel.clone())),
            Use::Nothing | Use::Device(_) => None,
        })
        .collect::<Vec<_>>();
    // Where nobody is held, nobody is held for too long.
    let ahead = (!mount_points.is_empty()).then(Ahead::begin);
    let hurry = (!mount_points.is_empty()).then(|| Hurry::begin(hold.sentinel.clone()));
    let frozen = (!mount_points.is_empty()).then(|| Frozen::freeze(mount_points, hold.limit)).transpose()?;
    drop(hurry);
    let created_at = clock.now();
    for (member, tracker) in members.iter().zip(&mut trackers) {
        let into = folder.join(member.record.description.id.to_string()).join(DATA);
        tracker.cut(filesystem, &member.data, &into).map_err(Error::system("cloning", &member.data))?;
    }
    let pause = frozen.map(Frozen::thaw).transpose()?.unwrap_or_default();
    drop(ahead);
    tracker::release(trackers);
    for (member, frozen) in members.iter_mut().zip(mounted) {
        let into = folder.join(member.record.description.id.to_string());
        let image = into.join(DATA).join(IMAGE);
        let description = &mut member.record.description;
        description.created_at = created_at;
        description.frozen = frozen;
        description.pause_nanos = if frozen { pause.as_nanos().try_into().unwrap_or(u64::MAX) } else { 0 };
        description.capacity_bytes = fs::metadata(&image).map_err(Error::system("measuring", &image))?.len();
        write_record(&into, &member.record).map_err(Error::system("writing the record of", &into))?;
    }
    Ok(Made { folder, members: members.into_iter().map(|member| member.record).collect(), pause })
}

/// Cuts that are committed, and perhaps not in their own places yet.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The folder that the members of a group are still in, or were.
    group: Option<PathBuf>,
    ids: Vec<SnapshotId>,
}

/// Makes the cuts durable and commits them, all of them or none; [`Committed::take_up`] is to follow.
///
/// # Errors
/// The system's: none is committed then.
pub fn commit(pool: &Pool, made: &Made) -> io::Result<Committed> {
    let started = Instant::now();
    let ids: Vec<_> = made.members.iter().map(|record| record.description.id).collect();
    let group = if let [id] = ids.as_slice() {
        place(pool, &made.folder.join(id.to_string()), &pool.cut_dir(*id))?;
        if let Err(error) = pool.remove_folder(&made.folder) {
            tracing::warn!(folder = %made.folder.display(), %error, "an empty folder stays until the next start");
        }
        None
    } else {
        // What cannot be read is left alone and may lie there.
        if let Some(taken) = ids.iter().map(|id| pool.cut_dir(*id)).find(|place| place.exists()) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there", taken.display())));
        }
        let Some(name) = made.folder.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let group = pool.cuts_dir().join(name).with_extension(GROUP);
        place(pool, &made.folder, &group)?;
        Some(group)
    };
    tracing::debug!(took = ?started.elapsed(), cuts = ids.len(), "cuts are durable");
    Ok(Committed { group, ids })
}

impl Committed {
    /// The cuts, in the order in which they were asked for.
    #[must_use]
    pub fn ids(&self) -> &[SnapshotId] {
        &self.ids
    }

    /// Moves the cuts to their own places, as far as they are not there, and reads them.
    ///
    /// # Errors
    /// The system's: it can be called again, and the next start does the same.
    pub fn take_up(&self, pool: &Pool) -> io::Result<Vec<Cut>> {
        if let Some(group) = self.group.as_deref().filter(|group| group.exists()) {
            spread(pool, group)?;
        }
        self.ids.iter().map(|id| Cut::load(pool.cut_dir(*id))).collect()
    }
}

/// Commits a folder; where the last sync fails, what is in place and was not answered for is taken away again.
fn place(pool: &Pool, from: &Path, to: &Path) -> io::Result<()> {
    pool.commit_folder(from, to).inspect_err(|error| {
        if error.kind() != io::ErrorKind::AlreadyExists
            && let Err(error) = pool.remove_folder(to)
        {
            tracing::error!(folder = %to.display(), %error, "a cut that failed stays until the next start");
        }
    })
}

/// Moves the members of groups that were committed, and not yet spread when the last process ended, to their places.
///
/// # Errors
/// The system's.
pub fn finish_groups(pool: &Pool) -> io::Result<()> {
    for entry in fs::read_dir(pool.cuts_dir())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == GROUP) {
            tracing::info!(group = %path.display(), "completing a group of cuts that was committed");
            spread(pool, &path)?;
        }
    }
    Ok(())
}

/// Moves a group's members to their own places. Each is whole and durable already; only names change.
///
/// No second group of the same cuts is made before the first is in place. A member whose place is taken all the same is
/// thus of a group that nobody was answered for, and which could not be taken away when it failed: it goes now.
fn spread(pool: &Pool, group: &Path) -> io::Result<()> {
    let members =
        fs::read_dir(group)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
    if members.iter().any(|name| pool.cuts_dir().join(name).exists()) {
        tracing::warn!(group = %group.display(), "a group of cuts that nobody was answered for is removed");
        return pool.remove_folder(group);
    }
    for name in members {
        fs::rename(group.join(&name), pool.cuts_dir().join(&name))?;
    }
    durable::sync_folder(&pool.cuts_dir())?;
    fs::remove_dir(group)?;
    durable::sync_folder(&pool.cuts_dir())
}
