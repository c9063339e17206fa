//! Where the chunks of a repacked pack are now.
//!
//! Runs go on referring to the pack as if it were there: the record carries its table, sealed as it was, so that a
//! reference verifies as before, and says in which packs the chunks that were alive when it was repacked lie now.
//!
//! # Invariants
//! A target may be missing as long as nobody has proven it; the one that is proven last never is. Only a proven target
//! lets the pack itself, or another target, go (decision 0011).

use serde::{Deserialize, Serialize};

use crate::{
    id::PackId,
    pack::PackReference,
    run::wire::{Cursor, Malformed},
};

/// `relocated/<pack>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Relocation {
    /// The pack that was repacked.
    pub(crate) pack: PackId,
    /// Its sealed table, as stored.
    #[serde(with = "hex")]
    pub(crate) table: Vec<u8>,
    /// Where its chunks are, newest first.
    pub(crate) targets: Vec<Target>,
}

/// A pack that holds chunks of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// How to refer to it, encoded as in a run's index.
    #[serde(with = "hex")]
    reference: Vec<u8>,
    /// Which chunks it holds: the first one's ordinal in the pack that was repacked, its ordinal here, and how many
    /// follow one another. Ascending.
    chunks: Vec<(u32, u32, u32)>,
    /// Whether it is known to stay: what it says of other places may be forgotten.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) proven: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Target {
    /// Makes one of a pack and the ordinals, there and here, of the chunks that it holds, in ascending order.
    pub(crate) fn new(reference: &PackReference, places: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut chunks: Vec<(u32, u32, u32)> = Vec::new();
        for (ordinal, place) in places {
            match chunks.last_mut() {
                Some((first, at, count)) if *first + *count == ordinal && *at + *count == place => *count += 1,
                _ => chunks.push((ordinal, place, 1)),
            }
        }
        let mut encoded = Vec::with_capacity(PackReference::LEN);
        reference.encode(&mut encoded);
        Self { reference: encoded, chunks, proven: false }
    }

    /// How to refer to the pack.
    ///
    /// # Errors
    /// `Malformed`.
    pub(crate) fn reference(&self) -> Result<PackReference, Malformed> {
        let mut cursor = Cursor::new(&self.reference);
        let reference = PackReference::decode(&mut cursor)?;
        cursor.finish()?;
        Ok(reference)
    }

    /// Returns the ordinal that a chunk has in it; `None` where it does not hold the chunk.
    pub(crate) fn place(&self, ordinal: u32) -> Option<u32> {
        let after = self.chunks.partition_point(|(first, _, _)| *first <= ordinal);
        let (first, place, count) = self.chunks[..after].last()?;
        let skipped = ordinal - first;
        (skipped < *count).then(|| place + skipped)
    }
}

impl Relocation {
    /// Checks what no type says.
    ///
    /// # Errors
    /// `Malformed`.
    pub(crate) fn validate(&self) -> Result<(), Malformed> {
        for target in &self.targets {
            target.reference()?;
            let mut end = 0;
            for (first, place, count) in &target.chunks {
                let ends = first.checked_add(*count).zip(place.checked_add(*count));
                let (Some((next, _)), true) = (ends, *count > 0 && *first >= end) else {
                    return Err(Malformed("a target's chunks overlap"));
                };
                end = next;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> PackReference {
        PackReference { id: PackId::from_bytes([7; 16]), object_bytes: 100, table_offset: 60, table_hash: [9; 32] }
    }

    #[test]
    fn chunks_are_found_where_they_lie_and_no_others() {
        let places = [(2, 0), (3, 1), (4, 2), (7, 3), (9, 10), (10, 11)];
        let target = Target::new(&reference(), places);
        assert_eq!(target.chunks, [(2, 0, 3), (7, 3, 1), (9, 10, 2)]);
        for ordinal in 0..20 {
            let expected = places.iter().find(|(from, _)| *from == ordinal).map(|(_, to)| *to);
            assert_eq!(target.place(ordinal), expected, "{ordinal}");
        }
        assert_eq!(target.reference(), Ok(reference()));
    }

    #[test]
    fn overlapping_or_endless_chunks_are_refused() {
        let mut relocation = Relocation {
            pack: PackId::from_bytes([1; 16]),
            table: vec![1, 2],
            targets: vec![Target::new(&reference(), [(2, 0), (3, 1)])],
        };
        relocation.validate().unwrap();
        let text = serde_json::to_string(&relocation).unwrap();
        assert!(text.contains("\"table\":\"0102\"") && !text.contains("proven"), "{text}");
        assert_eq!(serde_json::from_str::<Relocation>(&text).unwrap(), relocation);
        for chunks in [vec![(0, 0, 2), (1, 9, 1)], vec![(u32::MAX, 0, 1)], vec![(0, u32::MAX, 2)], vec![(0, 0, 0)]] {
            relocation.targets[0].chunks = chunks;
            assert!(relocation.validate().is_err());
        }
    }
}
