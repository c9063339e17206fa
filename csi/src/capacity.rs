//! Capacity ranges.

use tonic::Status;
use varve_proto::csi;

/// A validated `CapacityRange`: what is wanted at the least and at the most, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityRange {
    /// At the least; 0 where nothing is asked.
    pub required: u64,
    /// At the most; `None` without limit.
    pub limit: Option<u64>,
}

impl CapacityRange {
    /// Validates the range; an absent one asks for nothing.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for negative values, `OUT_OF_RANGE` where the limit is below what is required.
    pub fn parse(field: &str, range: Option<&csi::CapacityRange>) -> Result<Self, Status> {
        let _ = (field, range);
        unimplemented!()
    }

    /// Picks a size: what is required (or `default`) rounded up to a multiple of `granule`, at least `minimum`.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` where no such size lies within the limit.
    pub fn pick(self, default: u64, minimum: u64, granule: u64) -> Result<u64, Status> {
        let _ = (default, minimum, granule);
        unimplemented!()
    }

    /// Tells whether a size that exists satisfies the range.
    #[must_use]
    pub fn admits(self, bytes: u64) -> bool {
        bytes >= self.required && self.limit.is_none_or(|limit| bytes <= limit)
    }
}
