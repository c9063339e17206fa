use std::os::unix::fs::PermissionsExt;

use object_store::{ObjectStoreExt, UpdateVersion};

use super::*;

async fn folder() -> (tempfile::TempDir, Folder) {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::new(parent.path().join("a/b"));
    folder.create().await.unwrap();
    (parent, folder)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_folder_is_made_private_and_by_create_alone() {
    let (_parent, folder) = folder().await;
    assert_eq!(fs::metadata(&folder.root).unwrap().permissions().mode() & 0o777, 0o700);
    folder.create().await.unwrap();

    let missing = Folder::new(folder.root.join("missing"));
    let key = ObjectPath::from("snapshots/a");
    assert!(matches!(missing.put(&key, "x".into()).await, Err(Error::NotFound { .. })));
    assert!(matches!(missing.get(&key).await, Err(Error::NotFound { .. })));
    assert!(matches!(missing.list(None).try_collect::<Vec<_>>().await, Err(Error::NotFound { .. })));
    assert!(!missing.root.exists());
}

#[tokio::test]
async fn a_folder_that_is_lost_does_not_reappear() {
    let (_parent, folder) = folder().await;
    folder.put(&ObjectPath::from("snapshots/a"), "x".into()).await.unwrap();
    fs::remove_dir_all(&folder.root).unwrap();
    assert!(folder.put(&ObjectPath::from("snapshots/b"), "x".into()).await.is_err());
    assert!(!folder.root.exists());
}

#[tokio::test]
async fn a_file_in_the_way_is_told() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("file");
    fs::write(&path, "x").unwrap();
    assert!(Folder::new(path).create().await.is_err());
}

#[tokio::test]
async fn nothing_staged_is_left_by_a_put_that_fails_or_succeeds() {
    let (_parent, folder) = folder().await;
    let key = ObjectPath::from("snapshots/a");
    folder.put_opts(&key, "one".into(), PutMode::Create.into()).await.unwrap();
    assert!(matches!(
        folder.put_opts(&key, "two".into(), PutMode::Create.into()).await,
        Err(Error::AlreadyExists { .. })
    ));
    let stale = PutMode::Update(UpdateVersion { e_tag: Some("stale".into()), version: None });
    assert!(matches!(folder.put_opts(&key, "two".into(), stale.into()).await, Err(Error::Precondition { .. })));
    assert_eq!(names(&folder.root.join("snapshots")), ["a"]);
    assert_eq!(fs::metadata(folder.root.join("snapshots/a")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(folder.get(&key).await.unwrap().bytes().await.unwrap(), "one");
}

/// Equal lengths, equal times, a reused inode: only the content tells the versions apart.
#[tokio::test]
async fn a_version_is_the_content() {
    let (_parent, folder) = folder().await;
    let key = ObjectPath::from("volumes/a");
    let first = folder.put(&key, "one".into()).await.unwrap();
    let read = folder.get(&key).await.unwrap();
    assert_eq!(read.meta.e_tag, first.e_tag);
    for text in ["two", "six", "ten"] {
        folder.put(&key, text.into()).await.unwrap();
    }
    let stale = PutMode::Update(UpdateVersion { e_tag: first.e_tag, version: None });
    assert!(folder.put_opts(&key, "new".into(), stale.into()).await.is_err());
}

#[tokio::test]
async fn leftovers_are_not_listed_and_are_swept_when_nobody_writes() {
    let (_parent, folder) = folder().await;
    folder.put(&ObjectPath::from("packs/a"), "x".into()).await.unwrap();
    fs::write(folder.root.join("packs/b#123"), "half").unwrap();
    fs::write(folder.root.join("repository#7"), "half").unwrap();
    fs::write(folder.root.join("packs/c#x"), "not ours").unwrap();

    let listed: Vec<_> = folder.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    assert!(listed.iter().all(|key| key == "packs/a" || key.starts_with("packs/c")), "{listed:?}");

    let writer = Lock::staging(&folder.root).unwrap();
    folder.sweep().await.unwrap();
    assert_eq!(names(&folder.root.join("packs")), ["a", "b#123", "c#x"], "a writer is at work");
    drop(writer);
    folder.sweep().await.unwrap();
    assert_eq!(names(&folder.root.join("packs")), ["a", "c#x"]);
    assert_eq!(names(&folder.root), [".staging#0", "packs"]);
}

#[tokio::test]
async fn deletions_take_many_and_tell_what_was_missing() {
    let (_parent, folder) = folder().await;
    for name in ["a", "b"] {
        folder.put(&ObjectPath::from(format!("packs/{name}")), "x".into()).await.unwrap();
    }
    let keys = ["packs/a", "packs/none", "packs/b"].map(|key| Ok(ObjectPath::from(key)));
    let results: Vec<_> = folder.delete_stream(stream::iter(keys).boxed()).collect().await;
    assert_eq!(results.len(), 3);
    assert!(matches!(results[1], Err(Error::NotFound { .. })));
    assert_eq!(names(&folder.root.join("packs")), [""; 0]);
}

/// What is seen when the folder's file system is unmounted and its mount point stays.
#[tokio::test]
async fn another_file_system_is_not_taken_for_the_one_it_was() {
    let (_parent, folder) = folder().await;
    let key = ObjectPath::from("snapshots/a");
    folder.put(&key, "x".into()).await.unwrap();
    let store = folder.files().await.unwrap();
    let elsewhere = Folder { root: folder.root.clone(), files: Arc::new(Files { store, device: u64::MAX }.into()) };
    for error in [
        elsewhere.get(&key).await.unwrap_err(),
        elsewhere.put(&key, "y".into()).await.unwrap_err(),
        elsewhere.delete(&key).await.unwrap_err(),
        elsewhere.list(None).try_collect::<Vec<_>>().await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Generic { .. }), "not missing, but not to be told: {error:?}");
    }
    fs::write(folder.root.join(REPOSITORY), "the folder was mounted anew").unwrap();
    assert_eq!(elsewhere.get(&key).await.unwrap().bytes().await.unwrap(), "x");
}
