//! Reading runs: the index against the root, each page against the index.

use std::ops::Range;

use bytes::Bytes;

use super::{Extent, Index, damaged, index::MAX_SEALED_LEN, key, page};
use crate::{
    Repository, Result, block::Blocks, crypto::RunCipher, format::HEADER_LEN, record::snapshot::RunReference,
    repository::End,
};

/// A run up to this size is read whole: one request instead of two.
const WHOLE_BYTES: u64 = 256 << 10;

/// Pages are read together up to this many bytes; small pages would otherwise cost a request each.
const AHEAD_BYTES: u64 = 512 << 10;

/// Where a run's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// In the store.
    Stored(RunReference),
    /// In memory: it has not been put yet.
    Memory(super::Finished),
}

impl Origin {
    /// How a root refers to the run.
    pub(crate) const fn reference(&self) -> &RunReference {
        match self {
            Self::Stored(reference) => reference,
            Self::Memory(finished) => &finished.reference,
        }
    }
}

/// A run being read, with its index verified.
pub(crate) struct Reader {
    repository: Repository,
    reference: RunReference,
    index: Index,
    cipher: RunCipher,
    /// A part of the object that is in memory: all of it, or the pages read last.
    held: Held,
}

struct Held {
    offset: u64,
    bytes: Bytes,
}

impl Held {
    fn slice(&self, range: &Range<u64>) -> Option<Bytes> {
        let start = usize::try_from(range.start.checked_sub(self.offset)?).ok()?;
        let end = usize::try_from(range.end.checked_sub(self.offset)?).ok()?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }
}

/// Remembers the end of a run that is put: all of a short one, and the index of a longer one.
pub(crate) fn remember(repository: &Repository, finished: &super::Finished) {
    let super::Finished { reference, bytes } = finished;
    let offset = if reference.object_bytes <= WHOLE_BYTES { 0 } else { reference.index_offset };
    let end = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
    if let Some(end) = end {
        repository.recent().keep_run(reference.id, offset, end);
    }
}

impl Reader {
    /// Reads and verifies the index of a run.
    ///
    /// # Errors
    /// `Corrupt` naming the run, or the store's.
    pub(crate) async fn open(repository: &Repository, origin: Origin) -> Result<Self> {
        Self::open_whole(repository, origin, WHOLE_BYTES).await
    }

    /// The same from what this process remembers of the run, where it does; what is read is remembered. For those who go by
    /// what the run holds, and not by whether the store still has it.
    ///
    /// # Errors
    /// `Corrupt` naming the run, or the store's.
    pub(crate) async fn recall(repository: &Repository, origin: Origin) -> Result<Self> {
        let Origin::Stored(reference) = &origin else { return Self::open(repository, origin).await };
        if let Some(End { offset, bytes }) = repository.recent().run(reference.id, reference.index_offset) {
            return Self::of_end(repository, reference.clone(), Held { offset, bytes });
        }
        let reader = Self::open(repository, origin).await?;
        repository.recent().keep_run(reader.reference.id, reader.held.offset, &reader.held.bytes);
        Ok(reader)
    }

    /// Reads and verifies the index of a run, and with it all of one that has at most `whole` bytes: for those who will
    /// want every page.
    ///
    /// # Errors
    /// `Corrupt` naming the run, or the store's.
    pub(crate) async fn open_whole(repository: &Repository, origin: Origin, whole: u64) -> Result<Self> {
        let reference = origin.reference().clone();
        let (offset, length) = (reference.index_offset, reference.object_bytes);
        if offset < HEADER_LEN as u64 || length < offset || length - offset > MAX_SEALED_LEN {
            return Err(damaged(reference.id, "the root says that its index is where none can be"));
        }
        let held = match origin {
            Origin::Memory(finished) => Held { offset: 0, bytes: finished.bytes },
            Origin::Stored(_) => {
                let start = if length <= whole { 0 } else { offset };
                let bytes = repository.store().get_range(&key(reference.id), start..length).await?;
                Held { offset: start, bytes }
            }
        };
        Self::of_end(repository, reference, held)
    }

    /// Verifies the index of a run whose end is in memory.
    fn of_end(repository: &Repository, reference: RunReference, held: Held) -> Result<Self> {
        let (offset, length) = (reference.index_offset, reference.object_bytes);
        let sealed = held.slice(&(offset..length)).ok_or_else(|| damaged(reference.id, "it ends within its index"))?;
        if blake3::hash(&sealed).to_hex().as_str() != reference.index_hash {
            return Err(damaged(reference.id, "its index is not the one that was written: the hash differs"));
        }
        let cipher = repository.data_key().run_cipher(reference.id);
        let mut bytes = sealed.to_vec();
        cipher
            .open_index(&mut bytes)
            .map_err(|rejected| damaged(reference.id, format!("its index cannot be opened: {rejected}")))?;
        let index = Index::decode(&bytes, offset)
            .map_err(|malformed| damaged(reference.id, format!("its index is malformed: {malformed}")))?;
        Ok(Self { repository: repository.clone(), reference, index, cipher, held })
    }

    /// How the root refers to the run.
    pub(crate) const fn reference(&self) -> &RunReference {
        &self.reference
    }

    /// The verified index.
    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }

    /// Reads and verifies the `number`th page, and keeps what it read of those behind it that start before `until`.
    ///
    /// # Errors
    /// `Corrupt` naming the run and the page, or the store's.
    pub(crate) async fn page(&mut self, number: usize, until: Blocks) -> Result<Vec<Extent<u32>>> {
        let damaged = |reason: String| damaged(self.reference.id, format!("page {number}: {reason}"));
        let Some(entry) = self.index.pages.get(number) else {
            return Err(damaged("there is none".into()));
        };
        let range = entry.offset..entry.end();
        let sealed = match self.held.slice(&range) {
            Some(sealed) => sealed,
            None => {
                let ahead = self.index.pages[number..]
                    .iter()
                    .take_while(|page| page.range.first < until && page.end() - entry.offset <= AHEAD_BYTES)
                    .last()
                    .map_or(entry.end(), |page| page.end());
                let ahead = ahead.max(entry.end());
                let bytes = self.repository.store().get_range(&key(self.reference.id), entry.offset..ahead).await?;
                self.held = Held { offset: entry.offset, bytes };
                self.held.slice(&range).ok_or_else(|| damaged("it was not read whole".into()))?
            }
        };
        if *blake3::hash(&sealed).as_bytes() != entry.hash {
            return Err(damaged("it is not the one that was written: the hash differs".into()));
        }
        let mut bytes = sealed.to_vec();
        let ordinal = u32::try_from(number).map_err(|_| damaged("there is none".into()))?;
        self.cipher
            .open_page(ordinal, &mut bytes)
            .map_err(|rejected| damaged(format!("it cannot be opened: {rejected}")))?;
        let count = usize::try_from(entry.extents).map_err(|_| damaged("it is too long".into()))?;
        let extents = page::decode(&bytes, count, self.index.packs.len())
            .map_err(|malformed| damaged(format!("it is malformed: {malformed}")))?;
        let spans = extents.first().zip(extents.last());
        if spans.is_some_and(|(first, last)| {
            first.range.first == entry.range.first && last.range.end() == entry.range.end()
        }) {
            Ok(extents)
        } else {
            Err(damaged("it does not cover what the index says".into()))
        }
    }
}
