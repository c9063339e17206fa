//! The reserve: an object of padding, kept so that a full store has room for deletions.
//!
//! A deletion begins with a put, that of a tombstone, and a store that is full refuses it: then nothing could ever be
//! deleted. So `reserve` is deleted first, which needs no room, and the tombstone takes some of what that frees. A
//! tombstone is smaller than the root in whose place it stands, and collection begins with deletions, so that this one
//! piece of room is enough for as many deletions as there are.
//!
//! # Crash consistency
//!
//! Nothing refers to it and nobody reads it: it may be missing, whole or damaged at any moment. A collection puts it back
//! when it finds it missing.

use bytes::Bytes;

use super::{Repository, names::RESERVE};
use crate::{Error, ErrorKind, Result, seam::Seams};

/// Its size in bytes: room for 256 tombstones where each takes a block, and some for the store's own records of them.
const RESERVE_BYTES: usize = 1 << 20;

impl Repository {
    /// Puts the reserve back where it is missing and there is room; tells whether it is there now.
    ///
    /// # Errors
    /// The store's, but for its being full.
    pub async fn restore_reserve(&self) -> Result<bool> {
        if self.store().head(RESERVE).await?.is_some() {
            return Ok(true);
        }
        // Whoever else puts one puts as good a one.
        match self.store().put_over(RESERVE, padding(self.seams())).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Full => {
                tracing::warn!(url = self.store().url(), "there is no room to put the reserve back");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Frees the room that the reserve takes, because a deletion finds none; tells whether there was any to free.
    pub(super) async fn spend_reserve(&self) -> bool {
        let spent = async {
            let there = self.store().head(RESERVE).await?.is_some();
            if there {
                self.store().delete(RESERVE).await?;
            }
            Ok::<_, Error>(there)
        };
        match spent.await {
            Ok(true) => {
                tracing::warn!(
                    url = self.store().url(),
                    "no room for a deletion: the reserve was deleted to make some"
                );
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(url = self.store().url(), %error, "no room for a deletion, and the reserve stays");
                false
            }
        }
    }
}

/// Makes bytes that take as much room as there are of them, also where a store compresses, or keeps equal blocks once.
fn padding(seams: &Seams) -> Bytes {
    let mut bytes = vec![0; RESERVE_BYTES];
    blake3::Hasher::new_keyed(&seams.random()).finalize_xof().fill(&mut bytes);
    bytes.into()
}
