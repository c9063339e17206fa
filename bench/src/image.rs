//! Images made up from a seed: the same on every machine, and of the mix that volumes hold.

use std::{io, sync::Arc};

use varve_repository::block::{BLOCK_SIZE, BlockRange, BlockSource, Blocks, Change, ChangeSource};

/// Blocks that make one chunk where all of them change.
pub(crate) const WINDOW_BLOCKS: u64 = 32;

/// Bytes of such a chunk.
pub(crate) const WINDOW_BYTES: usize = 128 << 10;

/// How well a window compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Texture {
    /// Not at all: media, archives, what is encrypted already.
    Noise,
    /// To about a third: text, code, tables.
    Text,
    /// To a few per cent: logs, records that are mostly padding.
    Padded,
}

/// Fills a window, in a mix: a quarter does not compress, half does, a quarter does very well.
pub(crate) fn fill_mixed(seed: u64, window: u64, buffer: &mut [u8]) {
    let texture = match mixed(seed ^ 0x7465_7874, window) % 4 {
        0 => Texture::Noise,
        1 | 2 => Texture::Text,
        _ => Texture::Padded,
    };
    fill(texture, seed, window, buffer);
}

/// Fills a window with what compresses to next to nothing and is like no other window.
pub(crate) fn fill_padded(seed: u64, window: u64, buffer: &mut [u8]) {
    fill(Texture::Padded, seed, window, buffer);
}

/// Fills a window with what does not compress and is like no other window.
pub(crate) fn fill_noise(seed: u64, window: u64, buffer: &mut [u8]) {
    fill(Texture::Noise, seed, window, buffer);
}

fn fill(texture: Texture, seed: u64, window: u64, buffer: &mut [u8]) {
    let mut state = mixed(seed, window);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scrambled(state)
    };
    match texture {
        Texture::Noise => {
            for word in buffer.chunks_mut(8) {
                word.copy_from_slice(&next().to_le_bytes()[..word.len()]);
            }
        }
        Texture::Text => {
            const WORDS: [&[u8]; 16] = [
                b"upstream ",
                b"cluster ",
                b"listener ",
                b"200 ",
                b"GET /",
                b"route ",
                b"timeout ",
                b"retry ",
                b"0x",
                b"healthy ",
                b"endpoint ",
                b"\n",
                b"tls ",
                b"connection ",
                b"stream ",
                b"bytes ",
            ];
            let mut rest = buffer;
            while !rest.is_empty() {
                let random = next();
                let hexadecimal = format!("{:x} ", random >> 44);
                for word in [WORDS[random.to_le_bytes()[0] as usize % 16], hexadecimal.as_bytes()] {
                    let length = word.len().min(rest.len());
                    rest[..length].copy_from_slice(&word[..length]);
                    rest = &mut rest[length..];
                }
            }
        }
        Texture::Padded => {
            buffer.fill(b' ');
            for record in buffer.chunks_mut(512) {
                record[..8].copy_from_slice(&next().to_le_bytes());
            }
        }
    }
}

/// A number that looks random, of a seed and another number.
pub(crate) fn mixed(seed: u64, window: u64) -> u64 {
    scrambled(seed.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ window)
}

/// The finaliser of SplitMix64.
pub(crate) fn scrambled(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A full image of mixed windows, made up as it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixed {
    pub seed: u64,
    pub windows: u64,
}

impl Mixed {
    /// Bytes that it has.
    pub(crate) fn bytes(self) -> u64 {
        self.windows * WINDOW_BLOCKS * BLOCK_SIZE
    }
}

impl BlockSource for Mixed {
    fn capacity(&self) -> Blocks {
        Blocks(self.windows * WINDOW_BLOCKS)
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        let mut window = vec![0; WINDOW_BYTES];
        let (mut at, mut rest) = (first.bytes(), buffer);
        while !rest.is_empty() {
            let number = at / WINDOW_BYTES as u64;
            let skip = usize::try_from(at % WINDOW_BYTES as u64).map_err(io::Error::other)?;
            let length = rest.len().min(WINDOW_BYTES - skip);
            fill_mixed(self.seed, number, &mut window);
            rest[..length].copy_from_slice(&window[skip..skip + length]);
            at += length as u64;
            rest = &mut rest[length..];
        }
        Ok(())
    }
}

impl ChangeSource for Mixed {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        Ok(Box::new(whole(self.capacity(), from)))
    }
}

/// Says that all of an image is new.
pub(crate) fn whole(capacity: Blocks, from: Blocks) -> impl Iterator<Item = io::Result<Change>> + Send {
    let range = BlockRange::new(0, capacity.0);
    (range.end() > from).then_some(Ok(Change::Data(range))).into_iter()
}

/// A small image in memory whose windows change from cut to cut.
#[derive(Clone, Debug)]
pub(crate) struct Small {
    bytes: Vec<u8>,
    changed: Vec<u64>,
}

impl Small {
    /// Makes one of which everything is new.
    pub(crate) fn new(seed: u64, windows: u64) -> Self {
        let bytes = (0..windows).flat_map(|window| {
            let mut bytes = vec![0; WINDOW_BYTES];
            fill_padded(seed, window, &mut bytes);
            bytes
        });
        Self { bytes: bytes.collect(), changed: (0..windows).collect() }
    }

    /// Overwrites a window with what was never there.
    #[expect(clippy::cast_possible_truncation, reason = "it is below the image's number of windows")]
    pub(crate) fn overwrite(&mut self, seed: u64, random: u64) {
        let window = mixed(seed, random) % (self.bytes.len() / WINDOW_BYTES) as u64;
        let start = window as usize * WINDOW_BYTES;
        fill_padded(mixed(seed, random), window, &mut self.bytes[start..start + WINDOW_BYTES]);
        self.changed.push(window);
    }

    /// Takes what it is now, with what changed since it was cut last.
    pub(crate) fn cut(&mut self) -> Arc<Self> {
        self.changed.sort_unstable();
        self.changed.dedup();
        let cut = self.clone();
        self.changed.clear();
        Arc::new(cut)
    }
}

impl BlockSource for Small {
    fn capacity(&self) -> Blocks {
        Blocks(self.bytes.len() as u64 / BLOCK_SIZE)
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(first.bytes()).map_err(io::Error::other)?;
        let bytes = self.bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

impl ChangeSource for Small {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        let ranges = self.changed.iter().map(|window| BlockRange::new(window * WINDOW_BLOCKS, WINDOW_BLOCKS));
        Ok(Box::new(ranges.filter(move |range| range.end() > from).map(|range| Ok(Change::Data(range)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_compresses_as_volumes_do() {
        let image = Mixed { seed: 1, windows: 200 };
        let mut bytes = vec![0; usize::try_from(image.bytes()).unwrap()];
        image.read(Blocks(0), &mut bytes).unwrap();
        let compressed: usize =
            bytes.chunks(WINDOW_BYTES).map(|window| zstd::bulk::compress(window, 1).unwrap().len()).sum();
        let ratio = compressed as f64 / bytes.len() as f64;
        assert!((0.35..0.65).contains(&ratio), "{ratio}");
        let mut part = vec![0; 3 * 4096];
        image.read(Blocks(63), &mut part).unwrap();
        assert_eq!(part, bytes[63 * 4096..66 * 4096], "a part is what the whole holds there");
    }
}
