//! Fuzzing: what every decoder is put through, on stable and in seconds.
//!
//! Each decoder's own tests hold its fuzzing; here is what they share. A decoder is given arbitrary bytes, and valid
//! encodings that were [damaged](Damage), for records also in [their structure](json::Edit). Where hashes and tags would stop
//! the damage early they are made anew, as one could who holds the key. What comes out must be
//!
//! 1. no panic;
//! 2. no allocation beyond the input's order of size ([`bounded`]);
//! 3. an error, or something that encodes to what was read.
//!
//! `VARVE_FUZZ_CASES` asks for more cases than the default.

pub(crate) mod json;
mod whole;

use proptest::{prelude::*, sample::Index};

/// Cases of each test where nobody asks for another number.
const CASES: u32 = 512;

/// How many cases a fuzz test runs.
pub(crate) fn config() -> ProptestConfig {
    let cases = std::env::var("VARVE_FUZZ_CASES").map_or(CASES, |cases| cases.parse().expect("a number of cases"));
    // Cases that take damage to be something else are never rejected, so nothing else needs a limit.
    ProptestConfig { cases, ..ProptestConfig::default() }
}

/// Runs a decoder and fails where it holds more than `limit` bytes at any time. Only this thread's allocations through Rust
/// count; zstd's contexts are of a fixed size.
#[track_caller]
pub(crate) fn bounded<T>(limit: usize, decode: impl FnOnce() -> T) -> T {
    let mut decoded = None;
    let peak = allocation_counter::measure(|| decoded = Some(decode())).bytes_max;
    assert!(peak <= limit as u64, "{peak} bytes were allocated at once, and {limit} are what the input warrants");
    decoded.expect("it has run")
}

/// One way in which bytes go wrong.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    /// A bit is flipped.
    Flip(Index, u8),
    /// A little-endian number of so many bytes is written over what is there.
    Number(Index, usize, u64),
    /// Everything from there on is missing.
    Truncate(Index),
    /// Some bytes are missing.
    Remove(Index, usize),
    /// Some bytes are put in.
    Insert(Index, Vec<u8>),
    /// Some bytes are written once more, over others.
    Splice(Index, Index, usize),
    /// Some bytes stand there twice.
    Repeat(Index, usize),
}

impl Damage {
    /// Damages the bytes.
    pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let at = |index: &Index| if length == 0 { 0 } else { index.index(length) };
        match self {
            Self::Flip(index, bit) => {
                if let Some(byte) = bytes.get_mut(at(index)) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Number(index, width, value) => {
                for (byte, new) in bytes.iter_mut().skip(at(index)).zip(&value.to_le_bytes()[..*width]) {
                    *byte = *new;
                }
            }
            Self::Truncate(index) => bytes.truncate(at(index)),
            Self::Remove(index, count) => drop(bytes.drain(at(index)..length.min(at(index) + count))),
            Self::Insert(index, new) => drop(bytes.splice(at(index)..at(index), new.iter().copied())),
            Self::Splice(from, to, count) => {
                let count = (*count).min(length - at(from).max(at(to)));
                bytes.copy_within(at(from)..at(from) + count, at(to));
            }
            Self::Repeat(index, count) => {
                let part = bytes[at(index)..length.min(at(index) + count)].to_vec();
                drop(bytes.splice(at(index)..at(index), part));
            }
        }
    }
}

/// Numbers at which lengths and positions go wrong.
pub(crate) const EXTREMES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 52,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// Damages bytes in up to three ways, or leaves them alone.
pub(crate) fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<Index>;
    let damage = prop_oneof![
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        4 => (at(), prop::sample::select(vec![1, 2, 4, 8]), prop::sample::select(EXTREMES.to_vec()))
            .prop_map(|(at, width, value)| Damage::Number(at, width, value)),
        1 => (at(), any::<u64>()).prop_map(|(at, value)| Damage::Number(at, 8, value)),
        1 => at().prop_map(Damage::Truncate),
        1 => (at(), 1..80_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..80)).prop_map(|(at, new)| Damage::Insert(at, new)),
        2 => (at(), at(), 1..80_usize).prop_map(|(from, to, count)| Damage::Splice(from, to, count)),
        1 => (at(), 1..80_usize).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ];
    prop::collection::vec(damage, 0..=3)
}

/// Returns damaged bytes.
pub(crate) fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    damages.iter().for_each(|damage| damage.apply(&mut bytes));
    bytes
}
