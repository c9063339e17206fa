//! What one offload has stored so far, written down on the node, so that a restart continues behind it.
//!
//! ```text
//! frame    0   4  length of the payload
//!          4  32  BLAKE3 of the payload
//!         36      payload
//!
//! payload  0   1  kind
//!          1      1 opening: JSON that says whose journal it is
//!                 2 stretch: position 8, statistics 7 × 8, number of packs 4, pack references (as in a run's index),
//!                            number of extents 4, extents (as in a run's page)
//!                 3 run: JSON of its reference; it holds the extents of all stretches since the run before
//!                 4 stored: the oldest stretch of which nothing was said since is stored
//!                 5 anew: stretches of which nothing was said since are not, and will be dealt with once more
//! ```
//!
//! The journal is the node's own file and no part of the repository's format: a program that cannot read it starts over.
//!
//! # Crash consistency
//! A stretch is appended and synced before its pack is put, and said to be stored after, without a sync of its own: whoever
//! continues looks for the few packs that were on their way, so that none is sent twice. A torn last frame does not match its
//! hash and is cut off. Nothing relies on the journal but the saving of work: whatever is odd about one, it is discarded.
//! Nor is an offload held up by a journal that cannot be written, on a full disk for instance: it goes on without.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    mem,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Against;
use crate::{
    block::Blocks,
    id::{PackId, SnapshotId, UploadId},
    pack::PackReference,
    record::snapshot::{RunReference, SnapshotStatistics},
    run::{
        Segment,
        wire::{Cursor, Malformed},
    },
    work::Worker,
};

/// The form of the journal; another one is discarded.
const VERSION: u32 = 2;

/// Longest payload, in bytes: far more than any stretch takes.
const MAX_PAYLOAD_LEN: usize = 64 << 20;

/// Most extents in a stretch: far more than any has.
const MAX_EXTENTS: usize = 1 << 20;

const OPENING: u8 = 1;
const STRETCH: u8 = 2;
const RUN: u8 = 3;
const STORED: u8 = 4;
const ANEW: u8 = 5;

/// Whose journal it is. One that was begun for anything else is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Opening {
    version: u32,
    repository: Uuid,
    snapshot: SnapshotId,
    incarnation: Uuid,
    capacity: Blocks,
    against: Against,
}

impl Opening {
    pub(super) fn new(repository: Uuid, request: &super::Request) -> Self {
        Self {
            version: VERSION,
            repository,
            snapshot: request.description.id,
            incarnation: request.description.incarnation,
            capacity: request.source.capacity(),
            against: request.against,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct OpeningFrame {
    upload: UploadId,
    #[serde(flatten)]
    opening: Opening,
}

/// A part of the image that has been dealt with, once its pack is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Everything before this position has been dealt with.
    pub(super) position: Blocks,
    /// What it took.
    pub(super) statistics: SnapshotStatistics,
    /// Where its blocks are, in ascending order.
    pub(super) segments: Vec<Segment>,
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A stretch is about to be stored.
    Stretch(Stretch),
    /// The oldest stretch that was about to be stored is.
    Stored,
    /// Those that are still about to be stored are given up.
    Anew,
    /// A run that says where all stretches since the run before are is stored.
    Run(RunReference),
}

/// A journal that may be continued, as far as it can be told without the store.
pub(super) struct Found {
    path: PathBuf,
    file: File,
    /// The upload that wrote it.
    pub(super) upload: UploadId,
}

/// A journal being written, or nothing, where none is wanted or possible.
#[derive(Debug, Default)]
pub(super) struct Journal(Option<(PathBuf, File)>);

impl Found {
    /// Opens the journal that an earlier attempt at the same offload left, if there is one.
    ///
    /// # Errors
    /// Why it cannot be continued.
    pub(super) fn open(path: &Path, expected: &Opening) -> io::Result<Option<Self>> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let payload = read_frame(&mut file)?.ok_or_else(|| odd("it has no opening"))?;
        let Some((&OPENING, json)) = payload.split_first() else {
            return Err(odd("it does not begin with an opening"));
        };
        let OpeningFrame { upload, opening } = serde_json::from_slice(json)?;
        if opening != *expected {
            return Err(odd("it is of another offload"));
        }
        Ok(Some(Self { path: path.into(), file, upload }))
    }

    /// Hands over what the journal says, entry by entry, and returns it ready to be continued.
    ///
    /// # Errors
    /// Why it cannot be continued, `entry`'s reasons among them.
    pub(super) fn replay(mut self, mut entry: impl FnMut(Entry) -> io::Result<()>) -> io::Result<Journal> {
        loop {
            let end = self.file.stream_position()?;
            match read_frame(&mut self.file)? {
                Some(payload) => entry(decode(&payload)?)?,
                None => {
                    self.file.set_len(end)?;
                    self.file.seek(SeekFrom::Start(end))?;
                    return Ok(Journal(Some((self.path, self.file))));
                }
            }
        }
    }
}

impl Journal {
    /// Begins a new one, in place of whatever is there.
    pub(super) fn begin(path: Option<&Path>, upload: UploadId, opening: &Opening) -> Self {
        let Some(path) = path else { return Self(None) };
        let begin = || {
            let mut payload = vec![OPENING];
            serde_json::to_writer(&mut payload, &OpeningFrame { upload, opening: opening.clone() })?;
            // Not the file that is there: an attempt before may still be about to append to that.
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let mut file = File::create(path)?;
            write_frame(&mut file, &payload)?;
            file.sync_data()?;
            Ok::<_, io::Error>(file)
        };
        let mut journal = Self(None);
        match begin() {
            Ok(file) => journal.0 = Some((path.into(), file)),
            Err(error) => abandoned(path, &error),
        }
        journal
    }

    /// Writes an entry down where work is done that blocks, and gives it back.
    ///
    /// # Errors
    /// `Interrupted` alone.
    pub(super) async fn write(&mut self, worker: &Worker, entry: Entry) -> crate::Result<Entry> {
        let mut taken = mem::take(self);
        let appended = worker.start(move || {
            taken.append(&entry);
            (taken, entry)
        });
        let entry;
        (*self, entry) = appended.await?;
        Ok(entry)
    }

    /// Writes an entry down; blocks.
    fn append(&mut self, entry: &Entry) {
        let Some((path, file)) = &mut self.0 else { return };
        let written = encode(entry).and_then(|payload| write_frame(file, &payload));
        // That a pack is stored may be forgotten: it is looked for then.
        let written = written.and_then(|()| if matches!(entry, Entry::Stored) { Ok(()) } else { file.sync_data() });
        if let Err(error) = written {
            abandoned(path, &error);
            // A later frame would make it seem that this one was never due.
            self.0 = None;
        }
    }

    /// Removes the journal at a path: the snapshot is decided, one way or the other.
    pub(super) fn remove(path: Option<&Path>) {
        let Some(path) = path else { return };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "the journal of a finished offload stays behind");
            }
            _ => {}
        }
    }
}

fn abandoned(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "the offload goes on without its journal: a restart would begin anew");
}

fn odd(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn malformed(malformed: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, malformed)
}

fn write_frame(file: &mut File, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD_LEN);
    let length = length.ok_or_else(|| odd("a frame would be too long"))?;
    let mut frame = Vec::with_capacity(36 + payload.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(blake3::hash(payload).as_bytes());
    frame.extend_from_slice(payload);
    file.write_all(&frame)
}

/// Reads the next frame's payload; `None` where the file ends, or what follows was not written whole.
fn read_frame(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 36];
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let [a, b, c, d, ..] = head;
    let length = u32::from_le_bytes([a, b, c, d]);
    // Grows with what is there, not with what the length claims.
    let mut payload = Vec::new();
    file.take(length.into()).read_to_end(&mut payload)?;
    let whole = u32::try_from(payload.len()) == Ok(length);
    Ok((whole && blake3::hash(&payload).as_bytes()[..] == head[4..]).then_some(payload))
}

fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    match entry {
        Entry::Run(reference) => {
            let mut payload = vec![RUN];
            serde_json::to_writer(&mut payload, reference)?;
            Ok(payload)
        }
        Entry::Stretch(stretch) => encode_stretch(stretch),
        Entry::Stored => Ok(vec![STORED]),
        Entry::Anew => Ok(vec![ANEW]),
    }
}

fn decode(payload: &[u8]) -> io::Result<Entry> {
    match payload.split_first() {
        Some((&RUN, json)) => Ok(Entry::Run(serde_json::from_slice(json)?)),
        Some((&STORED, [])) => Ok(Entry::Stored),
        Some((&ANEW, [])) => Ok(Entry::Anew),
        Some((&STRETCH, rest)) => decode_stretch(rest).map(Entry::Stretch).map_err(malformed),
        _ => Err(odd("a frame is of an unknown kind")),
    }
}

fn encode_stretch(stretch: &Stretch) -> io::Result<Vec<u8>> {
    let mut packs: Vec<PackReference> = Vec::new();
    let mut positions: HashMap<PackId, u32> = HashMap::new();
    let extents: Vec<_> = stretch
        .segments
        .iter()
        .map(|segment| {
            segment.map(|pack| {
                *positions.entry(pack.id).or_insert_with(|| {
                    packs.push(pack);
                    u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
                })
            })
        })
        .collect();
    let count = |count: usize| u32::try_from(count).map(u32::to_le_bytes).map_err(|_| odd("a stretch is too long"));
    let mut payload = vec![STRETCH];
    payload.extend_from_slice(&stretch.position.0.to_le_bytes());
    for value in values(&stretch.statistics) {
        payload.extend_from_slice(&value.to_le_bytes());
    }
    payload.extend_from_slice(&count(packs.len())?);
    packs.iter().for_each(|pack| pack.encode(&mut payload));
    payload.extend_from_slice(&count(extents.len())?);
    payload.extend_from_slice(&crate::run::encode_extents(&extents));
    Ok(payload)
}

fn decode_stretch(bytes: &[u8]) -> Result<Stretch, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let position = Blocks(cursor.u64()?);
    let mut read = [0; 7];
    for value in &mut read {
        *value = cursor.u64()?;
    }
    let packs = (0..cursor.u32()?).map(|_| PackReference::decode(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
    PackReference::distinct(&packs)?;
    let extents = usize::try_from(cursor.u32()?).ok().filter(|count| *count <= MAX_EXTENTS);
    let extents = extents.ok_or(Malformed("a stretch is too long"))?;
    let rows = cursor.bytes(cursor.left())?;
    let extents = crate::run::decode_extents(rows, extents, packs.len())?;
    // Decoded against the number of packs, so each position is one of theirs.
    let segments = extents.into_iter().map(|extent| extent.map(|pack| packs[pack as usize])).collect();
    Ok(Stretch { position, statistics: statistics(read), segments })
}

/// The counters that add up over stretches.
fn values(statistics: &SnapshotStatistics) -> [u64; 7] {
    let SnapshotStatistics {
        changed_bytes,
        read_bytes,
        stored_bytes,
        deduplicated_bytes,
        uploaded_bytes,
        chunks,
        packs,
        data_bytes: _,
        offload_millis: _,
    } = *statistics;
    [changed_bytes, read_bytes, stored_bytes, deduplicated_bytes, uploaded_bytes, chunks, packs]
}

fn statistics(values: [u64; 7]) -> SnapshotStatistics {
    let [changed_bytes, read_bytes, stored_bytes, deduplicated_bytes, uploaded_bytes, chunks, packs] = values;
    SnapshotStatistics {
        changed_bytes,
        read_bytes,
        stored_bytes,
        deduplicated_bytes,
        uploaded_bytes,
        chunks,
        packs,
        ..SnapshotStatistics::default()
    }
}

/// Adds what another stretch took.
pub(super) fn add(total: &mut SnapshotStatistics, more: &SnapshotStatistics) {
    let (mut sum, more) = (values(total), values(more));
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(more));
    let SnapshotStatistics { data_bytes, offload_millis, .. } = *total;
    *total = SnapshotStatistics { data_bytes, offload_millis, ..statistics(sum) };
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
