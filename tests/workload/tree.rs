//! A tree of 100,000 small files.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serial_test::serial;

use varve_harness::Pool;

use super::scene::Scene;

const FOLDERS: u32 = 250;
const FILES: u32 = 400;

/// What has to come back of a file: mode, modification time, content.
type Facts = (u32, (i64, i64), [u8; 32]);

fn facts(path: &Path) -> io::Result<Facts> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.mode(), (metadata.mtime(), metadata.mtime_nsec()), *blake3::hash(&fs::read(path)?).as_bytes()))
}

fn manifest(root: &Path) -> io::Result<BTreeMap<PathBuf, Facts>> {
    let mut manifest = BTreeMap::new();
    for folder in fs::read_dir(root)? {
        let folder = folder?;
        if folder.file_name() == "lost+found" {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            let path = file?.path();
            let facts = facts(&path)?;
            manifest.insert(path.strip_prefix(root).expect("it is below").to_owned(), facts);
        }
    }
    Ok(manifest)
}

fn fill(root: &Path) -> io::Result<()> {
    for folder in 0..FOLDERS {
        let path = root.join(format!("folder-{folder:03}"));
        fs::create_dir(&path)?;
        for file in 0..FILES {
            let name = path.join(format!("file-{file:03}"));
            // From empty to some kilobytes, each with its own content.
            let line = format!("{folder} {file} {}\n", folder.wrapping_mul(2_654_435_761) ^ file);
            fs::write(&name, line.repeat(usize::try_from(file % 97).expect("small")))?;
            if file % 5 == 0 {
                fs::set_permissions(&name, fs::Permissions::from_mode(0o600))?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[serial]
async fn invariant_1_a_hundred_thousand_small_files() {
    let scene = Scene::start(Pool::Image("btrfs", "8GiB"), "ext4", 2 << 30).await;
    let root = scene.volume.target.clone();
    fill(&root).expect("the tree is made");
    let first = scene.snapshot("first").await;
    let expected_first = manifest(&root).expect("it can be read");
    assert_eq!(expected_first.len(), (FOLDERS * FILES) as usize);

    fs::remove_dir_all(root.join("folder-007")).expect("it is there");
    fs::rename(root.join("folder-008"), root.join("renamed")).expect("it is there");
    File::create(root.join("folder-009/file-396")).expect("it is emptied");
    let second = scene.snapshot("second").await;
    let expected_second = manifest(&root).expect("it can be read");

    let rescue = scene.lose_node().await;
    for (snapshot, expected) in [(first, expected_first), (second, expected_second)] {
        rescue.check(&snapshot);
        let restored = rescue.restore(&snapshot).await;
        let found = manifest(&restored.target).expect("it can be read");
        assert_eq!(found.len(), expected.len());
        let differing: Vec<_> = expected.iter().filter(|(path, facts)| found.get(*path) != Some(facts)).collect();
        assert!(differing.is_empty(), "{} files differ, {:?} is the first", differing.len(), differing[0]);
    }
}
