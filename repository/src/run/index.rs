//! The index of a run: its pages, and the packs that they speak of.
//!
//! ```text
//! 0    4   number of packs
//! 4    4   number of pages
//! 8   56   for each pack:  0 16 pack id
//!                         16  4 the object's size in bytes
//!                         20  4 where its table starts, in bytes
//!                         24 32 BLAKE3 of its sealed table
//!     56   for each page:  0  8 first block
//!                          8  8 the block past the last one
//!                         16  4 stored length in bytes, tag included
//!                         20  4 number of extents
//!                         24 32 BLAKE3 of the sealed page
//! ```
//!
//! Pages lie back to back from the end of the header. With packs of 32 MiB an index takes 2 MiB for each TiB of data
//! that the run refers to, and 14 bytes for a thousand extents.

use super::{
    MAX_BLOCKS, PAGE_EXTENTS,
    wire::{Cursor, Malformed},
};
use crate::{
    block::{BlockRange, Blocks},
    crypto::TAG_LEN,
    format::HEADER_LEN,
    pack::PackReference,
};

/// Length of one page's entry, in bytes.
const PAGE_ENTRY_LEN: usize = 8 + 8 + 4 + 4 + 32;

/// Length of the longest index as stored, in bytes; a run that would need more is ended before.
pub(super) const MAX_SEALED_LEN: u64 = 64 << 20;

/// Length of the longest page as stored, in bytes.
const MAX_PAGE_LEN: usize = 256 << 10;

/// One page of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageEntry {
    /// From the first block of its first extent to the end of its last one.
    pub(crate) range: BlockRange,
    /// Where it starts in the object, in bytes.
    pub(crate) offset: u64,
    /// How many bytes it takes there, tag included.
    pub(crate) stored: u32,
    /// Extents in it.
    pub(crate) extents: u32,
    /// BLAKE3 of the sealed page, as stored.
    pub(crate) hash: [u8; 32],
}

impl PageEntry {
    /// The position in the object just past it.
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.stored)
    }
}

/// The index of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// The packs, by the position that extents name them by.
    pub(crate) packs: Vec<PackReference>,
    /// The pages, in ascending order.
    pub(crate) pages: Vec<PageEntry>,
}

impl Index {
    /// Length of the encoded form of an index of so many packs and pages, in bytes.
    pub(super) const fn encoded_len(packs: usize, pages: usize) -> usize {
        4 + 4 + packs * PackReference::LEN + pages * PAGE_ENTRY_LEN
    }

    /// Returns the encoded form, not sealed yet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::encoded_len(self.packs.len(), self.pages.len()) + TAG_LEN);
        for count in [self.packs.len(), self.pages.len()] {
            let count = u32::try_from(count).expect("a run is ended before its index is too long");
            out.extend_from_slice(&count.to_le_bytes());
        }
        for pack in &self.packs {
            pack.encode(&mut out);
        }
        for page in &self.pages {
            out.extend_from_slice(&page.range.first.0.to_le_bytes());
            out.extend_from_slice(&page.range.end().0.to_le_bytes());
            out.extend_from_slice(&page.stored.to_le_bytes());
            out.extend_from_slice(&page.extents.to_le_bytes());
            out.extend_from_slice(&page.hash);
        }
        out
    }

    /// Reads the encoded form; `index_offset` is where the pages must end.
    pub(super) fn decode(bytes: &[u8], index_offset: u64) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let too_many = |_| Malformed("it counts too many packs or pages");
        let packs = usize::try_from(cursor.u32()?).map_err(too_many)?;
        let pages = usize::try_from(cursor.u32()?).map_err(too_many)?;
        if bytes.len() != Self::encoded_len(packs, pages) {
            return Err(Malformed("its length does not fit the number of packs and pages"));
        }
        let packs = (0..packs).map(|_| PackReference::decode(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        PackReference::distinct(&packs)?;
        let mut index = Self { packs, pages: Vec::with_capacity(pages) };
        let mut offset = HEADER_LEN as u64;
        let mut end = 0;
        for _ in 0..pages {
            let page = Self::decode_page(&mut cursor, offset)?;
            if page.range.first.0 < end {
                return Err(Malformed("its pages overlap"));
            }
            (offset, end) = (page.end(), page.range.end().0);
            index.pages.push(page);
        }
        cursor.finish()?;
        if offset != index_offset {
            return Err(Malformed("its pages do not fill the run"));
        }
        Ok(index)
    }

    fn decode_page(cursor: &mut Cursor<'_>, offset: u64) -> Result<PageEntry, Malformed> {
        let (first, end) = (cursor.u64()?, cursor.u64()?);
        let (stored, extents) = (cursor.u32()?, cursor.u32()?);
        let count = end.checked_sub(first).filter(|count| *count > 0).ok_or(Malformed("a page covers nothing"))?;
        let fits = |value: u32, least: usize, most: usize| {
            usize::try_from(value).is_ok_and(|value| (least..=most).contains(&value))
        };
        if !fits(extents, 1, PAGE_EXTENTS) || !fits(stored, TAG_LEN + 1, MAX_PAGE_LEN) || end > MAX_BLOCKS {
            return Err(Malformed("a page is smaller or larger than any may be"));
        }
        Ok(PageEntry { range: BlockRange::new(first, count), offset, stored, extents, hash: cursor.array()? })
    }

    /// Returns the position of the first page that ends after `block`.
    pub(crate) fn page_after(&self, block: Blocks) -> usize {
        self.pages.partition_point(|page| page.range.end() <= block)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{fuzz, id::PackId};

    fn index() -> impl Strategy<Value = Index> {
        let pack = (any::<[u8; 16]>(), 0..1_u32 << 30, 1..1000_u32, any::<[u8; 32]>());
        let page = (0..1000_u64, 1..1000_u64, 17..100_000_u32, 1..=4096_u32, any::<[u8; 32]>());
        (prop::collection::vec(pack, 0..20), prop::collection::vec(page, 0..20)).prop_map(|(packs, pages)| {
            let packs = packs.into_iter().map(|(id, table_offset, table, table_hash)| PackReference {
                id: PackId::from_bytes(id),
                object_bytes: table_offset + table,
                table_offset,
                table_hash,
            });
            let (mut end, mut offset) = (0, HEADER_LEN as u64);
            let pages = pages.into_iter().map(|(gap, count, stored, extents, hash)| {
                let range = BlockRange::new(end + gap, count);
                let page = PageEntry { range, offset, stored, extents, hash };
                (end, offset) = (range.end().0, page.end());
                page
            });
            Index { packs: packs.collect(), pages: pages.collect() }
        })
    }

    proptest! {
        #![proptest_config(fuzz::config())]

        #[test]
        fn fuzzed(index in index(), damages in fuzz::damages(), noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let end = index.pages.last().map_or(HEADER_LEN as u64, PageEntry::end);
            for bytes in [fuzz::damaged(&index.encode(), &damages), noise] {
                // Every offset of the index would be believed, so the right one is tried as well.
                let claimed = bytes.len() as u64;
                for end in [end, claimed] {
                    let Ok(decoded) = fuzz::bounded(8 * bytes.len() + 1024, || Index::decode(&bytes, end)) else { continue };
                    prop_assert_eq!(decoded.encode(), bytes.clone());
                    prop_assert!(decoded.pages.is_sorted_by(|one, next| one.end() == next.offset));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn indexes_round_trip(index in index()) {
            let end = index.pages.last().map_or(HEADER_LEN as u64, PageEntry::end);
            prop_assert_eq!(Index::decode(&index.encode(), end), Ok(index.clone()));
            prop_assert!(Index::decode(&index.encode(), end + 1).is_err());
        }

        #[test]
        fn no_input_makes_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), offset: u64) {
            let _ = Index::decode(&bytes, offset);
        }

        #[test]
        fn a_pack_stands_once(index in index(), twice in any::<prop::sample::Index>()) {
            prop_assume!(!index.packs.is_empty());
            let end = index.pages.last().map_or(HEADER_LEN as u64, PageEntry::end);
            let mut again = index.clone();
            again.packs.push(PackReference { table_hash: [9; 32], ..*twice.get(&index.packs) });
            prop_assert_eq!(Index::decode(&again.encode(), end), Err(Malformed("it refers to a pack twice")));
        }

        #[test]
        fn pages_are_found_by_block(index in index(), block in 0..20_000_u64) {
            let found = index.page_after(Blocks(block));
            let expected = index.pages.iter().position(|page| page.range.end() > Blocks(block));
            prop_assert_eq!(found, expected.unwrap_or(index.pages.len()));
        }
    }
}
