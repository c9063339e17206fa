//! Buffers that are read into past the page cache and used again.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

/// What direct I/O asks of addresses at the most, in bytes.
const ALIGNMENT: usize = 4096;

/// Buffers of one length; as many are kept as were ever in use at once. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct Buffers {
    length: usize,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer, which goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    home: Buffers,
}

impl Buffers {
    /// Buffers of so many bytes.
    pub(crate) fn new(length: usize) -> Self {
        Self { length, idle: Arc::default() }
    }

    /// Bytes of each.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Lends one, with whatever is in it.
    pub(crate) fn take(&self) -> Buffer {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = idle.unwrap_or_else(|| vec![0; self.length + ALIGNMENT]);
        // A vector's bytes stay where they are when it is moved.
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Buffer { bytes, start, home: self.clone() }
    }
}

impl Buffer {
    /// Makes it immutable and to be shared; it goes back when the last part of it is dropped.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.home.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.home.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_comes_back_with_its_last_part() {
        let buffers = Buffers::new(8192);
        let mut buffer = buffers.take();
        assert_eq!((buffer.len(), buffer.as_ptr().align_offset(4096)), (8192, 0));
        buffer[..2].copy_from_slice(&[7, 8]);
        let address = buffer.as_ptr();
        let part = buffer.freeze().slice(1..2);
        assert_eq!((&part[..], buffers.idle.lock().unwrap().len()), (&[8][..], 0));
        drop(part);
        assert_eq!(buffers.take().as_ptr(), address);
    }
}
