//! The volumes of this node, as the agent and the CSI service share them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, RwLock},
};

use varve_repository::id::VolumeId;

use super::{
    NoRoom, Reservation, Volume,
    room::{Limits, Promises},
};

/// The volumes whose images this node holds. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Volumes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    volumes: RwLock<BTreeMap<VolumeId, Volume>>,
    promises: Mutex<Promises>,
    /// Folders that are no readable volume: left alone, and told as an ailment of the pool.
    unreadable: Vec<(PathBuf, String)>,
}

impl Volumes {
    /// Reads every volume's folder below `folder`. One that cannot be read is left alone and reported by
    /// [`Volumes::unreadable`]: it is no reason to keep the others from their workloads.
    ///
    /// # Errors
    /// The system's, where the folder itself cannot be listed.
    pub(crate) fn load(folder: &Path) -> io::Result<Self> {
        let mut volumes = BTreeMap::new();
        let mut unreadable = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let named = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<VolumeId>().ok());
            match (named, Volume::load(path.clone())) {
                (Some(id), Ok(volume)) if volume.id() == id => {
                    volumes.insert(id, volume);
                }
                (_, Ok(volume)) => unreadable.push((path, format!("its record is of {}", volume.id()))),
                (_, Err(error)) => unreadable.push((path, error.to_string())),
            }
        }
        Ok(Self(Arc::new(Inner { volumes: RwLock::new(volumes), promises: Mutex::default(), unreadable })))
    }

    /// Returns the volume, if its image is here.
    #[must_use]
    pub fn get(&self, id: &VolumeId) -> Option<Volume> {
        self.0.volumes.read().expect("no holder panics").get(id).cloned()
    }

    /// Returns every volume, ordered by id.
    #[must_use]
    pub fn list(&self) -> Vec<Volume> {
        self.0.volumes.read().expect("no holder panics").values().cloned().collect()
    }

    /// Folders below `volumes/` that are no readable volume, with the reason.
    #[must_use]
    pub fn unreadable(&self) -> &[(PathBuf, String)] {
        &self.0.unreadable
    }

    pub(crate) fn insert(&self, volume: Volume) {
        self.0.volumes.write().expect("no holder panics").insert(volume.id(), volume);
    }

    pub(crate) fn remove(&self, id: &VolumeId) {
        self.0.volumes.write().expect("no holder panics").remove(id);
    }

    /// Promises room for a volume to be made with, or grown to, a capacity of `bytes`.
    ///
    /// # Errors
    /// [`NoRoom`]; nothing is promised then.
    pub(crate) fn reserve(&self, id: VolumeId, bytes: u64, limits: Limits) -> Result<Reservation, NoRoom> {
        let mut promises = self.promises();
        limits.admit(bytes, self.promised(&promises, Some(id)))?;
        promises.insert(id, bytes);
        Ok(Reservation::new(self.clone(), id))
    }

    /// What may still be promised, in bytes.
    #[must_use]
    pub(crate) fn provisionable(&self, limits: Limits) -> u64 {
        if limits.scarce {
            return 0;
        }
        limits.promises.saturating_sub(self.promised(&self.promises(), None))
    }

    /// What is promised, in bytes.
    #[must_use]
    pub(crate) fn promises_in_all(&self) -> u64 {
        self.promised(&self.promises(), None)
    }

    /// Sums what is promised to all volumes but one. A volume that is being grown counts with what it grows to.
    fn promised(&self, promises: &Promises, but: Option<VolumeId>) -> u64 {
        let volumes = self.0.volumes.read().expect("no holder panics");
        let recorded = volumes
            .values()
            .filter(|volume| Some(volume.id()) != but)
            .map(|volume| volume.record().capacity_bytes.max(promises.of(volume.id())));
        let making = promises.iter().filter(|(id, _)| Some(*id) != but && !volumes.contains_key(id)).map(|(_, b)| b);
        recorded.chain(making).fold(0, u64::saturating_add)
    }

    pub(super) fn promises(&self) -> MutexGuard<'_, Promises> {
        self.0.promises.lock().expect("no holder panics")
    }
}
