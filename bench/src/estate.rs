//! A repository with many snapshots of many volumes, as some years of backups leave one.
//!
//! Volumes are tiny, so that it is made in seconds; what counts is how many objects there are and how they refer to
//! one another. Each snapshot rewrites three of its volume's sixteen windows, and so puts one pack of three chunks.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use varve_repository::{
    Repository,
    block::{BlockSource, ChangeSource},
    crypto::MasterKey,
    id::SnapshotId,
    offload::{Against, Request},
    progress::Progress,
    record::{
        snapshot::{Root, SnapshotDescription},
        volume::{OffloadParameters, Presentation},
    },
    seam::{Clock, Entropy, Seams, System},
    store::Store,
};

use crate::image::Small;

/// Windows of a volume.
const WINDOWS: u64 = 16;

/// Windows that change from one snapshot to the next.
const CHANGES: u64 = 3;

/// Volumes offloaded at once.
const WORKERS: usize = 8;

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub volumes: u64,
    /// Snapshots of each.
    pub snapshots: u64,
}

/// The master key of every repository that is measured: there is nothing to hide, and children need it.
pub(crate) fn master() -> MasterKey {
    struct Zeroes;
    impl Entropy for Zeroes {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }
    MasterKey::generate(&Zeroes)
}

/// Makes a repository.
pub(crate) async fn init(store: Store) -> anyhow::Result<Repository> {
    Repository::init(store, &master(), Seams::system()).await.context("making a repository")
}

/// Opens it in another process.
pub(crate) async fn open(store: Store) -> anyhow::Result<Repository> {
    Repository::open(store, &master(), Seams::system()).await.context("opening a repository")
}

/// Asks for an offload as the driver does, without a journal.
pub(crate) fn request<T: BlockSource + ChangeSource + 'static>(
    repository: &Repository,
    volume: &str,
    snapshot: &str,
    cut: Arc<T>,
    against: Against,
) -> Request {
    let capacity_bytes = cut.capacity().bytes();
    Request {
        description: SnapshotDescription {
            id: repository.snapshot_id(snapshot, 0),
            name: snapshot.into(),
            volume: repository.volume_id(volume),
            volume_name: volume.into(),
            incarnation: Uuid::from_u128(1),
            capacity_bytes,
            presentation: Presentation::Block,
            created_at: System.now(),
            node: "bench".into(),
            group: None,
            frozen: true,
            pause_nanos: 0,
            parameters: BTreeMap::new(),
        },
        against,
        changes: Arc::clone(&cut) as Arc<dyn ChangeSource>,
        source: cut,
        journal: None,
        parameters: OffloadParameters::default(),
        progress: Progress::default(),
        cancel: CancellationToken::new(),
    }
}

/// Fills a repository, and returns each volume's snapshots, oldest first.
pub(crate) async fn fill(repository: &Repository, size: Size) -> anyhow::Result<Vec<Vec<SnapshotId>>> {
    stream::iter(0..size.volumes)
        .map(|volume| fill_volume(repository.clone(), volume, size.snapshots))
        .buffered(WORKERS)
        .try_collect()
        .await
}

async fn fill_volume(repository: Repository, volume: u64, snapshots: u64) -> anyhow::Result<Vec<SnapshotId>> {
    let name = format!("volume-{volume}");
    let mut image = Small::new(volume, WINDOWS);
    let mut made: Vec<SnapshotId> = Vec::new();
    for snapshot in 0..snapshots {
        let against = made.last().map_or(Against::Nothing, |base| Against::Base(*base));
        let request = request(&repository, &name, &format!("{name}-{snapshot}"), image.cut(), against);
        let root: Root = repository.offload(request).await.context("offloading a small volume")?;
        made.push(root.description.id);
        for change in 0..CHANGES {
            image.overwrite(volume, snapshot * CHANGES + change);
        }
    }
    Ok(made)
}

/// Deletes all snapshots but the newest `kept` of each volume; returns how many that were.
pub(crate) async fn thin_out(
    repository: &Repository,
    volumes: &[Vec<SnapshotId>],
    kept: usize,
) -> anyhow::Result<usize> {
    let doomed: Vec<SnapshotId> =
        volumes.iter().flat_map(|snapshots| &snapshots[..snapshots.len().saturating_sub(kept)]).copied().collect();
    stream::iter(doomed.clone())
        .map(|snapshot| repository.delete_snapshot(snapshot, "deleted"))
        .buffer_unordered(WORKERS)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await
        .context("deleting snapshots")?;
    Ok(doomed.len())
}
