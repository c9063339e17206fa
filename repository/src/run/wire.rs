//! Reading and writing the fields of tables, pages, indexes and journals: little-endian integers, varints and frames.
//!
//! Every read checks what is left before it takes anything, so no input can make a decoder panic or allocate
//! more than the input could describe.

use zstd::zstd_safe;

/// Says that bytes do not have the form that they should have; they were written wrongly, not only damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Takes fields off the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the front.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Takes `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed("it ends within a field"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes an array.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed("it ends within a field"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes one byte.
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Takes a `u32`.
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a `u64`.
    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes an LEB128 varint; one that is longer than needed is refused, so that each value has one form.
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed("a varint does not fit 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(Malformed("a varint is longer than it needs to be"));
                }
                return Ok(value);
            }
        }
        Err(Malformed("a varint does not fit 64 bits"))
    }

    /// Takes a signed varint (zigzag).
    pub(crate) fn signed_varint(&mut self) -> Result<i64, Malformed> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Says that this was all.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("it goes on past its end")) }
    }
}

/// Decompresses what must be one zstd frame that says the size of its content, of at most `limit` bytes.
///
/// No more is allocated than the frame says, and nothing before that was compared with the limit.
pub(crate) fn decompress(frame: &[u8], limit: usize) -> Result<Vec<u8>, Malformed> {
    let length = frame_length(frame, limit)?;
    let plain = zstd::bulk::decompress(frame, length).map_err(|_| Malformed("it does not decompress"))?;
    if plain.len() == length { Ok(plain) } else { Err(NO_FRAME) }
}

/// Decompresses the same into a buffer, which it must fill.
pub(crate) fn decompress_into(
    frame: &[u8],
    context: &mut zstd_safe::DCtx<'_>,
    plain: &mut [u8],
) -> Result<(), Malformed> {
    if frame_length(frame, plain.len())? != plain.len() {
        return Err(Malformed("it is shorter than it should be"));
    }
    let length = context.decompress(plain, frame).map_err(|_| Malformed("it does not decompress"))?;
    if length == plain.len() { Ok(()) } else { Err(NO_FRAME) }
}

const NO_FRAME: Malformed = Malformed("it is not one zstd frame that says its size");

/// Returns how long the content of what must be one zstd frame is, at most `limit`.
fn frame_length(frame: &[u8], limit: usize) -> Result<usize, Malformed> {
    let odd = NO_FRAME;
    let length = zstd_safe::get_frame_content_size(frame).ok().flatten().ok_or(odd)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= limit);
    let length = length.ok_or(Malformed("it decompresses to more than it may hold"))?;
    if zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err(odd);
    }
    Ok(length)
}

/// Appends an LEB128 varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a signed varint (zigzag).
pub(crate) fn put_signed_varint(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64, signed: i64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            put_signed_varint(&mut bytes, signed);
            let mut cursor = Cursor::new(&bytes);
            prop_assert_eq!(cursor.varint(), Ok(value));
            prop_assert_eq!(cursor.signed_varint(), Ok(signed));
            prop_assert_eq!(cursor.finish(), Ok(()));
        }

        #[test]
        fn what_reads_as_a_varint_is_written_the_same(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut cursor = Cursor::new(&bytes);
            if let Ok(value) = cursor.varint() {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&bytes[..bytes.len() - cursor.left()], &again[..]);
            }
        }
    }

    proptest! {
        #![proptest_config(fuzz::config())]

        #[test]
        fn fuzzed(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut cursor = Cursor::new(&bytes);
            let mut again = Vec::new();
            while let Ok(value) = fuzz::bounded(0, || cursor.signed_varint()) {
                put_signed_varint(&mut again, value);
            }
            prop_assert!(bytes.starts_with(&again));
        }

        #[test]
        fn fuzzed_frames(plain in prop::collection::vec(0..3_u8, 0..5000), damages in fuzz::damages(), limit in 0..6000_usize) {
            let frame = zstd::bulk::compress(&plain, 1).unwrap();
            let bytes = fuzz::damaged(&frame, &damages);
            match fuzz::bounded(limit + 1024, || decompress(&bytes, limit)) {
                Ok(found) if bytes == frame => prop_assert_eq!(found, plain),
                Ok(found) => prop_assert!(found.len() <= limit),
                Err(_) => prop_assert!(bytes != frame || plain.len() > limit),
            }
        }
    }

    #[test]
    fn what_is_not_one_frame_that_says_its_size_is_refused() {
        let frame = zstd::bulk::compress(&[7; 1000], 1).unwrap();
        assert_eq!(decompress(&frame, 1000), Ok(vec![7; 1000]));
        assert!(decompress(&frame, 999).is_err());
        assert!(decompress(&[&frame[..], &frame].concat(), 2000).is_err(), "two frames");
        assert!(decompress(&[&frame[..], b"\x50\x2a\x4d\x18\x01\0\0\0x"].concat(), 2000).is_err(), "one to be skipped");
        let unsaid = zstd::stream::encode_all(&[7; 1000][..], 1).unwrap();
        assert_eq!(zstd::bulk::decompress(&unsaid, 1000).unwrap(), [7; 1000]);
        assert!(decompress(&unsaid, 1000).is_err(), "without its size");
        // A frame of some kilobytes that would be 64 MiB.
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert!(bomb.len() < 8 << 10);
        assert!(fuzz::bounded(1024, || decompress(&bomb, 128 << 10)).is_err());
    }
}
