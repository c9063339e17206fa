//! Damage, apart from all other failures: what a check notes, and what a restore that keeps going passes over.

use crate::{Error, Result};

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    /// The object's key in the bucket.
    pub(crate) object: String,
    /// What does not fit.
    pub(crate) reason: String,
}

impl Fault {
    /// Takes an error that says that an object is damaged.
    ///
    /// # Errors
    /// Any other, as it is.
    pub(crate) fn of(error: Error) -> Result<Self> {
        match error {
            Error::Corrupt { object, reason } => Ok(Self { object, reason }),
            // A bit of the version may have flipped; and what this program cannot read, it cannot restore.
            Error::FutureFormat { object, found, .. } => {
                Ok(Self { object, reason: format!("it has format version {found}, which this program does not read") })
            }
            error => Err(error),
        }
    }

    /// Sorts a result into what was read and what is wrong.
    ///
    /// # Errors
    /// What is neither.
    pub(crate) fn sort<T>(result: Result<T>) -> Result<Result<T, Self>> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(error) => Self::of(error).map(Err),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Corrupt { object: fault.object, reason: fault.reason }
    }
}
