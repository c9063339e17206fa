//! Reading a range of an object into a buffer that is used again, so that a restore does not ask the allocator for
//! megabytes with every read: what many threads free goes back late, and the kernel clears each page anew.

use std::{ops::Range, os::unix::fs::FileExt};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, Result, path::Path,
};
use tokio::task::spawn_blocking;

use crate::buffer::{Buffer, Buffers};

/// Less than this part of a buffer is read without one: small objects and what claims to be large must not take a whole one.
const LEAST_PART: u64 = 4;

/// Reads a range, or what there is of it, into one of the buffers if there are any and it fits.
///
/// # Errors
/// The store's.
pub(super) async fn read(
    store: &dyn ObjectStore,
    key: &Path,
    range: Range<u64>,
    buffers: Option<&Buffers>,
) -> Result<Bytes> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let Some(buffers) = buffers.filter(|buffers| length <= buffers.length()) else {
        return store.get_range(key, range).await;
    };
    let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
    let found = store.get_opts(key, options).await?;
    if found.range.end.saturating_sub(found.range.start) < buffers.length() as u64 / LEAST_PART {
        return found.bytes().await;
    }
    let (buffer, filled) = fill(found, buffers.take()).await?;
    Ok(buffer.freeze().slice(..filled))
}

/// Reads what was found into the buffer; returns how many bytes that were, too.
async fn fill(found: GetResult, mut buffer: Buffer) -> Result<(Buffer, usize)> {
    match found.payload {
        GetResultPayload::File(file, _) => {
            let Range { start, end } = found.range;
            let length = usize::try_from(end - start).unwrap_or(usize::MAX).min(buffer.len());
            let reading = spawn_blocking(move || file.read_exact_at(&mut buffer[..length], start).map(|()| buffer));
            let read = reading.await.map_err(|source| Error::JoinError { source })?;
            read.map(|buffer| (buffer, length)).map_err(generic)
        }
        GetResultPayload::Stream(mut pieces) => {
            let mut filled = 0;
            while let Some(piece) = pieces.try_next().await? {
                let room = buffer.get_mut(filled..filled + piece.len());
                let room = room.ok_or_else(|| generic(std::io::Error::other("more was sent than was asked for")))?;
                room.copy_from_slice(&piece);
                filled += piece.len();
            }
            Ok((buffer, filled))
        }
    }
}

fn generic(source: std::io::Error) -> Error {
    Error::Generic { store: "range", source: source.into() }
}

#[cfg(test)]
mod tests {
    use object_store::{local::LocalFileSystem, memory::InMemory};

    use super::*;

    #[tokio::test]
    async fn a_range_is_read_into_a_buffer_from_a_file_and_from_a_stream() {
        let folder = tempfile::tempdir().unwrap();
        let stores: [Box<dyn ObjectStore>; 2] =
            [Box::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()), Box::new(InMemory::new())];
        let (key, buffers) = (Path::from("object"), Buffers::new(8));
        for store in stores {
            store.put(&key, "0123456789".into()).await.unwrap();
            let read = async |range| read(&*store, &key, range, Some(&buffers)).await;
            assert_eq!(read(2..10).await.unwrap(), "23456789");
            assert_eq!(read(0..1).await.unwrap(), "0");
            assert_eq!(read(7..12).await.unwrap(), "789", "what there is of it");
            assert_eq!(read(0..10).await.unwrap(), "0123456789", "larger than the buffer");
            assert!(matches!(read(11..12).await.unwrap_err(), Error::Generic { .. }));
            store.delete(&key).await.unwrap();
            assert!(matches!(read(0..1).await.unwrap_err(), Error::NotFound { .. }));
        }
    }
}
