//! A process beside this one, which thaws what this one leaves frozen.
//!
//! The watchdog of a [freeze](super::freeze) is a thread and dies with its process: one that is killed while it holds
//! writers would hold them until its next start. The sentinel is told over a pipe what is about to be frozen and what is
//! thawed. However its parent ends, the pipe ends with it, and what was not thawed by then the sentinel thaws. So it does
//! with the kernel's setting that makes freezes [short](super::haste).
//!
//! ```text
//! message   0  1  'f' about to be frozen, 't' thawed, 'h' the kernel is about to be hurried, 'c' it is not any more
//!           1     a mount point of it (nothing for 'h' and 'c'), ended by a zero byte
//! ```
//!
//! # Concurrency
//!
//! A message is in the pipe before the freeze begins, so there is no freeze that a sentinel does not know of. It holds
//! nothing open, so that no file system is busy for its sake. Where no sentinel can be started the cut is made all
//! the same: the watchdog and the next start thaw too.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use super::haste;
use crate::sys;

const FREEZES: u8 = b'f';
const THAWED: u8 = b't';
const HURRY: u8 = b'h';
const CALM: u8 = b'c';

/// The parent's side: starts the process when it is first needed, and again should it end.
#[derive(Debug)]
pub struct Sentinel {
    program: PathBuf,
    arguments: Vec<OsString>,
    child: Mutex<Option<Child>>,
}

impl Sentinel {
    /// Names the program that is to [stand watch](stand_watch) over its standard input.
    #[must_use]
    pub fn new(program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { program, arguments, child: Mutex::default() }
    }

    /// Says what is about to be frozen.
    pub(super) fn freezes(&self, mount_point: &Path) {
        if let Err(error) = self.tell(FREEZES, mount_point) {
            tracing::warn!(%error, mount_point = %mount_point.display(), "no sentinel watches over a freeze");
        }
    }

    /// Says what is thawed.
    pub(super) fn thawed(&self, mount_point: &Path) {
        // One that is gone has thawed it, or never knew.
        if let Err(error) = self.tell(THAWED, mount_point) {
            tracing::debug!(%error, "the sentinel could not be told of a thaw");
        }
    }

    /// Says that the kernel is about to be hurried.
    pub(super) fn hurry(&self) {
        if let Err(error) = self.tell(HURRY, Path::new("")) {
            tracing::debug!(%error, "the sentinel could not be told of a hurry");
        }
    }

    /// Says that the kernel is not hurried any more.
    pub(super) fn calm(&self) {
        if let Err(error) = self.tell(CALM, Path::new("")) {
            tracing::debug!(%error, "the sentinel could not be told of a hurry's end");
        }
    }

    fn tell(&self, kind: u8, mount_point: &Path) -> io::Result<()> {
        let mut message = vec![kind];
        message.extend_from_slice(mount_point.as_os_str().as_bytes());
        message.push(0);
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(input) = child.as_mut().and_then(|child| child.stdin.as_mut())
            && input.write_all(&message).is_ok()
        {
            return Ok(());
        }
        if let Some(gone) = child.take() {
            end(gone);
        }
        let mut fresh = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .current_dir("/")
            // What is sent to the parent's group, from a terminal for instance, is not for the sentinel.
            .process_group(0)
            .spawn()?;
        let told = fresh.stdin.as_mut().map_or(Ok(()), |input| input.write_all(&message));
        *child = Some(fresh);
        told
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if let Some(child) = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            end(child);
        }
    }
}

/// Ends the process by ending its input, and takes its exit status.
fn end(mut child: Child) {
    drop(child.stdin.take());
    if let Err(error) = child.wait() {
        tracing::debug!(%error, "the sentinel's end cannot be waited for");
    }
}

/// Does a sentinel's work: reads until the input ends, then thaws what is left frozen; returns how many that were.
///
/// # Errors
/// The input's. What was known to be frozen by then is thawed all the same.
pub fn stand_watch(input: impl Read) -> io::Result<usize> {
    let mut frozen: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut hurried = false;
    let mut input = BufReader::new(input);
    let read = loop {
        let mut message = Vec::new();
        match input.read_until(0, &mut message) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
        match message.as_slice() {
            [FREEZES, path @ .., 0] => drop(frozen.insert(path.to_vec())),
            [THAWED, path @ .., 0] => drop(frozen.remove(path)),
            [HURRY, 0] => hurried = true,
            [CALM, 0] => hurried = false,
            // The parent was killed in the middle of a message: nothing was frozen behind it.
            _ => {}
        }
    };
    let thawed = frozen.iter().filter(|path| thaw(Path::new(OsStr::from_bytes(path)))).count();
    if hurried && let Err(error) = haste::unset() {
        tracing::error!(%error, "what hurries the kernel cannot be set back");
    }
    read.map(|()| thawed)
}

fn thaw(mount_point: &Path) -> bool {
    match File::open(mount_point).and_then(|folder| sys::freeze::thaw(&folder)) {
        Ok(()) => {
            tracing::warn!(
                mount_point = %mount_point.display(),
                "its process ended while a file system was frozen: it is thawed"
            );
            true
        }
        // It never came to the freeze.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => false,
        Err(error) => {
            tracing::error!(mount_point = %mount_point.display(), %error, "a file system cannot be thawed");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_thawed_already_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("UTF-8");
        // Nothing here is frozen, so thawing is refused as invalid, and a torn message is no message.
        let input = format!("f{path}\0t{path}\0f{path}\0f/no/such/folder\0f/torn");
        assert_eq!(stand_watch(input.as_bytes()).expect("it is read"), 0);
    }

    #[test]
    fn a_sentinel_that_ended_is_started_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let heard = folder.path().join("heard");
        let script = format!("head -c 3 >> {}", heard.display());
        let sentinel = Sentinel::new("/bin/sh".into(), vec!["-c".into(), script.into()]);
        sentinel.freezes(Path::new("a"));
        // It ends after three bytes; the pipe then breaks, at the latest once its end has been waited for.
        let mut child = sentinel.child.lock().expect("no holder panics");
        child.as_mut().expect("it was started").wait().map(drop).expect("it ends");
        drop(child);
        sentinel.freezes(Path::new("b"));
        drop(sentinel);
        assert_eq!(std::fs::read(heard).expect("it is there"), b"fa\0fb\0");
    }
}
