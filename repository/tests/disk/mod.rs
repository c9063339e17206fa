//! A small file system of its own, which a test can fill to the last block.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// A file system on a loop device; unmounted when dropped.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// Formats an image of so many bytes as ext4, without blocks that are kept for root, and mounts it.
    pub(crate) fn new(bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let disk = Self { folder };
        let image = disk.folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("a file can be made");
        fs::create_dir(disk.path()).expect("a folder can be made");
        run("mkfs.ext4", &["-q", "-m", "0", "-b", "4096", text(&image)]);
        run("mount", &["-o", "loop", text(&image), text(&disk.path())]);
        disk
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Takes every block that is left, and says how many bytes that were.
    pub(crate) fn fill(&self) -> u64 {
        let mut taken = 0;
        // Where a block is left, but not the one that the ballast's own map of extents needs to grow, a new file finds it.
        for number in 0..u32::MAX {
            let more = self.fill_file(&self.ballast(number));
            taken += more;
            if more == 0 && number > 0 {
                break;
            }
        }
        taken
    }

    /// Appends to a file until there is no room.
    fn fill_file(&self, path: &Path) -> u64 {
        let Ok(mut ballast) = File::options().create(true).append(true).open(path) else { return 0 };
        let (mut taken, mut refused) = (0, false);
        loop {
            match ballast.write_all(&[1; 4096]).and_then(|()| ballast.sync_data()) {
                Ok(()) => (taken, refused) = (taken + 4096, false),
                Err(error) if error.kind() == io::ErrorKind::StorageFull && refused => break taken,
                // What was deleted is free once the journal has it.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    run("sync", &["--file-system", text(&self.path())]);
                    refused = true;
                }
                Err(error) => panic!("filling the disk: {error}"),
            }
        }
    }

    fn ballast(&self, number: u32) -> PathBuf {
        self.path().join(format!("ballast-{number}"))
    }

    /// Gives back what [`fill`](Self::fill) took.
    pub(crate) fn empty(&self) {
        let mut emptied = 0;
        while fs::remove_file(self.ballast(emptied)).is_ok() {
            emptied += 1;
        }
        assert!(emptied > 0, "the disk was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            // Whatever still has a file open here is about to end.
            let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

fn run(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}: `apt-get install -y e2fsprogs mount`"));
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
