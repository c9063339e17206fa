//! Chunks: how the bytes of up to 32 blocks are compressed.

use std::sync::{Mutex, PoisonError};

use crate::{
    block::{BLOCK_SIZE, CHUNK_BLOCKS},
    run::wire::{Malformed, decompress},
};

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
    idle: Mutex<Vec<zstd::bulk::Compressor<'static>>>,
}

impl Compressor {
    /// What is used where nobody asked for a level: about as fast as an object store takes data, on one core.
    const DEFAULT_LEVEL: u8 = 3;

    /// The highest level that needs no unusual memory to open again.
    const MAX_LEVEL: u8 = 19;

    /// A chunk is stored as it is unless compression saves at least one part in this many: opening it again takes
    /// time at every restore.
    const LEAST_SAVING: usize = 32;

    /// Makes one for a level from 1 to 19; 0 stores everything as it is.
    pub(crate) fn new(level: Option<u8>) -> Self {
        let level = level.unwrap_or(Self::DEFAULT_LEVEL).min(Self::MAX_LEVEL);
        Self { level: level.into(), idle: Mutex::default() }
    }

    /// Compresses a chunk where that helps.
    pub(crate) fn encode(&self, plain: Vec<u8>) -> Encoded {
        if self.level == 0 {
            return Encoded { codec: Codec::Raw, bytes: plain };
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(mut context) = idle.or_else(|| zstd::bulk::Compressor::new(self.level).ok()) else {
            // Out of memory for a context: the chunk is as good uncompressed.
            return Encoded { codec: Codec::Raw, bytes: plain };
        };
        let compressed = context.compress(&plain);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(context);
        match compressed {
            Ok(bytes) if bytes.len() < plain.len() - plain.len() / Self::LEAST_SAVING => {
                Encoded { codec: Codec::Zstd, bytes }
            }
            _ => Encoded { codec: Codec::Raw, bytes: plain },
        }
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
