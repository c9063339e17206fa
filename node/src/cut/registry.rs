//! The cuts of this node.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use varve_repository::id::{SnapshotId, VolumeId};

use super::Cut;

/// The cuts that this node holds. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Cuts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    cuts: RwLock<BTreeMap<SnapshotId, Cut>>,
    /// Folders that are no readable cut: left alone, and told as an ailment of the pool.
    unreadable: Vec<(PathBuf, String)>,
}

impl Cuts {
    /// Reads every cut's folder below `folder`. One that cannot be read is left alone and reported by
    /// [`Cuts::unreadable`].
    ///
    /// # Errors
    /// The system's, where the folder itself cannot be listed.
    pub(crate) fn load(folder: &Path) -> io::Result<Self> {
        let mut cuts = BTreeMap::new();
        let mut unreadable = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let named =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<SnapshotId>().ok());
            match (named, Cut::load(path.clone())) {
                (Some(id), Ok(cut)) if cut.id() == id => {
                    cuts.insert(id, cut);
                }
                (_, Ok(cut)) => unreadable.push((path, format!("its record is of {}", cut.id()))),
                (_, Err(error)) => unreadable.push((path, error.to_string())),
            }
        }
        Ok(Self(Arc::new(Inner { cuts: RwLock::new(cuts), unreadable })))
    }

    /// Returns the cut, if it is here.
    #[must_use]
    pub fn get(&self, id: &SnapshotId) -> Option<Cut> {
        self.0.cuts.read().expect("no holder panics").get(id).cloned()
    }

    /// Returns every cut, ordered by id.
    #[must_use]
    pub fn list(&self) -> Vec<Cut> {
        self.0.cuts.read().expect("no holder panics").values().cloned().collect()
    }

    /// Returns a volume's cuts, all incarnations together, in the order in which they were cut.
    #[must_use]
    pub fn of_volume(&self, volume: VolumeId) -> Vec<Cut> {
        let mut cuts: Vec<_> = self
            .list()
            .into_iter()
            .map(|cut| (cut.record().description, cut))
            .filter(|(description, _)| description.volume == volume)
            .map(|(description, cut)| ((description.created_at, description.id), cut))
            .collect();
        cuts.sort_by_key(|(order, _)| *order);
        cuts.into_iter().map(|(_, cut)| cut).collect()
    }

    /// Folders below `cuts/` that are no readable cut, with the reason.
    #[must_use]
    pub fn unreadable(&self) -> &[(PathBuf, String)] {
        &self.0.unreadable
    }

    pub(crate) fn insert(&self, cut: Cut) {
        self.0.cuts.write().expect("no holder panics").insert(cut.id(), cut);
    }

    pub(crate) fn remove(&self, id: &SnapshotId) {
        self.0.cuts.write().expect("no holder panics").remove(id);
    }
}
