//! Identifiers: what they look like and which are derived and which are random.
//!
//! | id | text | made from |
//! | --- | --- | --- |
//! | volume | `vol-` + 32 hex digits | keyed BLAKE3 of the volume's name |
//! | snapshot | `snap-` + 32 hex digits | keyed BLAKE3 of the snapshot's name and generation |
//! | group | `group-` + 32 hex digits | keyed BLAKE3 of the group snapshot's name |
//! | upload | 16 hex digits | random, one for each attempt to write a snapshot |
//! | pack, run | 32 hex digits | the upload's 8 bytes, then 8 random bytes |
//! | chunk | 64 hex digits | keyed BLAKE3 of the chunk's plain bytes |
//!
//! The ids of packs and runs begin with their upload's id, so that a collector can tell whose they
//! are without reading them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Says that a text is not an id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id: expected {expected}")]
pub struct ParseIdError {
    kind: &'static str,
    expected: &'static str,
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $prefix:literal, $kind:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Length of the binary form, in bytes.
            pub const LEN: usize = $bytes;

            /// Wraps the binary form.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// Returns the binary form, as it stands in packs and runs and in associated data.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let error = || ParseIdError { kind: $kind, expected: $expected, text: text.chars().take(160).collect() };
                let digits = text.strip_prefix($prefix).ok_or_else(error)?;
                if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
                    return Err(error());
                }
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(digits, &mut bytes).map_err(|_| error())?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// Names a volume; the CSI `volume_id`.
    VolumeId, 16, "vol-", "volume", "vol- and 32 lower-case hexadecimal digits");
id!(
    /// Names a snapshot; the CSI `snapshot_id`.
    SnapshotId, 16, "snap-", "snapshot", "snap- and 32 lower-case hexadecimal digits");
id!(
    /// Names a group snapshot; the CSI `group_snapshot_id`.
    GroupId, 16, "group-", "group snapshot", "group- and 32 lower-case hexadecimal digits");
id!(
    /// Names one attempt to write a snapshot; the first half of the ids of its packs and runs.
    UploadId, 8, "", "upload", "16 lower-case hexadecimal digits");
id!(
    /// Names a pack.
    PackId, 16, "", "pack", "32 lower-case hexadecimal digits");
id!(
    /// Names a run.
    RunId, 16, "", "run", "32 lower-case hexadecimal digits");
id!(
    /// Names a chunk by its content: keyed BLAKE3 of its plain bytes.
    ChunkId, 32, "", "chunk", "64 lower-case hexadecimal digits");

macro_rules! of_upload {
    ($name:ident) => {
        impl $name {
            /// Joins the upload's id with eight fresh random bytes.
            #[must_use]
            pub fn of(upload: UploadId, random: [u8; 8]) -> Self {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(upload.as_bytes());
                bytes[8..].copy_from_slice(&random);
                Self(bytes)
            }

            /// Returns the id of the upload that wrote it.
            #[must_use]
            pub fn upload(self) -> UploadId {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&self.0[..8]);
                UploadId::from_bytes(bytes)
            }
        }
    };
}

of_upload!(PackId);
of_upload!(RunId);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    #[test]
    fn text_and_bytes_round_trip() {
        let id = VolumeId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string(), "vol-abababababababababababababababab");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "vol-", "vol-ab", "snap-abababababababababababababababab", "vol-ABababababababababababababababab"]
        {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn packs_name_their_upload() {
        let upload = UploadId::from_bytes([7; 8]);
        assert_eq!(PackId::of(upload, [9; 8]).upload(), upload);
    }

    /// Reads any text as an id, of which it must then be the text.
    fn read<I: FromStr + fmt::Display + Serialize + for<'de> Deserialize<'de> + PartialEq + fmt::Debug>(text: &str) {
        if let Ok(id) = fuzz::bounded(1024, || text.parse::<I>().ok()).ok_or(()) {
            assert_eq!(id.to_string(), text);
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(serde_json::from_str::<I>(&json).unwrap(), id);
        }
    }

    proptest! {
        #![proptest_config(fuzz::config())]

        #[test]
        fn fuzzed(arbitrary in ".{0,300}", digits in "(vol-|snap-|group-)?[0-9a-fA-F]{16,64}", damages in fuzz::damages()) {
            let damaged = fuzz::damaged(VolumeId::from_bytes([0xab; 16]).to_string().as_bytes(), &damages);
            for text in [arbitrary, digits, String::from_utf8_lossy(&damaged).into_owned()] {
                read::<VolumeId>(&text);
                read::<SnapshotId>(&text);
                read::<GroupId>(&text);
                read::<UploadId>(&text);
                read::<PackId>(&text);
                read::<RunId>(&text);
                read::<ChunkId>(&text);
            }
        }
    }
}
