//! Names and ids as CSI limits them.

use tonic::Status;

use crate::status;

/// Longest text of a name or id, in bytes (CSI, "Size Limits").
pub const LONGEST: usize = 128;

/// Checks a required name or id: present, at most 128 bytes, no control characters.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub fn required<'a>(field: &str, value: &'a str) -> Result<&'a str, Status> {
    if value.is_empty() {
        return Err(status::missing(field));
    }
    if value.len() > LONGEST {
        return Err(status::invalid(field, format!("{} bytes long", value.len()), "at most 128 bytes"));
    }
    if value.chars().any(char::is_control) {
        return Err(status::invalid(field, value, "no control characters"));
    }
    Ok(value)
}
