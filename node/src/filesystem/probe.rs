//! What a block device holds, told from the magic numbers of superblocks.
//!
//! Read by ourselves and not asked of `blkid`, whose answer "nothing" also means "two things at once" and "I could not read".

use std::{fs::File, io::Read, path::Path};

use super::{Content, Error, Filesystem, Result};

/// How much of the device's beginning has to be zero for it to be blank, in bytes. Every signature below lies in it.
const EXAMINED: usize = 1 << 20;

/// Where the superblock of ext2, 3 and 4 begins (fs/ext4/ext4.h).
pub(super) const EXT_SUPERBLOCK: usize = 1024;
/// `s_magic`, from the beginning of the superblock.
const EXT_MAGIC: usize = 0x38;

/// A signature: where it lies, what it is, and of what. In the order in which they are looked for.
const SIGNATURES: &[(usize, &[u8], Content)] = &[
    (0, b"XFSB", Content::Filesystem(Filesystem::Xfs)),
    (EXT_SUPERBLOCK + EXT_MAGIC, &[0x53, 0xEF], Content::Filesystem(Filesystem::Ext4)),
    (0x1_0040, b"_BHRfS_M", Content::Other("btrfs")),
    (0, b"LUKS\xBA\xBE", Content::Other("LUKS")),
    (512, b"LABELONE", Content::Other("an LVM physical volume")),
    (4096, &[0xFC, 0x4E, 0x2B, 0xA9], Content::Other("a RAID member")),
    (0, &[0xFC, 0x4E, 0x2B, 0xA9], Content::Other("a RAID member")),
    (4096 - 10, b"SWAPSPACE2", Content::Other("swap space")),
    (1024, &[0x10, 0x20, 0xF5, 0xF2], Content::Other("f2fs")),
    (1024, &[0xE2, 0xE1, 0xF5, 0xE0], Content::Other("EROFS")),
    (0, b"hsqs", Content::Other("squashfs")),
    (0x8001, b"CD001", Content::Other("ISO 9660")),
    (3, b"NTFS    ", Content::Other("NTFS")),
    (3, b"EXFAT   ", Content::Other("exFAT")),
    (512, b"EFI PART", Content::Other("a partition table (GPT)")),
    (4096, b"EFI PART", Content::Other("a partition table (GPT)")),
    (510, &[0x55, 0xAA], Content::Other("a partition table (MBR) or FAT")),
];

/// Tells what the device (or file) holds.
///
/// # Errors
/// The system's; `Unrecognised` where the first MiB is not zero and not known either.
pub fn probe(device: &Path) -> Result<Content> {
    let system = |action| move |source| Error::System { action, path: device.to_owned(), source };
    let limit = u64::try_from(EXAMINED).expect("a MiB is a u64");
    let mut bytes = Vec::with_capacity(EXAMINED);
    File::open(device).map_err(system("open"))?.take(limit).read_to_end(&mut bytes).map_err(system("read"))?;
    recognise(&bytes).ok_or_else(|| Error::Unrecognised { device: device.to_owned() })
}

fn recognise(bytes: &[u8]) -> Option<Content> {
    let matches = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((_, _, content)) = SIGNATURES.iter().find(|(offset, magic, _)| matches(*offset, magic)) {
        return Some(content.clone());
    }
    bytes.iter().all(|byte| *byte == 0).then_some(Content::Blank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_blank_and_so_is_nothing() {
        assert_eq!(recognise(&[0; 8192]), Some(Content::Blank));
        assert_eq!(recognise(&[]), Some(Content::Blank));
    }

    #[test]
    fn every_signature_is_recognised_where_it_lies() {
        for (offset, magic, content) in SIGNATURES {
            let mut bytes = vec![0; EXAMINED];
            bytes[*offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(recognise(&bytes).as_ref(), Some(content));
        }
    }

    #[test]
    fn anything_else_is_unknown_rather_than_blank() {
        let mut bytes = vec![0; EXAMINED];
        bytes[EXAMINED - 1] = 1;
        assert_eq!(recognise(&bytes), None);
    }
}
