//! Names, ids, paths and maps as CSI limits them.

use std::{collections::HashMap, hash::BuildHasher, path::Path};

use tonic::Status;

use crate::status;

/// Longest text of a name or id, in bytes (CSI, "Size Limits").
pub const LONGEST: usize = 128;

/// Longest id of a node, in bytes (CSI, NodeGetInfo, `node_id`).
pub const LONGEST_NODE: usize = 256;

/// Longest path that the system takes, in bytes without the closing NUL (`linux/limits.h`, `PATH_MAX`).
pub const LONGEST_PATH: usize = 4095;

/// Most that keys and values of a map add up to, in bytes (CSI, "Size Limits").
pub const LARGEST_MAP: usize = 4096;

/// Checks a required name or id: present, at most 128 bytes, and free of the control characters that CSI bans.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub fn required<'a>(field: &str, value: &'a str) -> Result<&'a str, Status> {
    if value.is_empty() {
        return Err(status::missing(field));
    }
    if value.len() > LONGEST {
        return Err(status::invalid(field, format_args!("{} bytes long", value.len()), "at most 128 bytes"));
    }
    if value.chars().any(banned) {
        return Err(status::invalid(field, value, "no control characters"));
    }
    Ok(value)
}

/// Checks an optional name or id: `None` where it is empty, else the rules of [`required`].
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub fn optional<'a>(field: &str, value: &'a str) -> Result<Option<&'a str>, Status> {
    if value.is_empty() { Ok(None) } else { required(field, value).map(Some) }
}

/// Checks a node's id: present, at most 256 bytes, and free of control characters.
///
/// CSI lifts its general limit for what NodeGetInfo answers, by which other calls name the node.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub fn node<'a>(field: &str, value: &'a str) -> Result<&'a str, Status> {
    if value.is_empty() {
        return Err(status::missing(field));
    }
    if value.len() > LONGEST_NODE {
        return Err(status::invalid(field, format_args!("{} bytes long", value.len()), "at most 256 bytes"));
    }
    if value.chars().any(banned) {
        return Err(status::invalid(field, value, "no control characters"));
    }
    Ok(value)
}

/// Checks a required path on the node: absolute, without `..`, at most 4095 bytes, no NUL.
///
/// CSI lifts its general limit for paths and asks for as much as the system takes (NodeStageVolume).
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub fn path<'a>(field: &str, value: &'a str) -> Result<&'a Path, Status> {
    if value.is_empty() {
        return Err(status::missing(field));
    }
    if value.len() > LONGEST_PATH {
        return Err(status::invalid(field, format_args!("{} bytes long", value.len()), "at most 4095 bytes"));
    }
    if !value.starts_with('/') {
        return Err(status::invalid(field, value, "an absolute path"));
    }
    if value.contains('\0') {
        return Err(status::invalid(field, value, "no NUL"));
    }
    if value.split('/').any(|component| component == "..") {
        return Err(status::invalid(field, value, "no `..` in it"));
    }
    Ok(Path::new(value))
}

/// Checks an optional path: `None` where it is empty, else the rules of [`path`].
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub fn optional_path<'a>(field: &str, value: &'a str) -> Result<Option<&'a Path>, Status> {
    if value.is_empty() { Ok(None) } else { path(field, value).map(Some) }
}

/// Checks that keys and values of a map add up to at most 4 KiB. Which keys are known is for the caller to say.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field and its size, and never a key or value: the map may hold secrets.
pub fn map<'a, S: BuildHasher>(
    field: &str,
    map: &'a HashMap<String, String, S>,
) -> Result<&'a HashMap<String, String, S>, Status> {
    let bytes = map.iter().fold(0_usize, |sum, (key, value)| sum.saturating_add(key.len()).saturating_add(value.len()));
    if bytes > LARGEST_MAP {
        return Err(status::invalid(field, format_args!("{bytes} bytes large"), "at most 4096 bytes"));
    }
    Ok(map)
}

/// Tells whether CSI bans a character from names (CreateVolume, `name`): all control characters but tab and line ends.
fn banned(character: char) -> bool {
    character.is_control() && !matches!(character, '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
        result.expect_err("refused").code()
    }

    #[test]
    fn a_name_has_1_to_128_bytes() {
        assert_eq!(required("name", &"n".repeat(128)).unwrap().len(), 128);
        assert_eq!(required("name", "ü \u{1f600}").unwrap(), "ü \u{1f600}");
        assert_eq!(code(required("name", "")), Code::InvalidArgument);
        assert_eq!(code(required("name", &"n".repeat(129))), Code::InvalidArgument);
        // 43 characters of three bytes each: the limit counts bytes.
        assert_eq!(code(required("name", &"€".repeat(43))), Code::InvalidArgument);
        let error = required("volume_id", "").unwrap_err();
        assert_eq!(error.message(), "volume_id is missing");
        let error = required("name", &"n".repeat(129)).unwrap_err();
        assert_eq!(error.message(), "name is 129 bytes long: expected at most 128 bytes");
    }

    #[test]
    fn an_optional_name_may_be_empty_and_nothing_else() {
        assert_eq!(optional("snapshot_id", "").unwrap(), None);
        assert_eq!(optional("snapshot_id", "snap").unwrap(), Some("snap"));
        assert_eq!(code(optional("snapshot_id", "a\0")), Code::InvalidArgument);
    }

    #[test]
    fn a_node_s_id_has_1_to_256_bytes() {
        assert_eq!(node("node_id", &"n".repeat(256)).unwrap().len(), 256);
        for bad in ["", "a\0", &"n".repeat(257)] {
            assert_eq!(code(node("node_id", bad)), Code::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn a_path_is_absolute_and_goes_down_only() {
        assert_eq!(path("target_path", "/a/b..c/...").unwrap(), Path::new("/a/b..c/..."));
        assert!(path("target_path", &format!("/{}", "p".repeat(4094))).is_ok());
        for bad in ["", "a/b", "./a", "/a/../b", "/..", "/a\0b"] {
            assert_eq!(code(path("target_path", bad)), Code::InvalidArgument, "{bad:?}");
        }
        assert_eq!(code(path("target_path", &format!("/{}", "p".repeat(4095)))), Code::InvalidArgument);
        assert_eq!(optional_path("staging_target_path", "").unwrap(), None);
        assert_eq!(code(optional_path("staging_target_path", "x")), Code::InvalidArgument);
    }

    #[test]
    fn a_map_has_at_most_4_kib_and_is_never_quoted() {
        let largest = HashMap::from([("k".repeat(96), "v".repeat(4000))]);
        assert!(map("parameters", &largest).is_ok());
        let larger = HashMap::from([("password".to_owned(), "hunter2".repeat(600))]);
        let error = map("secrets", &larger).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.message(), "secrets is 4208 bytes large: expected at most 4096 bytes");
    }

    proptest! {
        #[test]
        fn exactly_the_banned_characters_are_refused(character: char) {
            let banned = matches!(
                u32::from(character),
                0x00..=0x08 | 0x0b | 0x0c | 0x0e..=0x1f | 0x7f..=0x9f
            );
            prop_assert_eq!(required("name", &format!("a{character}b")).is_err(), banned);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = required("name", &text);
            let _ = path("target_path", &text);
        }
    }
}
