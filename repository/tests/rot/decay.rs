//! Ways in which objects decay.

use std::{collections::BTreeMap, fmt};

use crate::storage::Memory;

/// One way in which an object decays.
#[derive(Clone, Debug)]
pub(crate) enum Decay {
    /// A bit is flipped in the byte at that position.
    Flip(String, usize),
    /// All from that position on is missing.
    Truncate(String, usize),
    /// Bytes follow.
    Extend(String),
    /// It and another of its kind stand in each other's place.
    Swap(String, String),
    /// It is again as it was before.
    Replay(String, Vec<u8>),
    /// It is missing.
    Delete(String),
}

impl Decay {
    /// The object that decays.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Flip(key, _)
            | Self::Truncate(key, _)
            | Self::Extend(key)
            | Self::Swap(key, _)
            | Self::Replay(key, _)
            | Self::Delete(key) => key,
        }
    }

    /// Lets the object decay; returns what changed, as it was before.
    pub(crate) async fn apply(&self, memory: &Memory) -> Vec<(String, Vec<u8>)> {
        let key = self.key();
        let before = memory.read(key).await;
        let mut after = before.clone();
        match self {
            Self::Flip(_, at) => after[*at] ^= 1 << (at % 8),
            Self::Truncate(_, length) => after.truncate(*length),
            Self::Extend(_) => after.extend(b"more"),
            Self::Replay(_, earlier) => after.clone_from(earlier),
            Self::Swap(_, other) => {
                let others = memory.read(other).await;
                memory.overwrite(key, others.clone()).await;
                memory.overwrite(other, before.clone()).await;
                return vec![(key.into(), before), (other.clone(), others)];
            }
            Self::Delete(_) => {
                memory.remove(key).await;
                return vec![(key.into(), before)];
            }
        }
        if after == before {
            return Vec::new();
        }
        memory.overwrite(key, after).await;
        vec![(key.into(), before)]
    }

    /// Puts back what changed.
    pub(crate) async fn undo(memory: &Memory, before: Vec<(String, Vec<u8>)>) {
        for (key, bytes) in before {
            memory.overwrite(&key, bytes).await;
        }
    }
}

impl fmt::Display for Decay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip(key, at) => write!(f, "{key}, byte {at} flipped"),
            Self::Truncate(key, length) => write!(f, "{key}, cut to {length} bytes"),
            Self::Extend(key) => write!(f, "{key}, extended"),
            Self::Swap(key, other) => write!(f, "{key}, swapped with {other}"),
            Self::Replay(key, earlier) => write!(f, "{key}, as it was with {} bytes", earlier.len()),
            Self::Delete(key) => write!(f, "{key}, deleted"),
        }
    }
}

/// All decays of all objects. `history` holds what objects once were.
pub(crate) fn of(objects: &[(String, Vec<u8>)], history: &BTreeMap<String, Vec<Vec<u8>>>) -> Vec<Decay> {
    let mut decays = Vec::new();
    for (number, (key, bytes)) in objects.iter().enumerate() {
        let length = bytes.len();
        // The header; a record's length or a first chunk; bodies; hashes, tags, tables and indexes at the end.
        let positions = [5, 12, length / 4, length / 2, length - 33, length - 1];
        decays.extend(positions.map(|at| Decay::Flip(key.clone(), at)));
        decays.extend([7, length - 1].map(|at| Decay::Truncate(key.clone(), at)));
        decays.push(Decay::Extend(key.clone()));
        let folder = key.split('/').next();
        // The next one of its kind; the last one's partner is the first.
        let alike = |(other, _): &&(String, Vec<u8>)| other.split('/').next() == folder && other != key;
        let next = objects[number..].iter().find(alike).or_else(|| objects.iter().find(alike));
        decays.extend(next.map(|(other, _)| Decay::Swap(key.clone(), other.clone())));
        for earlier in history.get(key).into_iter().flatten() {
            decays.push(Decay::Replay(key.clone(), earlier.clone()));
        }
        decays.push(Decay::Delete(key.clone()));
    }
    decays
}
