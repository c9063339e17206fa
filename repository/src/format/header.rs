//! The first eight bytes of every object: what it is, and which format version it is of.
//!
//! ```text
//! offset  size  field
//!      0     5  magic, "VARVE"
//!      5     1  kind
//!      6     2  format version, u16 little-endian
//!      8        the rest, as the kind lays it out
//! ```

use crate::{Error, Result};

/// What every object begins with.
pub(crate) const MAGIC: [u8; 5] = *b"VARVE";

/// The format version that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

const KIND_OFFSET: usize = MAGIC.len();
const VERSION_OFFSET: usize = KIND_OFFSET + 1;

/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = VERSION_OFFSET + 2;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    /// `repository`.
    Repository = 1,
    /// `volumes/<volume>`.
    Volume = 2,
    /// `uploads/<snapshot>`.
    Intent = 3,
    /// `snapshots/<snapshot>` of a committed snapshot.
    Root = 4,
    /// `snapshots/<snapshot>` of one that is gone.
    Tombstone = 5,
    /// `packs/<pack>`.
    Pack = 6,
    /// `runs/<run>`.
    Run = 7,
    /// `relocated/<pack>`.
    Relocation = 8,
    /// `repacking`.
    Repacking = 9,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Repository,
        Self::Volume,
        Self::Intent,
        Self::Root,
        Self::Tombstone,
        Self::Pack,
        Self::Run,
        Self::Relocation,
        Self::Repacking,
    ];

    /// The byte that stands for it.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Repository => "a repository record",
            Self::Volume => "a volume record",
            Self::Intent => "an intent",
            Self::Root => "a root",
            Self::Tombstone => "a tombstone",
            Self::Pack => "a pack",
            Self::Run => "a run",
            Self::Relocation => "a relocation",
            Self::Repacking => "a repacker's record",
        }
    }
}

/// Returns the header of an object of that kind.
pub(crate) const fn write(kind: Kind) -> [u8; HEADER_LEN] {
    let version = FORMAT_VERSION.to_le_bytes();
    [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], MAGIC[4], kind.code(), version[0], version[1]]
}

/// Begins an object of that kind.
pub(crate) fn put_header(bytes: &mut Vec<u8>, kind: Kind) {
    bytes.extend_from_slice(&write(kind));
}

/// Reads an object's header and says what the object is.
///
/// The version is judged right after the magic: what a later version means by the other bytes is not ours to judge.
///
/// # Errors
/// `FutureFormat`, or `Corrupt` naming the object.
pub(crate) fn read(bytes: &[u8], object: &str) -> Result<Kind> {
    let corrupt = |reason: String| Error::Corrupt { object: object.into(), reason };
    let Some(header) = bytes.get(..HEADER_LEN) else {
        return Err(corrupt(format!("it has {} bytes, less than a header", bytes.len())));
    };
    if header[..KIND_OFFSET] != MAGIC {
        return Err(corrupt("it does not begin as an object of a repository does".into()));
    }
    match u16::from_le_bytes([header[VERSION_OFFSET], header[VERSION_OFFSET + 1]]) {
        FORMAT_VERSION => {}
        0 => return Err(corrupt("it has format version 0, which never was".into())),
        found => return Err(Error::FutureFormat { object: object.into(), found, supported: FORMAT_VERSION }),
    }
    let code = header[KIND_OFFSET];
    Kind::ALL
        .into_iter()
        .find(|kind| kind.code() == code)
        .ok_or_else(|| corrupt(format!("it is of unknown kind {code}")))
}

/// Reads an object's header and requires it to be of that kind.
///
/// # Errors
/// `FutureFormat`, or `Corrupt` naming the object.
pub(crate) fn expect(bytes: &[u8], kind: Kind, object: &str) -> Result<()> {
    let found = read(bytes, object)?;
    if found == kind {
        return Ok(());
    }
    Err(Error::Corrupt {
        object: object.into(),
        reason: format!("it is {} where {} belongs", found.noun(), kind.noun()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    #[test]
    fn every_kind_round_trips() {
        for kind in Kind::ALL {
            assert_eq!(read(&write(kind), "x").unwrap(), kind);
            assert!(expect(&write(kind), kind, "x").is_ok());
        }
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(write(Kind::Pack), *b"VARVE\x06\x01\x00");
    }

    #[test]
    fn a_later_version_is_told_before_anything_else_is_judged() {
        let error = read(b"VARVE\xff\x02\x00", "packs/x").unwrap_err();
        assert!(matches!(error, Error::FutureFormat { found: 2, supported: 1, .. }), "{error}");
    }

    #[test]
    fn other_bytes_are_corrupt() {
        for bytes in [&b""[..], b"VARVE\x06\x01", b"varve\x06\x01\x00", b"VARVE\x00\x01\x00", b"VARVE\x06\x00\x00"] {
            let error = read(bytes, "packs/x").unwrap_err();
            assert!(matches!(&error, Error::Corrupt { object, .. } if object == "packs/x"), "{error}");
        }
        let error = expect(b"VARVE\x06\x01\x00", Kind::Run, "runs/x").unwrap_err();
        assert_eq!(error.to_string(), "runs/x is damaged: it is a pack where a run belongs");
    }

    proptest! {
        #![proptest_config(fuzz::config())]

        #[test]
        fn fuzzed(bytes in prop::collection::vec(any::<u8>(), 0..12), damages in fuzz::damages()) {
            for bytes in [bytes, fuzz::damaged(&write(Kind::Run), &damages)] {
                if let Ok(kind) = fuzz::bounded(1024, || read(&bytes, "x")) {
                    prop_assert_eq!(&write(kind)[..], &bytes[..HEADER_LEN]);
                }
            }
        }
    }
}
