//! The envelope of a record: a header, the record as JSON, sealed, and a hash of it all.
//!
//! ```text
//! offset  size  field
//!      0     8  header: magic, kind, format version
//!      8     1  sealing: 0 plain, 1 AES-256-GCM under the record key
//!      9     3  zero
//!     12     4  payload length n, u32 little-endian; the tag counts
//!     16    12  nonce; zero where the payload is plain
//!     28     n  payload: JSON in UTF-8; where sealed, its ciphertext and then the 16-byte tag
//!   28+n    32  BLAKE3-256 of everything before
//! ```
//!
//! A sealed payload's associated data are the 28 bytes before it and the object's key in the bucket: a record
//! that was put under another's key does not open. The hash finds damage without any key.
//!
//! # Invariants
//!
//! What does not carry the right magic, length, hash and tag yields an error that names the object, never a record
//! and never a panic; a length is compared with what is there before anything is allocated.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::header::{self, HEADER_LEN, Kind};
use crate::{
    Error, Result,
    crypto::{NONCE_LEN, RecordKey, TAG_LEN},
};

const SEALING_OFFSET: usize = HEADER_LEN;
const RESERVED_OFFSET: usize = SEALING_OFFSET + 1;
const LENGTH_OFFSET: usize = RESERVED_OFFSET + 3;
const NONCE_OFFSET: usize = LENGTH_OFFSET + 4;
const PAYLOAD_OFFSET: usize = NONCE_OFFSET + NONCE_LEN;
const HASH_LEN: usize = blake3::OUT_LEN;

/// Bytes that an envelope adds to its payload.
const OVERHEAD: usize = PAYLOAD_OFFSET + HASH_LEN;

/// Most bytes that a record's envelope may have.
pub(crate) const RECORD_LIMIT: usize = 16 << 20;

const PLAIN: u8 = 0;
const SEALED: u8 = 1;

/// Puts a record into a sealed envelope, for that key in the bucket. The nonce is fresh and random.
///
/// # Errors
/// `RecordTooLarge`.
pub(crate) fn seal_record<T: Serialize>(
    key: &RecordKey,
    kind: Kind,
    object: &str,
    nonce: [u8; NONCE_LEN],
    record: &T,
) -> Result<Bytes> {
    let mut payload = encode(record);
    let prelude = prelude(kind, SEALED, payload.len() + TAG_LEN, nonce, object)?;
    key.seal(nonce, &associated(&prelude, object), &mut payload);
    Ok(close(&prelude, &payload))
}

/// Takes a record out of a sealed envelope that was read at that key in the bucket.
///
/// # Errors
/// `FutureFormat`, or `Corrupt` naming the object.
pub(crate) fn open_record<T: DeserializeOwned>(key: &RecordKey, kind: Kind, object: &str, bytes: &[u8]) -> Result<T> {
    header::expect(bytes, kind, object)?;
    let (prelude, payload) = check(bytes, SEALED, object)?;
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&prelude[NONCE_OFFSET..]);
    let mut payload = payload.to_vec();
    key.open(nonce, &associated(prelude, object), &mut payload)
        .map_err(|_| corrupt(object, "it was not sealed under this repository's key, or not for this place"))?;
    decode(object, &payload)
}

/// Puts a record into a plain envelope.
///
/// # Errors
/// `RecordTooLarge`.
pub(crate) fn wrap_record<T: Serialize>(kind: Kind, object: &str, record: &T) -> Result<Bytes> {
    let payload = encode(record);
    let prelude = prelude(kind, PLAIN, payload.len(), [0; NONCE_LEN], object)?;
    Ok(close(&prelude, &payload))
}

/// Takes a record out of a plain envelope.
///
/// # Errors
/// `FutureFormat`, or `Corrupt` naming the object.
pub(crate) fn unwrap_record<T: DeserializeOwned>(kind: Kind, object: &str, bytes: &[u8]) -> Result<T> {
    header::expect(bytes, kind, object)?;
    let (prelude, payload) = check(bytes, PLAIN, object)?;
    if prelude[NONCE_OFFSET..].iter().any(|byte| *byte != 0) {
        return Err(corrupt(object, "it has a nonce and is not sealed"));
    }
    decode(object, payload)
}

/// Checks everything that needs no key, and returns the part before the payload and the payload.
fn check<'a>(bytes: &'a [u8], sealing: u8, object: &str) -> Result<(&'a [u8], &'a [u8])> {
    if bytes.len() < OVERHEAD {
        return Err(corrupt(object, "it is shorter than an empty record"));
    }
    if bytes.len() > RECORD_LIMIT {
        return Err(corrupt(object, "it is larger than a record may be"));
    }
    let (content, hash) = bytes.split_at(bytes.len() - HASH_LEN);
    let (prelude, payload) = content.split_at(PAYLOAD_OFFSET);
    let mut length = [0; 4];
    length.copy_from_slice(&prelude[LENGTH_OFFSET..NONCE_OFFSET]);
    if usize::try_from(u32::from_le_bytes(length)).ok() != Some(payload.len()) {
        return Err(corrupt(object, "its length is not what it says"));
    }
    if blake3::hash(content) != *hash {
        return Err(corrupt(object, "its hash does not match its content"));
    }
    if prelude[RESERVED_OFFSET..LENGTH_OFFSET] != [0; 3] {
        return Err(corrupt(object, "its reserved bytes are not zero"));
    }
    match (prelude[SEALING_OFFSET], sealing) {
        (PLAIN, PLAIN) | (SEALED, SEALED) => Ok((prelude, payload)),
        (PLAIN, SEALED) => Err(corrupt(object, "it is not sealed")),
        (SEALED, PLAIN) => Err(corrupt(object, "it is sealed and should not be")),
        _ => Err(corrupt(object, "it is sealed in an unknown way")),
    }
}

fn prelude(
    kind: Kind,
    sealing: u8,
    length: usize,
    nonce: [u8; NONCE_LEN],
    object: &str,
) -> Result<[u8; PAYLOAD_OFFSET]> {
    let too_large = || Error::RecordTooLarge { object: object.into(), bytes: length, limit: RECORD_LIMIT - OVERHEAD };
    if length > RECORD_LIMIT - OVERHEAD {
        return Err(too_large());
    }
    let stored_length = u32::try_from(length).map_err(|_| too_large())?;
    let mut prelude = [0; PAYLOAD_OFFSET];
    prelude[..HEADER_LEN].copy_from_slice(&header::write(kind));
    prelude[SEALING_OFFSET] = sealing;
    prelude[LENGTH_OFFSET..NONCE_OFFSET].copy_from_slice(&stored_length.to_le_bytes());
    prelude[NONCE_OFFSET..].copy_from_slice(&nonce);
    Ok(prelude)
}

fn associated(prelude: &[u8], object: &str) -> Vec<u8> {
    [prelude, object.as_bytes()].concat()
}

fn close(prelude: &[u8], payload: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(payload.len() + OVERHEAD);
    bytes.extend_from_slice(prelude);
    bytes.extend_from_slice(payload);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes.into()
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record has text for keys and no failing part")
}

fn decode<T: DeserializeOwned>(object: &str, payload: &[u8]) -> Result<T> {
    serde_json::from_slice(payload).map_err(|error| corrupt(object, &format!("its content cannot be read: {error}")))
}

fn corrupt(object: &str, reason: &str) -> Error {
    Error::Corrupt { object: object.into(), reason: reason.into() }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
