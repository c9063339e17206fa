//! Buffers that direct I/O accepts.

use std::sync::{Mutex, PoisonError};

/// What direct I/O asks of addresses, offsets and lengths at the most, in bytes.
pub(super) const ALIGNMENT: usize = 4096;
/// Length of a buffer, in bytes.
pub(super) const LENGTH: usize = 256 << 10;

/// Tells whether direct I/O accepts the slice as it is.
pub(super) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(ALIGNMENT) == 0
}

/// Buffers that are kept for the next use; as many as were ever in use at once.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// Lends an aligned buffer of [`LENGTH`] bytes, with whatever is in it.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut bytes = self.lock().pop().unwrap_or_else(|| vec![0; LENGTH + ALIGNMENT]);
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        let result = work(&mut bytes[start..start + LENGTH]);
        self.lock().push(bytes);
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        // The list is whole at every instant, so a panic elsewhere has not spoilt it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
