//! What the machine could do at best: the work that cannot be saved, on all cores, and nothing else.
//!
//! ```text
//! [Sealed]  AES-256-GCM, zstd, BLAKE3   from memory into nothing
//! [Plain]   BLAKE3, zstd, AES-256-GCM   from memory into nothing
//! [Packed]  as Sealed, but read from one file and written to another
//! ```

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use varve_node::extent::ImageTarget;
use varve_repository::block::{BlockTarget, Blocks};

use crate::image::{Mixed, WINDOW_BLOCKS, WINDOW_BYTES, fill_mixed};

/// Bytes of the tag behind what is sealed.
const TAG_BYTES: usize = 16;

/// Most chunks held: 1 GiB before compression, which no cache holds.
const MOST_CHUNKS: u64 = 8192;

/// Compression level that repositories use unless told otherwise.
const ZSTD_LEVEL: i32 = 1;

/// Threads for each core that [`Packed`] restores with, since each of them waits for its reads and writes.
const WAITING_THREADS: usize = 4;

/// Chunks that a thread of [`Packed`] reads, and writes, at once: a mebibyte of plain content.
const BATCH: usize = 8;

/// What direct I/O asks of addresses, in bytes.
const ALIGNMENT: usize = 4096;

/// Keys as a repository has them.
struct Keys {
    seal: LessSafeKey,
    hash: [u8; 32],
}

impl Keys {
    fn new() -> anyhow::Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).ok().context("a key of 32 bytes is a key")?;
        Ok(Self { seal: LessSafeKey::new(key), hash: [9; 32] })
    }

    /// Makes a window of an image, compressed and sealed.
    fn sealed(&self, image: Mixed, window: u64) -> anyhow::Result<Vec<u8>> {
        let mut plain = vec![0; WINDOW_BYTES];
        fill_mixed(image.seed, window, &mut plain);
        let mut sealed = zstd::bulk::compress(&plain, ZSTD_LEVEL).context("compressing a chunk")?;
        self.seal.seal_in_place_append_tag(nonce(window), Aad::empty(), &mut sealed).ok().context("sealing a chunk")?;
        Ok(sealed)
    }

    /// Decrypts and decompresses a chunk into `plain`; returns what it hashes to.
    fn open(
        &self,
        number: u64,
        sealed: &[u8],
        decompressor: &mut zstd::bulk::Decompressor<'_>,
        compressed: &mut [u8],
        plain: &mut [u8],
    ) -> anyhow::Result<blake3::Hash> {
        let (sealed, tag) = sealed.split_at(sealed.len() - TAG_BYTES);
        let compressed = &mut compressed[..sealed.len()];
        let opened = self.seal.open_separate_gather(nonce(number), Aad::empty(), sealed, tag, compressed);
        opened.ok().context("a chunk that was sealed opens")?;
        let length = decompressor.decompress_to_buffer(compressed, &mut plain[..]).context("decompressing")?;
        Ok(blake3::keyed_hash(&self.hash, &plain[..length]))
    }
}

/// Chunks in memory as a repository would hold them: compressed, then sealed.
pub(crate) struct Sealed {
    keys: Keys,
    chunks: Vec<Vec<u8>>,
}

impl Sealed {
    /// Compresses and seals an image's chunks, or as many of the first as memory is given.
    pub(crate) fn of(image: Mixed) -> anyhow::Result<Self> {
        let keys = Keys::new()?;
        let seal = |window| keys.sealed(image, window);
        let chunks = (0..image.windows.min(MOST_CHUNKS)).map(seal).collect::<anyhow::Result<_>>()?;
        Ok(Self { keys, chunks })
    }

    /// Decrypts, decompresses and hashes chunks until `bytes` of plain content are through; returns how long that took.
    pub(crate) fn open(&self, bytes: u64) -> anyhow::Result<Duration> {
        on_all_cores(bytes, 1, 1, |next| {
            let mut decompressor = zstd::bulk::Decompressor::new().context("making a decompressor")?;
            let (mut compressed, mut plain) = (vec![0; 2 * WINDOW_BYTES], vec![0; WINDOW_BYTES]);
            while let Some(number) = next() {
                let position = number % self.chunks.len();
                let sealed = &self.chunks[position];
                let hash = self.keys.open(position as u64, sealed, &mut decompressor, &mut compressed, &mut plain)?;
                std::hint::black_box(hash);
            }
            Ok(())
        })
    }
}

/// Chunks in memory as an image holds them.
pub(crate) struct Plain {
    keys: Keys,
    chunks: Vec<Vec<u8>>,
}

impl Plain {
    /// Makes an image's chunks, or as many of the first as memory is given.
    pub(crate) fn of(image: Mixed) -> anyhow::Result<Self> {
        let fill = |window| {
            let mut plain = vec![0; WINDOW_BYTES];
            fill_mixed(image.seed, window, &mut plain);
            plain
        };
        Ok(Self { keys: Keys::new()?, chunks: (0..image.windows.min(MOST_CHUNKS)).map(fill).collect() })
    }

    /// Hashes, compresses and seals chunks until `bytes` of plain content are through; returns how long that took.
    pub(crate) fn seal(&self, bytes: u64) -> anyhow::Result<Duration> {
        on_all_cores(bytes, 1, 1, |next| {
            let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).context("making a compressor")?;
            let mut compressed = vec![0; 2 * WINDOW_BYTES];
            while let Some(number) = next() {
                let plain = &self.chunks[number % self.chunks.len()];
                std::hint::black_box(blake3::keyed_hash(&self.keys.hash, plain));
                let length =
                    compressor.compress_to_buffer(plain, &mut compressed[..]).context("compressing a chunk")?;
                let sealed = &mut compressed[..length];
                let tag = self.keys.seal.seal_in_place_separate_tag(nonce(number as u64), Aad::empty(), sealed);
                let tag = tag.ok().context("sealing a chunk")?;
                std::hint::black_box(tag.as_ref());
            }
            Ok(())
        })
    }
}

/// Chunks in a file, back to back, as a repository would hold them.
pub(crate) struct Packed {
    keys: Keys,
    file: File,
    path: PathBuf,
    /// Where each ends.
    ends: Vec<u64>,
    hashes: Vec<blake3::Hash>,
}

impl Packed {
    /// Compresses and seals all chunks of an image into a file.
    pub(crate) fn of(image: Mixed, path: &Path) -> anyhow::Result<Self> {
        let (keys, mut plain) = (Keys::new()?, vec![0; WINDOW_BYTES]);
        let file = File::options().create_new(true).read(true).write(true).open(path).context("making a file")?;
        let mut writer = std::io::BufWriter::with_capacity(1 << 20, &file);
        let (mut ends, mut hashes, mut end) = (Vec::new(), Vec::new(), 0);
        for window in 0..image.windows {
            let sealed = keys.sealed(image, window)?;
            writer.write_all(&sealed).context("writing sealed chunks")?;
            end += sealed.len() as u64;
            ends.push(end);
            fill_mixed(image.seed, window, &mut plain);
            hashes.push(blake3::keyed_hash(&keys.hash, &plain));
        }
        writer.flush().context("writing sealed chunks")?;
        drop(writer);
        file.sync_all().context("syncing sealed chunks")?;
        Ok(Self { keys, file, path: path.into(), ends, hashes })
    }

    /// Reads, decrypts, decompresses, verifies and writes all chunks into an image, which is synced; returns how long that
    /// took.
    pub(crate) fn restore(&self, image: &Path) -> anyhow::Result<Duration> {
        self.fill(image, true)
    }

    /// Reads all chunks, and writes as many bytes as they hold into an image, which is synced: what that takes of the disk.
    pub(crate) fn only_move(&self, image: &Path) -> anyhow::Result<Duration> {
        self.fill(image, false)
    }

    fn fill(&self, image: &Path, opens: bool) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let target = ImageTarget::open(image).context("opening the image to fill")?;
        on_all_cores(self.ends.len() as u64 * WINDOW_BYTES as u64, BATCH, WAITING_THREADS, |next| {
            let mut decompressor = zstd::bulk::Decompressor::new().context("making a decompressor")?;
            let mut compressed = vec![0; 2 * WINDOW_BYTES];
            let mut read = Vec::new();
            let mut plain = vec![0; BATCH * WINDOW_BYTES + ALIGNMENT];
            let aligned = plain.as_ptr().align_offset(ALIGNMENT);
            let plain = &mut plain[aligned..aligned + BATCH * WINDOW_BYTES];
            while let Some(first) = next() {
                let last = (first + BATCH).min(self.ends.len());
                let start = first.checked_sub(1).map_or(0, |before| self.ends[before]);
                read.resize(usize::try_from(self.ends[last - 1] - start)?, 0);
                self.file
                    .read_exact_at(&mut read, start)
                    .with_context(|| format!("reading {}", self.path.display()))?;
                let mut rest = &read[..];
                let mut from = start;
                for (number, plain) in (first..last).zip(plain.chunks_mut(WINDOW_BYTES)) {
                    let (sealed, behind) = rest.split_at(usize::try_from(self.ends[number] - from)?);
                    (rest, from) = (behind, self.ends[number]);
                    if !opens {
                        // As much as there is: nothing that a disk would make less of.
                        let length = sealed.len().min(plain.len());
                        plain[..length].copy_from_slice(&sealed[..length]);
                        continue;
                    }
                    let hash = self.keys.open(number as u64, sealed, &mut decompressor, &mut compressed, plain)?;
                    ensure!(hash == self.hashes[number], "a chunk is what it was");
                }
                let bytes = &plain[..(last - first) * WINDOW_BYTES];
                target.write(Blocks(first as u64 * WINDOW_BLOCKS), bytes).context("writing the image")?;
            }
            Ok(())
        })?;
        target.sync().context("syncing the image")?;
        Ok(started.elapsed())
    }
}

/// Runs `work` on so many threads for each core, each taking the numbers of chunks until `bytes` are through, `step` chunks at a
/// time; returns how long that took.
fn on_all_cores(
    bytes: u64,
    step: usize,
    threads: usize,
    work: impl Fn(&dyn Fn() -> Option<usize>) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Duration> {
    let wanted = usize::try_from(bytes / WINDOW_BYTES as u64).context("the image fits memory")?;
    let threads = threads * std::thread::available_parallelism().context("counting cores")?.get();
    let next = AtomicUsize::new(0);
    let take = || Some(next.fetch_add(step, Ordering::Relaxed)).filter(|number| *number < wanted);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&take))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("it does not panic"))
    })?;
    Ok(started.elapsed())
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
