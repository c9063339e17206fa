//! Work that computes or blocks, kept off the runtime's own threads.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
};

use tokio::{sync::oneshot, task::JoinError};
use tokio_util::task::TaskTracker;

use crate::{Error, Result, seam::Work};

/// Starts work where the [seams](crate::seam::Seams) say, and can wait for all of it to end.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    place: Work,
    tracker: TaskTracker,
}

impl Worker {
    /// Makes one.
    pub(crate) fn new(place: Work) -> Self {
        Self { place, tracker: TaskTracker::new() }
    }

    /// Where the work is done.
    pub(crate) fn place(&self) -> Work {
        self.place
    }

    /// Counts what is started on the runtime, so that its end is waited for too.
    pub(crate) fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Starts work that may block, at once; the future is for its result alone, and dropping it does not end the work.
    ///
    /// # Errors
    /// The future's: `Interrupted` where the runtime ended the work in its own shutdown.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = Result<T>> + Send>> {
        match self.place {
            Work::Threads => {
                let handle = self.tracker.spawn_blocking(work);
                Box::pin(async { joined(handle.await) })
            }
            Work::Inline => Box::pin(std::future::ready(Ok(work()))),
        }
    }

    /// Starts work that does nothing but compute, as soon as there is a core for it, in the order in which it is asked for. One
    /// thread for each core does all of it: more would take turns on the cores, in each other's caches, and each
    /// would keep memory of its own. The future is for its result alone, and dropping it does not end the work.
    ///
    /// # Errors
    /// The future's: `Interrupted` where the work was given up before it began.
    pub(crate) fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = Result<T>> + Send>> {
        match self.place {
            Work::Threads => {
                let (done, result) = oneshot::channel();
                let token = self.tracker.token();
                rayon::spawn_fifo(move || {
                    // Whoever wanted it may have gone.
                    let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
                    drop(token);
                });
                Box::pin(async {
                    match result.await {
                        Ok(result) => Ok(result.unwrap_or_else(|panic| resume_unwind(panic))),
                        Err(_) => Err(Error::Interrupted),
                    }
                })
            }
            Work::Inline => Box::pin(std::future::ready(Ok(work()))),
        }
    }

    /// Waits until everything that was started has ended.
    pub(crate) async fn finish(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Takes a task's result; one that the runtime ended in its own shutdown was interrupted.
pub(crate) fn joined<T>(result: Result<T, JoinError>) -> Result<T> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(_) => Error::Interrupted,
    })
}
