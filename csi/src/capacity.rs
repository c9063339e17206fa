//! Capacity ranges.

use tonic::Status;
use varve_proto::csi;

use crate::status;

/// The largest size that CSI can say, in bytes.
const LARGEST: u64 = i64::MAX.unsigned_abs();

/// A validated `CapacityRange`: what is wanted at the least and at the most, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityRange {
    /// At the least; 0 where nothing is asked.
    pub required: u64,
    /// At the most; `None` without limit.
    pub limit: Option<u64>,
}

impl CapacityRange {
    /// Validates the range; an absent one asks for nothing, and 0 means unspecified in both fields.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for negative values, `OUT_OF_RANGE` where the limit is below what is required.
    pub fn parse(field: &str, range: Option<&csi::CapacityRange>) -> Result<Self, Status> {
        let Some(range) = range else {
            return Ok(Self { required: 0, limit: None });
        };
        let bytes = |name: &str, value: i64| {
            u64::try_from(value)
                .map_err(|_| status::invalid(&format!("{field}.{name}"), value, "a number of bytes, not below 0"))
        };
        let required = bytes("required_bytes", range.required_bytes)?;
        let limit = match bytes("limit_bytes", range.limit_bytes)? {
            0 => None,
            limit => Some(limit),
        };
        if let Some(limit) = limit
            && limit < required
        {
            return Err(Status::out_of_range(format!(
                "{field} asks for at least {required} and at most {limit} bytes"
            )));
        }
        Ok(Self { required, limit })
    }

    /// Picks a size: what is required (or `default`) rounded up to a multiple of `granule`, at least `minimum`.
    /// The default gives way to a limit below it, since nobody asked for that much.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` where no such size lies within the limit.
    pub fn pick(self, default: u64, minimum: u64, granule: u64) -> Result<u64, Status> {
        let granule = granule.max(1);
        let largest = self.limit.unwrap_or(LARGEST).min(LARGEST);
        let wanted = if self.required == 0 { default.min(largest - largest % granule) } else { self.required };
        wanted.max(minimum).checked_next_multiple_of(granule).filter(|bytes| *bytes <= largest).ok_or_else(|| {
            let limit = self.limit.map(|limit| format!(" and at most {limit}")).unwrap_or_default();
            Status::out_of_range(format!(
                "no size fits at least {}{limit} bytes: sizes are multiples of {granule} from {minimum} to {LARGEST}",
                self.required
            ))
        })
    }

    /// Tells whether a size that exists satisfies the range.
    #[must_use]
    pub fn admits(self, bytes: u64) -> bool {
        bytes >= self.required && self.limit.is_none_or(|limit| bytes <= limit)
    }
}

/// Gives a number of bytes as CSI's messages carry it; more than they can say becomes the most they can.
#[must_use]
pub fn wire(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    const KIB: u64 = 1024;
    const GIB: u64 = 1 << 30;

    fn parse(required_bytes: i64, limit_bytes: i64) -> Result<CapacityRange, Status> {
        CapacityRange::parse("capacity_range", Some(&csi::CapacityRange { required_bytes, limit_bytes }))
    }

    #[test]
    fn nothing_asked_is_nothing_required() {
        let nothing = CapacityRange { required: 0, limit: None };
        assert_eq!(CapacityRange::parse("capacity_range", None).unwrap(), nothing);
        assert_eq!(parse(0, 0).unwrap(), nothing);
        assert_eq!(nothing.pick(GIB, KIB, 4096).unwrap(), GIB);
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        let error = parse(-1, 0).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().starts_with("capacity_range.required_bytes is -1"), "{}", error.message());
        assert_eq!(parse(0, i64::MIN).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(parse(2, 1).unwrap_err().code(), Code::OutOfRange);
        assert!(parse(2, 2).is_ok());
    }

    #[test]
    fn sizes_are_rounded_up_within_the_limit() {
        assert_eq!(parse(1, 0).unwrap().pick(GIB, KIB, 4096).unwrap(), 4096);
        assert_eq!(parse(1, 0).unwrap().pick(GIB, 10_000, 4096).unwrap(), 12_288);
        assert_eq!(parse(4097, 8192).unwrap().pick(GIB, 0, 4096).unwrap(), 8192);
        assert_eq!(parse(4097, 8191).unwrap().pick(GIB, 0, 4096).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(parse(0, 4095).unwrap().pick(GIB, 1, 4096).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(parse(1, 4096).unwrap().pick(GIB, 8192, 4096).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(parse(i64::MAX, 0).unwrap().pick(GIB, 0, 4096).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(parse(i64::MAX, 0).unwrap().pick(GIB, 0, 1).unwrap(), LARGEST);
    }

    #[test]
    fn a_limit_alone_bounds_the_default() {
        assert_eq!(parse(0, 10_000).unwrap().pick(GIB, 4096, 4096).unwrap(), 8192);
    }

    #[test]
    fn an_existing_size_is_judged_by_both_ends() {
        let range = parse(10, 20).unwrap();
        assert_eq!([9, 10, 20, 21].map(|bytes| range.admits(bytes)), [false, true, true, false]);
        assert!(parse(10, 0).unwrap().admits(u64::MAX));
    }

    #[test]
    fn sizes_on_the_wire_saturate() {
        assert_eq!(wire(4096), 4096);
        assert_eq!(wire(u64::MAX), i64::MAX);
    }

    proptest! {
        #[test]
        fn what_is_picked_is_right(
            required in 0..i64::MAX,
            limit in prop_oneof![Just(0), 0..i64::MAX],
            default: u64,
            minimum in 0..(1_u64 << 40),
            granule in 0..(1_u64 << 30),
        ) {
            if let Ok(range) = parse(required, limit)
                && let Ok(bytes) = range.pick(default, minimum, granule)
            {
                prop_assert!(range.admits(bytes));
                prop_assert!(bytes >= minimum && bytes <= LARGEST);
                prop_assert_eq!(bytes % granule.max(1), 0);
                if required != 0 {
                    prop_assert!(bytes - range.required.max(minimum) < granule.max(1));
                }
            }
        }

        #[test]
        fn a_size_that_exists_is_found(required in 1..1_000_000_i64, room in 0..10_000_i64, granule in 1..8192_u64) {
            let range = parse(required, required + room).unwrap();
            let exists = (range.required..=range.limit.unwrap()).any(|bytes| bytes % granule == 0);
            prop_assert_eq!(range.pick(0, 0, granule).is_ok(), exists);
        }
    }
}
