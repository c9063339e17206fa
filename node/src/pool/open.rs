//! Opening a pool, and putting it away.

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::{Btrfs, Kind, Location, Pool, PoolError, PoolFilesystem, Xfs, folder, image};

/// How long a lock is waited for: a process that is ending, or one that is about to become another program, holds it for an
/// instant longer. A wait without bound would hang where the pool is really in use.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// What makes the pool this process's.
#[derive(Debug)]
pub(super) struct Held {
    /// `lock`, locked. It lies in the pool, so it has to go before the pool is unmounted.
    lock: File,
    image: Option<image::Mounted>,
}

impl Held {
    pub(super) fn close(self) -> Result<(), PoolError> {
        drop(self.lock);
        self.image.map_or(Ok(()), image::Mounted::close)
    }
}

pub(super) fn open(location: &Location) -> Result<Pool, PoolError> {
    match location {
        Location::Folder(path) => {
            let root = folder::resolve(path)?;
            open_folder(&root, path, None)
        }
        Location::Image { file, bytes, filesystem } => {
            let image = image::bring_up(file, *bytes, *filesystem)?;
            let root = image.mount_point().to_owned();
            open_folder(&root, file, Some(image))
        }
    }
}

/// Opens the pool in the folder `root`, known to people as `name`.
fn open_folder(root: &Path, name: &Path, image: Option<image::Mounted>) -> Result<Pool, PoolError> {
    let opened = folder::kind_of(root, name).and_then(|kind| {
        folder::check_contents(root, name)?;
        let lock = folder::lock(root, name)?;
        let uuid = folder::lay_out(root, name)?;
        Ok((lock, uuid, kind))
    });
    match opened {
        Ok((lock, uuid, kind)) => {
            let filesystem: Arc<dyn PoolFilesystem> = match kind {
                Kind::Xfs => Arc::new(Xfs),
                Kind::Btrfs => Arc::new(Btrfs::new(root)),
            };
            let held = Mutex::new(Some(Held { lock, image }));
            tracing::info!(pool = %name.display(), %uuid, filesystem = kind.name(), "the pool is open");
            Ok(Pool { root: root.to_owned(), uuid, filesystem, held })
        }
        Err(error) => {
            if let Some(Err(left)) = image.map(image::Mounted::close) {
                tracing::warn!(pool = %name.display(), error = %left, "the pool's image could not be put away");
            }
            Err(error)
        }
    }
}

/// Locks a file for this process alone, for as long as it is open.
pub(super) fn lock(file: &File, path: &Path, pool: &Path) -> Result<(), PoolError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Err(PoolError::InUse { pool: pool.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(PoolError::system("lock", path)(error)),
        }
    }
}
