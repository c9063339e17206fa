//! The operator's commands: what people and scripts ask of a repository, without a driver where none is needed.

pub(crate) mod image;
pub(crate) mod repository;
pub(crate) mod request;
pub(crate) mod snapshot;
pub(crate) mod volume;

use std::str::FromStr;

use crate::failure::Usage;

/// Reads an id of the command line.
///
/// # Errors
/// `Usage`, saying how such an id looks.
pub(crate) fn id<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Usage> {
    text.parse().map_err(|error: T::Err| Usage(error.to_string()))
}
