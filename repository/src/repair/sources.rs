//! Where lost bytes may still be: images on the node, and a mirror of the repository.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    Repository, Result, SnapshotState,
    block::{BLOCK_SIZE, BlockRange, BlockSource, BlockTarget, Blocks, FileSource},
    fault::Fault,
    hydrate::Sink,
    id::{SnapshotId, VolumeId},
    pack::TableCache,
    progress::Progress,
    record::snapshot::{Root, SnapshotDescription},
    run::View,
    work::Worker,
};

/// Where to look, beside the repository itself.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Another repository that holds the same snapshots.
    pub mirror: Option<Repository>,
    /// Images on the node.
    pub images: Vec<LocalImage>,
}

/// An image on a node: the cut of one snapshot, or a volume as it is now.
#[derive(Clone, Debug)]
pub struct LocalImage {
    path: PathBuf,
    volume: VolumeId,
    /// Of a cut, what was cut.
    cut: Option<SnapshotDescription>,
    /// Of a cut, whether its root was committed once.
    committed: bool,
}

/// What counts of a cut's record.
#[derive(Deserialize)]
struct CutRecord {
    description: SnapshotDescription,
    state: serde_json::Value,
}

impl LocalImage {
    /// Takes the cut of a snapshot; `committed` says that its root stood in the repository once.
    #[must_use]
    pub fn of_cut(path: PathBuf, description: SnapshotDescription, committed: bool) -> Self {
        Self { path, volume: description.volume, cut: Some(description), committed }
    }

    /// Takes a volume's image, of which nothing is believed that no hash proves.
    #[must_use]
    pub fn of_volume(path: PathBuf, volume: VolumeId) -> Self {
        Self { path, volume, cut: None, committed: false }
    }

    /// Finds the images of a pool: `cuts/<snapshot>/{record.json,data/image}` and `volumes/<volume>/data/image`. Nothing
    /// of the pool is changed; a driver may be running on it.
    ///
    /// # Errors
    /// The system's; `NotFound` where the folder is no pool.
    pub fn of_pool(pool: &Path) -> io::Result<Vec<Self>> {
        let mut images = Vec::new();
        for entry in fs::read_dir(pool.join("cuts"))? {
            let folder = entry?.path();
            let (record, path) = (folder.join("record.json"), folder.join("data/image"));
            let record = fs::read(&record).and_then(|bytes| Ok(serde_json::from_slice::<CutRecord>(&bytes)?));
            match record {
                Ok(CutRecord { description, state }) if path.is_file() => {
                    images.push(Self::of_cut(path, description, state == "base"));
                }
                Ok(_) => {}
                // A cut may go, or be on its way to its place, at any moment.
                Err(error) => {
                    tracing::debug!(folder = %folder.display(), %error, "passing over a folder that holds no cut");
                }
            }
        }
        for entry in fs::read_dir(pool.join("volumes"))? {
            let entry = entry?;
            let path = entry.path().join("data/image");
            if let Some(volume) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                && path.is_file()
            {
                images.push(Self::of_volume(path, volume));
            }
        }
        images.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(images)
    }

    /// What was cut; `None` of a volume.
    pub(super) fn cut(&self) -> Option<&SnapshotDescription> {
        self.cut.as_ref()
    }

    /// Whether the repository once held this cut's snapshot.
    pub(super) fn was_committed(&self) -> bool {
        self.committed
    }
}

/// One source, as far as it is of use for one snapshot.
pub(super) struct Replica {
    /// For people.
    pub(super) name: Arc<str>,
    /// Whether it is the very same snapshot, and vouches for its bytes.
    pub(super) same: bool,
    from: From,
}

enum From {
    Image(Arc<FileSource>),
    Mirror { repository: Repository, root: Box<Root>, tables: TableCache },
}

impl Sources {
    /// Opens all sources that may hold something of a snapshot, best first.
    ///
    /// # Errors
    /// The mirror's store's.
    pub(super) async fn replicas(
        &self,
        snapshot: SnapshotId,
        volume: VolumeId,
        worker: &Worker,
    ) -> Result<Vec<Replica>> {
        let mut replicas = Vec::new();
        for image in self.images.iter().filter(|image| image.volume == volume) {
            let path = image.path.clone();
            let same = image.cut.as_ref().is_some_and(|cut| cut.id == snapshot);
            match worker.start(move || FileSource::open(&path)).await? {
                Ok(source) => {
                    let name = image.path.display().to_string().into();
                    replicas.push(Replica { name, same, from: From::Image(Arc::new(source)) });
                }
                Err(error) => tracing::warn!(path = %image.path.display(), %error, "an image cannot be opened"),
            }
        }
        replicas.sort_by_key(|replica| !replica.same);
        if let Some(mirror) = &self.mirror
            && let Some(root) = mirrored(mirror, snapshot).await?
        {
            let name = format!("{snapshot} at {}", mirror.store().url()).into();
            let from = From::Mirror { repository: mirror.clone(), root, tables: TableCache::default() };
            replicas.push(Replica { name, same: true, from });
        }
        Ok(replicas)
    }

    /// Finds out what was cut, from whoever knows the snapshot.
    ///
    /// # Errors
    /// The mirror's store's.
    pub(super) async fn description(&self, snapshot: SnapshotId) -> Result<Option<SnapshotDescription>> {
        let cut = self.images.iter().filter_map(LocalImage::cut).find(|description| description.id == snapshot);
        if let Some(cut) = cut {
            return Ok(Some(cut.clone()));
        }
        match &self.mirror {
            Some(mirror) => Ok(mirrored(mirror, snapshot).await?.map(|root| root.description)),
            None => Ok(None),
        }
    }
}

/// Reads a snapshot's root in the mirror; one that is damaged there is as good as none.
async fn mirrored(mirror: &Repository, snapshot: SnapshotId) -> Result<Option<Box<Root>>> {
    match Fault::sort(mirror.snapshot(snapshot).await)? {
        Ok(SnapshotState::Committed(root)) => Ok(Some(root)),
        Ok(SnapshotState::Absent | SnapshotState::Gone(_)) | Err(_) => Ok(None),
    }
}

impl Replica {
    /// Reads blocks; `None` where this source does not have them, or has them damaged.
    ///
    /// # Errors
    /// The mirror's store's.
    pub(super) async fn read(&self, range: BlockRange, worker: &Worker) -> Result<Option<Vec<u8>>> {
        let Ok(length) = usize::try_from(range.count.bytes()) else { return Ok(None) };
        match &self.from {
            From::Image(source) => {
                let source = Arc::clone(source);
                let read = worker.start(move || {
                    let mut bytes = vec![0; length];
                    source.read(range.first, &mut bytes).map(|()| bytes)
                });
                match read.await? {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) => {
                        tracing::debug!(source = &*self.name, %error, "an image does not have what is sought");
                        Ok(None)
                    }
                }
            }
            From::Mirror { repository, root, tables } => {
                if range.end().bytes() > root.description.capacity_bytes {
                    return Ok(None);
                }
                let target = Arc::new(Buffer { first: range.first, bytes: Mutex::new(vec![0; length]) });
                let to: Arc<dyn BlockTarget> = target.clone();
                let sink = Sink { target: to, progress: Progress::default(), cancel: CancellationToken::new() };
                let view = View::of(repository, &root.runs, range);
                match Fault::sort(repository.pour(view, sink, None, tables).await)? {
                    Ok(_) => {
                        Ok(Some(std::mem::take(&mut *target.bytes.lock().unwrap_or_else(PoisonError::into_inner))))
                    }
                    Err(fault) => {
                        tracing::warn!(object = fault.object, reason = fault.reason, "the mirror is damaged too");
                        Ok(None)
                    }
                }
            }
        }
    }
}

/// A part of an image in memory.
struct Buffer {
    first: Blocks,
    bytes: Mutex<Vec<u8>>,
}

impl BlockTarget for Buffer {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let start = first.0.checked_sub(self.first.0).and_then(|blocks| usize::try_from(blocks * BLOCK_SIZE).ok());
        let part = start.and_then(|start| bytes.get_mut(start..)?.get_mut(..data.len()));
        part.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
