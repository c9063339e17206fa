//! A Unix socket's name: how it is taken, and how it is given back.
//!
//! # Concurrency
//! Whoever looks at the name, removes a stale socket and binds its own holds a lock on the folder meanwhile
//! (flock(2), which ends with its process), so that of two processes that start at once one serves and the other is
//! told so. The name is only removed while it still stands for this process's socket; an open descriptor of that
//! socket's inode keeps its number from being given to another's.
//!
//! # Invariants
//! Nobody but the owner connects: the mode is 0600 from the start, and no connection is taken before it was seen.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, flock, fstat, open, statat, unlinkat},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
};

use super::Error;

/// How many connections may wait to be taken.
const BACKLOG: i32 = 128;

/// How long another process may take to get at its socket in the same folder.
const PATIENCE: Duration = Duration::from_secs(5);

const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

/// A bound socket's name; dropping it removes the name, if it is still its own.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    inode: OwnedFd,
}

impl Socket {
    /// Binds a socket and listens on it, in place of a stale one.
    pub(super) fn bind(path: PathBuf) -> Result<(Self, UnixListener), Error> {
        let _lock = lock_folder(&path).map_err(at(&path))?;
        clear(&path)?;
        let (inode, listener) = bind_and_listen(&path).map_err(at(&path))?;
        let socket = Self { path, inode };
        Ok((socket, UnixListener::from(listener)))
    }

    fn remove(&self) -> io::Result<()> {
        let _lock = lock_folder(&self.path)?;
        let own = fstat(&self.inode)?;
        match lookup(&self.path) {
            Ok(found) if same(&found, &own) => Ok(unlinkat(rustix::fs::CWD, &self.path, AtFlags::empty())?),
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let path = self.path.display();
            tracing::warn!(%path, error = &error as &dyn std::error::Error, "the socket could not be removed");
        }
    }
}

/// Sees to it that nothing has the name: a socket that nobody serves goes, anything else stays and is an error.
fn clear(path: &Path) -> Result<(), Error> {
    let found = match lookup(path) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(at(path)(error.into())),
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(Error::NotSocket(path.into()));
    }
    match probe(path) {
        Err(Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "a stale socket is replaced");
            unlinkat(rustix::fs::CWD, path, AtFlags::empty()).map_err(|error| at(path)(error.into()))
        }
        Err(Errno::NOENT) => Ok(()),
        // A full queue, or a socket of another kind: there is a process behind it all the same.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(Error::InUse(path.into())),
        Err(error) => Err(at(path)(error.into())),
    }
}

/// Connects without waiting, to find out whether there is a process behind a socket.
fn probe(path: &Path) -> rustix::io::Result<()> {
    connect(stream_socket()?, &SocketAddrUnix::new(path)?)
}

fn bind_and_listen(path: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let socket = stream_socket()?;
    // The name gets the descriptor's mode as far as the umask lets it (unix_bind_bsd in net/unix/af_unix.c).
    fchmod(&socket, OWNER_ONLY)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let opened = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from);
    let checked = opened.and_then(|inode| {
        let mode = Mode::from_raw_mode(fstat(&inode)?.st_mode);
        if OWNER_ONLY.contains(mode) {
            // Until here every connection was refused.
            listen(&socket, BACKLOG)?;
            Ok(inode)
        } else {
            Err(io::Error::other(format!("the socket has mode {:04o}: expected 0600", mode.bits())))
        }
    });
    match checked {
        Ok(inode) => Ok((inode, socket)),
        Err(error) => {
            unlinkat(rustix::fs::CWD, path, AtFlags::empty())?;
            Err(error)
        }
    }
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Locks the folder of a socket until the descriptor is dropped.
fn lock_folder(path: &Path) -> io::Result<OwnedFd> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let folder = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let began = Instant::now();
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => sleep(Duration::from_millis(10)),
            Err(error) => return Err(error.into()),
        }
    }
}

fn lookup(path: &Path) -> rustix::io::Result<Stat> {
    statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { path: path.into(), source }
}
