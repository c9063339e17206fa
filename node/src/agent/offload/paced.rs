//! Reading a cut in its offload's turn: not while it is somebody else's, nor faster than the limits allow.
//!
//! # Cancellation
//! A read that waits ends with the token.

use std::{io, sync::Arc, time::Duration};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use varve_repository::{
    bandwidth::Bandwidth,
    block::{BlockSource, Blocks},
};

use super::turns::Turn;

/// A cut's image, read at the pace that its offload is given.
pub(super) struct Paced<S> {
    pub(super) source: S,
    pub(super) turn: Arc<Turn>,
    /// Bytes a second that may be read.
    pub(super) reads: Bandwidth,
    pub(super) cancel: CancellationToken,
    /// What waits; reads come from threads that may block.
    pub(super) runtime: Handle,
}

/// The offload's turn has ended: it is to be continued in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is another volume's turn")]
pub(super) struct TurnOver;

impl TurnOver {
    /// Tells whether this is what ended an offload.
    pub(super) fn caused(error: &varve_repository::Error) -> bool {
        match error {
            varve_repository::Error::Local { source, .. } => source.get_ref().is_some_and(|inner| inner.is::<Self>()),
            _ => false,
        }
    }
}

impl<S> Paced<S> {
    fn wait(&self, bytes: u64) -> io::Result<()> {
        let rest = self.turn.rest();
        if rest.is_none() && self.reads.rate().is_none() {
            return Ok(());
        }
        let waiting = async {
            tokio::time::sleep(rest.unwrap_or(Duration::ZERO)).await;
            self.reads.acquire(bytes).await;
        };
        let waited = self.runtime.block_on(self.cancel.run_until_cancelled(waiting));
        waited.ok_or_else(|| io::Error::other("the offload was interrupted"))
    }
}

impl<S: BlockSource> BlockSource for Paced<S> {
    fn capacity(&self) -> Blocks {
        self.source.capacity()
    }

    fn reads_at_once(&self) -> bool {
        self.source.reads_at_once()
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = buffer.len() as u64;
        if self.turn.advance(bytes) {
            return Err(io::Error::other(TurnOver));
        }
        self.wait(bytes)?;
        self.source.read(first, buffer)
    }
}
