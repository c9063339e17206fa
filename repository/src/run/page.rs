//! A page of extents: rows of varints, compressed.
//!
//! ```text
//! one zstd frame of rows, for each extent:
//!     varint          blocks between the end of the extent before and this one
//!     varint          2 × blocks, plus 1 where it is data
//!   where it is data:
//!     signed varint   the pack's position in the index, minus that of the data extent before
//!     signed varint   the chunk's ordinal, minus that of the data extent before
//!     u8              blocks of the chunk that come before
//! ```
//!
//! Everything counts from zero at the start of a page. Rows of a sequential image are all alike, so that 4096 of them
//! compress to some tens of bytes.

use super::{
    ChunkPlace, Extent, MAX_BLOCKS, Place,
    wire::{Cursor, Malformed, decompress, put_signed_varint, put_varint},
    within_chunk,
};
use crate::block::{BlockRange, Blocks};

/// Longest row, in bytes.
const MAX_ROW_LEN: usize = 10 + 10 + 5 + 5 + 1;

/// How pages are compressed: they are small, and read more often than written.
const LEVEL: i32 = 6;

/// Returns the encoded form of extents that ascend without overlap.
pub(crate) fn encode(extents: &[Extent<u32>]) -> Vec<u8> {
    let mut rows = Vec::with_capacity(extents.len() * 8);
    let (mut end, mut pack, mut ordinal) = (Blocks::ZERO, 0_u32, 0_u32);
    for extent in extents {
        put_varint(&mut rows, (extent.range.first - end).0);
        end = extent.range.end();
        match extent.place {
            Place::Zero => put_varint(&mut rows, extent.range.count.0 << 1),
            Place::Chunk(chunk) => {
                put_varint(&mut rows, extent.range.count.0 << 1 | 1);
                put_signed_varint(&mut rows, i64::from(chunk.pack) - i64::from(pack));
                put_signed_varint(&mut rows, i64::from(chunk.ordinal) - i64::from(ordinal));
                rows.push(chunk.skip);
                (pack, ordinal) = (chunk.pack, chunk.ordinal);
            }
        }
    }
    zstd::bulk::compress(&rows, LEVEL).expect("compressing into a buffer of the needed size cannot fail")
}

/// Reads the encoded form of `count` extents that speak of packs below `packs`.
pub(crate) fn decode(bytes: &[u8], count: usize, packs: usize) -> Result<Vec<Extent<u32>>, Malformed> {
    let rows = decompress(bytes, count.saturating_mul(MAX_ROW_LEN))?;
    let mut cursor = Cursor::new(&rows);
    // The shortest row has two bytes: no more is allocated than the rows can describe.
    let mut extents = Vec::with_capacity(count.min(rows.len() / 2));
    let (mut end, mut pack, mut ordinal) = (0_u64, 0_u32, 0_u32);
    for _ in 0..count {
        let gap = cursor.varint()?;
        let length = cursor.varint()?;
        let blocks = length >> 1;
        let first = end.checked_add(gap).ok_or(Malformed("an extent lies past the end of any image"))?;
        end = first.checked_add(blocks).ok_or(Malformed("an extent lies past the end of any image"))?;
        if blocks == 0 || end > MAX_BLOCKS {
            return Err(Malformed("an extent is empty, or lies past the end of any image"));
        }
        let place = if length & 1 == 0 {
            Place::Zero
        } else {
            pack = step(pack, cursor.signed_varint()?)?;
            ordinal = step(ordinal, cursor.signed_varint()?)?;
            let skip = cursor.u8()?;
            if !usize::try_from(pack).is_ok_and(|pack| pack < packs) || !within_chunk(skip, blocks) {
                return Err(Malformed("an extent lies in no chunk"));
            }
            Place::Chunk(ChunkPlace { pack, ordinal, skip })
        };
        extents.push(Extent { range: BlockRange::new(first, blocks), place });
    }
    cursor.finish()?;
    Ok(extents)
}

fn step(value: u32, by: i64) -> Result<u32, Malformed> {
    let stepped = i64::from(value).checked_add(by).and_then(|stepped| u32::try_from(stepped).ok());
    stepped.ok_or(Malformed("a position does not fit 32 bits"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    const PACKS: u32 = 1000;

    fn extents() -> impl Strategy<Value = Vec<Extent<u32>>> {
        let chunk = (0..PACKS, any::<u32>(), 0..32_u8, 1..=32_u64);
        let extent = (0..1_000_000_u64, prop_oneof![chunk.prop_map(Ok), (1..1_u64 << 30).prop_map(Err)]);
        prop::collection::vec(extent, 0..200).prop_map(|rows| {
            let mut end = 0;
            let extents = rows.into_iter().map(|(gap, what)| {
                let (count, place) = match what {
                    Ok((pack, ordinal, skip, count)) => {
                        let count = count.min(32 - u64::from(skip));
                        (count, Place::Chunk(ChunkPlace { pack, ordinal, skip }))
                    }
                    Err(count) => (count, Place::Zero),
                };
                let range = BlockRange::new(end + gap, count);
                end = range.end().0;
                Extent { range, place }
            });
            extents.collect()
        })
    }

    proptest! {
        #[test]
        fn pages_round_trip(extents in extents()) {
            let bytes = encode(&extents);
            prop_assert_eq!(decode(&bytes, extents.len(), PACKS as usize), Ok(extents.clone()));
            prop_assert!(decode(&bytes, extents.len() + 1, PACKS as usize).is_err());
        }

        #[test]
        fn no_rows_make_the_decoder_panic(rows in prop::collection::vec(any::<u8>(), 0..200), count in 0..300_usize) {
            let _ = decode(&rows, count, 2);
            let _ = decode(&zstd::bulk::compress(&rows, 1).unwrap(), count, 2);
        }
    }

    /// What decoding a full page takes: its rows, and the extents.
    const LIMIT: usize = 4096 * (MAX_ROW_LEN + size_of::<Extent<u32>>()) + 1024;

    /// The rows of an encoded page.
    fn rows(page: &[u8]) -> Vec<u8> {
        decompress(page, usize::MAX).unwrap()
    }

    proptest! {
        #![proptest_config(fuzz::config())]

        /// Pages, and what they decompress to, damaged; and rows that never were any.
        #[test]
        fn fuzzed(
            extents in extents(),
            damages in fuzz::damages(),
            noise in prop::collection::vec(any::<u8>(), 0..200),
            more in 0..3_usize,
        ) {
            let page = encode(&extents);
            let compressed = |rows: &[u8]| zstd::bulk::compress(rows, 1).unwrap();
            for bytes in [
                fuzz::damaged(&page, &damages),
                compressed(&fuzz::damaged(&rows(&page), &damages)),
                compressed(&noise),
                noise,
            ] {
                let count = extents.len() + more;
                let decoded = fuzz::bounded(LIMIT, || decode(&bytes, count, PACKS as usize));
                let Ok(decoded) = decoded else { continue };
                prop_assert_eq!(rows(&encode(&decoded)), rows(&bytes));
                prop_assert!(decoded.is_sorted_by(|one, next| one.range.end() <= next.range.first));
            }
        }
    }

    #[test]
    fn a_sequential_image_costs_next_to_nothing() {
        let extents: Vec<_> = (0..4096_u32)
            .map(|n| Extent {
                range: BlockRange::new(u64::from(n) * 32, 32),
                place: Place::Chunk(ChunkPlace { pack: n / 256, ordinal: n % 256, skip: 0 }),
            })
            .collect();
        let bytes = encode(&extents).len();
        assert!(bytes < 300, "{bytes}");
    }
}
