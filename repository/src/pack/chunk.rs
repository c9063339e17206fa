//! Chunks: how the bytes of up to 32 blocks are compressed.

use std::sync::{Mutex, PoisonError};

use zstd::zstd_safe::CParameter;

use crate::{
    block::{BLOCK_SIZE, CHUNK_BLOCKS},
    crypto::TAG_LEN,
    run::wire::{Malformed, decompress, decompress_into},
};

/// A chunk is stored as it is unless compression saves at least one part in this many: opening it again takes time at
/// every restore.
const LEAST_SAVING: usize = 32;

/// The lowest level that compresses.
const LOWEST_LEVEL: i32 = 1;

/// The binary logarithm of the entries in the table of matches at the lowest level, one less than zstd takes for a chunk: the
/// table, of 16 KiB, then leaves room for the chunk in the innermost cache of a core.
const HASH_LOG: u32 = 12;

/// Bytes of the largest chunk.
const CHUNK_LEN: usize = 128 << 10;
const _: () = assert!(CHUNK_LEN as u64 == CHUNK_BLOCKS * BLOCK_SIZE);

/// How many bytes of a chunk are looked at to tell whether it looks like noise.
const PROBE_LEN: usize = 2048;

/// In so many places.
const PROBE_PIECES: usize = 16;

/// How much of a chunk that looks like noise is compressed to make sure.
const SAMPLE_LEN: usize = 8 << 10;

/// How a chunk is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Not at all.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl From<Codec> for u8 {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Raw => 0,
            Codec::Zstd => 1,
        }
    }
}

impl TryFrom<u8> for Codec {
    type Error = Malformed;

    fn try_from(byte: u8) -> Result<Self, Malformed> {
        match byte {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            _ => Err(Malformed("a chunk has a codec that this program does not know")),
        }
    }
}

/// A chunk as it is before it is sealed.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// How `bytes` are compressed.
    pub(crate) codec: Codec,
    /// What is to be sealed.
    pub(crate) bytes: Vec<u8>,
}

/// Compresses chunks, from several threads at once. Contexts are kept for the next chunk: setting one up costs
/// about as much as compressing a small chunk.
pub(crate) struct Compressor {
    level: i32,
    idle: Mutex<Vec<Context>>,
}

impl Compressor {
    /// What is used where nobody asked for a level; `docs/decisions/0018-zstd-level-1.md` says why.
    const DEFAULT_LEVEL: u8 = 1;

    /// The highest level that needs no unusual memory to open again.
    const MAX_LEVEL: u8 = 19;

    /// Makes one for a level from 1 to 19; 0 stores everything as it is.
    pub(crate) fn new(level: Option<u8>) -> Self {
        let level = level.unwrap_or(Self::DEFAULT_LEVEL).min(Self::MAX_LEVEL);
        Self { level: level.into(), idle: Mutex::default() }
    }

    /// Compresses a chunk where that helps.
    pub(crate) fn encode(&self, plain: Vec<u8>) -> Encoded {
        match self.compress(&plain) {
            Some(bytes) => Encoded { codec: Codec::Zstd, bytes },
            None => Encoded { codec: Codec::Raw, bytes: plain },
        }
    }

    /// Compresses a chunk that is a part of something larger, where that helps; the original is let go of soon.
    pub(crate) fn encode_slice(&self, plain: &[u8]) -> Encoded {
        match self.compress(plain) {
            Some(bytes) => Encoded { codec: Codec::Zstd, bytes },
            None => Encoded { codec: Codec::Raw, bytes: with_room(plain) },
        }
    }

    /// Compresses a chunk, if that is worth it.
    fn compress(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if self.level == 0 {
            return None;
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // Without memory for a context the chunk is as good uncompressed.
        let mut context = idle.or_else(|| Context::new(self.level))?;
        let bytes = context.compress(plain).and_then(|length| context.buffer.get(..length)).map(with_room);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(context);
        bytes
    }
}

/// Copies bytes to where the tag will fit in behind them.
fn with_room(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::with_capacity(bytes.len() + TAG_LEN);
    copy.extend_from_slice(bytes);
    copy
}

/// What one thread compresses with.
struct Context {
    zstd: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Context {
    fn new(level: i32) -> Option<Self> {
        let buffer = vec![0; zstd::zstd_safe::compress_bound(CHUNK_LEN)];
        let mut zstd = zstd::bulk::Compressor::new(level).ok()?;
        if level == LOWEST_LEVEL {
            zstd.set_parameter(CParameter::HashLog(HASH_LOG)).ok()?;
        }
        Some(Self { zstd, buffer })
    }

    /// Compresses a chunk into the buffer; returns how long it is there, if that is worth it.
    fn compress(&mut self, plain: &[u8]) -> Option<usize> {
        if looks_random(plain) && self.saves(&plain[..SAMPLE_LEN.min(plain.len())]).is_none() {
            return None;
        }
        self.saves(plain)
    }

    /// Compresses into the buffer; returns how long it is there, if enough is saved.
    fn saves(&mut self, plain: &[u8]) -> Option<usize> {
        let length = self.zstd.compress_to_buffer(plain, &mut self.buffer[..]).ok()?;
        (length < plain.len() - plain.len() / LEAST_SAVING).then_some(length)
    }
}

/// Tells whether a chunk looks like noise, by how evenly the values of some of its bytes are spread: half a microsecond's
/// work, where finding out by compressing takes fifty.
fn looks_random(plain: &[u8]) -> bool {
    if plain.len() < 4 * PROBE_LEN {
        return false;
    }
    let mut counts = [0_u16; 256];
    let step = plain.len() / PROBE_PIECES;
    for piece in plain.chunks_exact(step).take(PROBE_PIECES) {
        piece[..PROBE_LEN / PROBE_PIECES].iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    }
    // Of n bytes that are evenly spread, the squares add up to n + n²/256, give or take; of anything that compresses by
    // its bytes' frequencies alone, to far more.
    let squares: u64 = counts.iter().map(|count| u64::from(*count) * u64::from(*count)).sum();
    let even = (PROBE_LEN + PROBE_LEN * PROBE_LEN / 256) as u64;
    squares < even + even / 8
}

/// Puts the plain bytes of a chunk into a buffer of their length.
pub(super) fn decode_into(
    codec: Codec,
    bytes: &[u8],
    context: &mut zstd::zstd_safe::DCtx<'_>,
    plain: &mut [u8],
) -> Result<(), Malformed> {
    match codec {
        Codec::Zstd => decompress_into(bytes, context, plain),
        Codec::Raw if bytes.len() == plain.len() => {
            plain.copy_from_slice(bytes);
            Ok(())
        }
        Codec::Raw => Err(Malformed("a chunk is not as long as the table says")),
    }
}

/// Returns the plain bytes of a chunk that holds `blocks` blocks.
pub(super) fn decode(codec: Codec, bytes: Vec<u8>, blocks: u8) -> Result<Vec<u8>, Malformed> {
    debug_assert!(u64::from(blocks) <= CHUNK_BLOCKS);
    let length = usize::try_from(u64::from(blocks) * BLOCK_SIZE).map_err(|_| Malformed("a chunk is too large"))?;
    let plain = match codec {
        Codec::Raw => bytes,
        Codec::Zstd => decompress(&bytes, length)?,
    };
    if plain.len() == length { Ok(plain) } else { Err(Malformed("a chunk is not as long as the table says")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    proptest! {
        #![proptest_config(fuzz::config())]

        #[test]
        fn fuzzed(
            blocks in 1..=32_u8,
            fill in prop::collection::vec(any::<u8>(), 1..5000),
            raw: bool,
            damages in fuzz::damages(),
            noise in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let length = usize::from(blocks) * 4096;
            let plain: Vec<u8> = fill.iter().copied().cycle().take(length).collect();
            let Encoded { codec, bytes } = Compressor::new(raw.then_some(0)).encode(plain.clone());
            for damaged in [fuzz::damaged(&bytes, &damages), noise] {
                let unhurt = damaged == bytes;
                // The longest chunk, whatever the input: what the table says bounds it.
                let decoded = fuzz::bounded(length + 1024, || decode(codec, damaged, blocks));
                match decoded {
                    Ok(decoded) if unhurt => prop_assert_eq!(&decoded, &plain),
                    Ok(decoded) => prop_assert_eq!(decoded.len(), length),
                    Err(_) => prop_assert!(!unhurt),
                }
            }
        }

        #[test]
        fn codecs_are_few(byte: u8) {
            if let Ok(codec) = Codec::try_from(byte) {
                prop_assert_eq!(u8::from(codec), byte);
            }
        }
    }

    #[test]
    fn compressible_chunks_shrink_and_others_stay_as_they_are() {
        let compressor = Compressor::new(None);
        let text = vec![b'v'; 8192];
        let encoded = compressor.encode(text.clone());
        assert_eq!(encoded.codec, Codec::Zstd);
        assert!(encoded.bytes.len() < 64, "{}", encoded.bytes.len());
        assert_eq!(decode(encoded.codec, encoded.bytes, 2), Ok(text));

        let mut noise = vec![0; 8192];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let encoded = compressor.encode(noise.clone());
        assert_eq!((encoded.codec, &encoded.bytes), (Codec::Raw, &noise));
    }

    #[test]
    fn what_looks_like_noise_is_compressed_where_it_repeats_at_once() {
        let mut noise = vec![0; CHUNK_LEN];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(looks_random(&noise) && !looks_random(&noise[..4096]), "a small chunk is compressed to find out");
        let repeated: Vec<u8> = noise[..5000].iter().copied().cycle().take(CHUNK_LEN).collect();
        assert!(looks_random(&repeated));
        let encoded = Compressor::new(None).encode(repeated.clone());
        assert_eq!(encoded.codec, Codec::Zstd);
        assert_eq!(decode(encoded.codec, encoded.bytes, 32), Ok(repeated));
        let text: Vec<u8> = noise.iter().map(|byte| b"0123456789abcdef"[usize::from(byte % 16)]).collect();
        assert!(!looks_random(&text));
        let Encoded { codec, bytes } = Compressor::new(None).encode_slice(&noise);
        assert_eq!((codec, &bytes), (Codec::Raw, &noise));
    }

    #[test]
    fn level_zero_stores_as_it_is() {
        assert_eq!(Compressor::new(Some(0)).encode(vec![0; 4096]).codec, Codec::Raw);
    }

    #[test]
    fn a_chunk_of_another_length_is_refused() {
        let encoded = Compressor::new(None).encode(vec![7; 8192]);
        assert!(decode(encoded.codec, encoded.bytes.clone(), 1).is_err());
        assert!(decode(encoded.codec, encoded.bytes, 3).is_err());
        assert!(decode(Codec::Raw, vec![0; 4095], 1).is_err());
    }
}
