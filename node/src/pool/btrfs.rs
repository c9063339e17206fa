//! Images on btrfs: a `data` folder is a subvolume, and a cut a read-only snapshot of it.
//!
//! Subvolumes carry the no-copy-on-write flag, which snapshots inherit: a block that no snapshot shares is then overwritten in
//! place, without checksums, and direct I/O is direct. Blocks that a snapshot shares are still copied when they are written.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{IFlags, Mode};

use super::{IMAGE, Kind, PoolFilesystem, tree};
use crate::sys::{self, Context};

/// A btrfs.
#[derive(Clone, Debug)]
pub struct Btrfs {
    root: PathBuf,
}

impl Btrfs {
    /// Takes the btrfs that the folder `root` lies on.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl PoolFilesystem for Btrfs {
    fn kind(&self) -> Kind {
        Kind::Btrfs
    }

    fn create(&self, data: &Path, bytes: u64) -> io::Result<()> {
        let (parent, name) = tree::split(data)?;
        let folder = File::open(parent).during("open", parent)?;
        sys::btrfs::create_subvolume(&folder, name).during("make the subvolume", data)?;
        let fill = || {
            let subvolume = File::open(data).during("open", data)?;
            rustix::fs::fchmod(&subvolume, Mode::RWXU).during("restrict", data)?;
            // Before the image is there: the flag is inherited, and cannot be given to a file with bytes in it.
            let flags = rustix::fs::ioctl_getflags(&subvolume).during("read the flags of", data)?;
            rustix::fs::ioctl_setflags(&subvolume, flags | IFlags::NOCOW).during("set the flags of", data)?;
            let path = data.join(IMAGE);
            let image = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
            image.and_then(|image| image.set_len(bytes)).during("make", &path)
        };
        fill().inspect_err(|_| {
            if let Err(error) = tree::remove(data) {
                tracing::warn!(folder = %data.display(), %error, "an unfinished image could not be removed");
            }
        })
    }

    /// Writes out what the file system holds in memory: the snapshot would do so while writers are held.
    fn prepare(&self, data: &Path, _into: &Path) -> io::Result<()> {
        let subvolume = File::open(data).during("open", data)?;
        rustix::fs::syncfs(&subvolume).during("sync", data)
    }

    fn cut(&self, data: &Path, into: &Path) -> io::Result<()> {
        snapshot(data, into, true)
    }

    fn clone_writable(&self, data: &Path, into: &Path) -> io::Result<()> {
        snapshot(data, into, false)
    }

    fn remove(&self, data: &Path) -> io::Result<()> {
        tree::remove(data)
    }

    fn reclaim(&self, root: &Path) -> io::Result<()> {
        let folder = File::open(root).during("open", root)?;
        sys::btrfs::sync(&folder).during("sync", root)
    }

    fn moving(&self) -> io::Result<bool> {
        let root = File::open(&self.root).during("open", &self.root)?;
        sys::btrfs::balancing(&root).during("ask for a balance of", &self.root)
    }
}

fn snapshot(data: &Path, into: &Path, read_only: bool) -> io::Result<()> {
    let source = File::open(data).during("open", data)?;
    // The kernel would make it inside a folder that is there.
    if into.try_exists().during("inspect", into)? {
        return Err(ErrorKind::AlreadyExists).during("make the snapshot", into);
    }
    let (parent, name) = tree::split(into)?;
    let folder = File::open(parent).during("open", parent)?;
    sys::btrfs::create_snapshot(&source, &folder, name, read_only).during("make the snapshot", into)
}
