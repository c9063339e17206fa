//! What the machine could do at best: the work that cannot be saved, on all cores, from memory, and nothing else.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::image::{Mixed, WINDOW_BYTES, fill_mixed};

/// Bytes of the tag behind what is sealed.
const TAG_BYTES: usize = 16;

/// Most chunks held: 256 MiB before compression, which no cache holds.
const MOST_CHUNKS: u64 = 2048;

/// Compression level that repositories use unless told otherwise.
const ZSTD_LEVEL: i32 = 3;

/// Chunks in memory as a repository would hold them: compressed, then sealed.
pub(crate) struct Sealed {
    key: LessSafeKey,
    hash_key: [u8; 32],
    chunks: Vec<Vec<u8>>,
}

impl Sealed {
    /// Compresses and seals an image's chunks, or as many of the first as memory is given.
    pub(crate) fn of(image: Mixed) -> anyhow::Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).ok().context("a key of 32 bytes is a key")?;
        let key = LessSafeKey::new(key);
        let seal = |window| {
            let mut plain = vec![0; WINDOW_BYTES];
            fill_mixed(image.seed, window, &mut plain);
            let mut sealed = zstd::bulk::compress(&plain, ZSTD_LEVEL).context("compressing a chunk")?;
            key.seal_in_place_append_tag(nonce(window), Aad::empty(), &mut sealed).ok().context("sealing a chunk")?;
            anyhow::Ok(sealed)
        };
        let chunks = (0..image.windows.min(MOST_CHUNKS)).map(seal).collect::<anyhow::Result<_>>()?;
        Ok(Self { key, hash_key: [9; 32], chunks })
    }

    /// Decrypts, decompresses and hashes chunks until `bytes` of plain content are through; returns how long that took.
    pub(crate) fn open(&self, bytes: u64) -> anyhow::Result<Duration> {
        let wanted = usize::try_from(bytes / WINDOW_BYTES as u64).context("the image fits memory")?;
        let threads = std::thread::available_parallelism().context("counting cores")?.get();
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.work(&next, wanted))).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("it does not panic"))
        })?;
        Ok(started.elapsed())
    }

    fn work(&self, next: &AtomicUsize, wanted: usize) -> anyhow::Result<()> {
        let mut decompressor = zstd::bulk::Decompressor::new().context("making a decompressor")?;
        let (mut compressed, mut plain) = (vec![0; 2 * WINDOW_BYTES], vec![0; WINDOW_BYTES]);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= wanted {
                return Ok(());
            }
            let position = number % self.chunks.len();
            let (sealed, tag) = self.chunks[position].split_at(self.chunks[position].len() - TAG_BYTES);
            let compressed = &mut compressed[..sealed.len()];
            let opened = self.key.open_separate_gather(nonce(position as u64), Aad::empty(), sealed, tag, compressed);
            opened.ok().context("a chunk that was sealed opens")?;
            let length = decompressor.decompress_to_buffer(compressed, &mut plain[..]).context("decompressing")?;
            std::hint::black_box(blake3::keyed_hash(&self.hash_key, &plain[..length]));
        }
    }
}

fn nonce(position: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&position.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The middle one of what was measured; of an even number, the later of the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
