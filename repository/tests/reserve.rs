//! A store without room: what is in it stays, deletion works, and so it comes by room again.

mod disk;
mod gateway;
mod image;

use std::fs::File;

use disk::Disk;
use gateway::Gateway;
use image::{Image, Seeded, assert_same, id, init, offload, restore};
use tokio_util::sync::CancellationToken;
use varve_repository::{
    Deletion, ErrorKind, Repository, SnapshotState, collect, offload::Against, progress::Progress, store::Store,
};

/// Bytes of the disk, which snapshots of a megabyte each soon fill.
const DISK: u64 = 24 << 20;

/// Blocks of each image.
const BLOCKS: u64 = 256;

fn image(number: u64) -> Image {
    let mut image = Image::new(BLOCKS);
    image.write_noise(0, BLOCKS, &Seeded::new(100 + number));
    image
}

/// Fills a repository on a disk until it takes no more, deletes from it, and goes on. `settle` waits until nothing writes to
/// the disk any more: of puts that went side by side, one may be refused while another is under way.
async fn fills_up_and_recovers(disk: &Disk, repository: &Repository, settle: impl Fn()) {
    let mut roots = Vec::new();
    let (refused, error) = loop {
        let number = roots.len() as u64;
        match offload(repository, &format!("snapshot-{number}"), &image(number).cut(), Against::Nothing).await {
            Ok(root) => roots.push(root),
            Err(error) => break (number, error),
        }
        assert!(roots.len() < 100, "the disk does not fill");
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    assert!(roots.len() > 5, "{}", roots.len());
    let unstored = repository.snapshot_id(&format!("snapshot-{refused}"), 0);
    assert_eq!(repository.snapshot(unstored).await.unwrap(), SnapshotState::Absent, "nothing is committed by half");
    settle();
    disk.fill();

    // Replacing a root takes room before it frees any; cancelling takes room and frees none.
    let deleted = repository.delete_snapshot(id(&roots[0]), "deleted").await.unwrap();
    assert!(matches!(&deleted, Deletion::Deleted(root) if **root == roots[0]), "{deleted:?}");
    assert!(disk.fill() > 0, "the reserve was spent, and what the tombstone did not need is free");
    let error = repository.delete_snapshot(unstored, "cancelled").await.unwrap_err();
    // The server says of a full disk no more than that it failed where it cannot even make its lock.
    assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::Unavailable), "{error:?}");

    // A collection needs no room. It frees some, and the reserve is back for the next time.
    // The server answers 500 where there is no room for `repacking`.
    let options = collect::Options { repack: false, ..collect::Options::default() };
    let report = repository.collect(&options, Progress::default(), CancellationToken::new()).await.unwrap();
    let packs: u64 = report
        .deleted
        .iter()
        .filter(|garbage| garbage.kind == collect::Kind::Pack)
        .map(|garbage| garbage.amount.bytes)
        .sum();
    assert!(packs >= BLOCKS * 4096, "{report:?}");
    assert!(matches!(repository.snapshot(id(&roots[0])).await.unwrap(), SnapshotState::Gone(_)));
    let mut restored = 0;
    for (number, root) in roots.iter().enumerate().skip(1) {
        assert_same(&restore(repository, root).await.unwrap(), &image(number as u64).bytes, "a snapshot that stayed");
        restored += 1;
    }
    assert_eq!(restored, roots.len() - 1);
    disk.fill();
    assert!(matches!(repository.delete_snapshot(id(&roots[1]), "deleted").await.unwrap(), Deletion::Deleted(_)));

    // Without what fills the disk beside it, the snapshot that was refused finds room.
    disk.empty();
    repository.collect(&options, Progress::default(), CancellationToken::new()).await.unwrap();
    let image = image(refused);
    let root =
        offload(repository, &format!("snapshot-{refused}"), &image.clone().cut(), Against::Nothing).await.unwrap();
    assert_same(&restore(repository, &root).await.unwrap(), &image.bytes, "the snapshot that was refused");
}

#[tokio::test]
async fn invariant_2_a_full_folder_lets_snapshots_be_deleted() {
    let disk = Disk::new(DISK);
    let store = Store::open(&format!("file://{}/repository", disk.path().display()), &[]).unwrap();
    let repository = init(store).await;
    // Whoever writes a file holds this lock with others until it is named or gone.
    let staging = disk.path().join("repository/.staging#0");
    fills_up_and_recovers(&disk, &repository, || File::open(&staging).unwrap().lock().unwrap()).await;
}

#[tokio::test]
async fn invariant_2_a_full_bucket_lets_snapshots_be_deleted() {
    let disk = Disk::new(DISK);
    std::fs::create_dir(disk.path().join("backups")).unwrap();
    let gateway = Gateway::start_on(&disk.path(), &[]);
    let repository = init(Store::open(&gateway.url("prefix"), &gateway.options()).unwrap()).await;
    // There is nothing to ask the server by; no request that was broken off was seen to take room later.
    fills_up_and_recovers(&disk, &repository, || {}).await;
}
