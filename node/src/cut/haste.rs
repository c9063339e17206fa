//! Making the kernel's part of a freeze short.
//!
//! `FIFREEZE` takes three locks for writing, one after another, and each waits for a grace period of RCU: until every
//! processor has passed through a state in which it reads nothing, which takes ten milliseconds and more on a busy machine.
//! Writers are held from the end of the first. The kernel can be told to ask the processors at once instead
//! (`/sys/kernel/rcu_expedited`): the three then take about a millisecond. It does so for as long as a freeze begins, and
//! for everybody: processors are interrupted more often meanwhile.
//!
//! The thread that freezes, clones and thaws also goes ahead of threads that are not real-time, as writers wait for it.
//!
//! Where the kernel refuses either, a freeze takes longer, and nothing else changes.
//!
//! # Crash consistency
//! The [sentinel](super::sentinel) is told, and takes the setting back should this process be killed in between.

use std::{
    fs, io,
    sync::{Arc, Mutex, PoisonError},
};

use super::sentinel::Sentinel;
use crate::sys::priority::Scheduling;

/// See Documentation/admin-guide/kernel-parameters.txt, `rcupdate.rcu_expedited`.
const EXPEDITED: &str = "/sys/kernel/rcu_expedited";

/// How many freezes begin at present, and whether it was this process that set the kernel to hurry.
static HURRIED: Mutex<Hurried> = Mutex::new(Hurried { freezes: 0, ours: false });

#[derive(Debug)]
struct Hurried {
    freezes: usize,
    ours: bool,
}

/// The kernel hurries while this lives.
#[derive(Debug)]
pub(super) struct Hurry {
    sentinel: Option<Arc<Sentinel>>,
}

impl Hurry {
    pub(super) fn begin(sentinel: Option<Arc<Sentinel>>) -> Self {
        let mut hurried = HURRIED.lock().unwrap_or_else(PoisonError::into_inner);
        hurried.freezes += 1;
        if hurried.freezes == 1 {
            match set(sentinel.as_deref()) {
                Ok(ours) => hurried.ours = ours,
                Err(error) => tracing::debug!(%error, "{EXPEDITED} cannot be set: freezes take longer"),
            }
        }
        Self { sentinel }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        let mut hurried = HURRIED.lock().unwrap_or_else(PoisonError::into_inner);
        hurried.freezes -= 1;
        if hurried.freezes == 0 && std::mem::take(&mut hurried.ours) {
            match unset() {
                Ok(()) => {
                    if let Some(sentinel) = &self.sentinel {
                        sentinel.calm();
                    }
                }
                Err(error) => tracing::warn!(%error, "{EXPEDITED} cannot be set back: it stays 1"),
            }
        }
    }
}

/// Has the kernel hurry; `false` where it does anyway, which is then not ours to take back.
fn set(sentinel: Option<&Sentinel>) -> io::Result<bool> {
    if fs::read_to_string(EXPEDITED)?.trim() != "0" {
        return Ok(false);
    }
    if let Some(sentinel) = sentinel {
        sentinel.hurry();
    }
    fs::write(EXPEDITED, "1").map(|()| true)
}

/// Takes that back.
pub(super) fn unset() -> io::Result<()> {
    fs::write(EXPEDITED, "0")
}

/// The calling thread goes ahead of others while this lives.
#[derive(Debug)]
pub(super) struct Ahead(Option<Scheduling>);

impl Ahead {
    pub(super) fn begin() -> Self {
        let before = Scheduling::current().and_then(|before| Scheduling::AHEAD.apply().map(|()| before));
        Self(before.inspect_err(|error| tracing::debug!(%error, "a freeze waits for its turn like others")).ok())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(before) = self.0
            && let Err(error) = before.apply()
        {
            tracing::warn!(%error, "a thread goes ahead of others for good");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_goes_ahead_and_back() {
        std::thread::spawn(|| {
            let before = Scheduling::current().expect("it is scheduled");
            let ahead = Ahead::begin();
            let meanwhile = Scheduling::current().expect("it is scheduled");
            // Where it may not, nothing changes.
            assert_eq!(meanwhile, if ahead.0.is_some() { Scheduling::AHEAD } else { before });
            drop(ahead);
            assert_eq!(Scheduling::current().expect("it is scheduled"), before);
        })
        .join()
        .expect("it does not panic");
    }
}
