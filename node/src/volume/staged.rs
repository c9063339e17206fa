//! What stands in `volumes/<volume>/staged.json`: how a volume is staged and published.
//!
//! Which device an image is attached to and where that is mounted can be asked of the kernel, and is. What cannot be
//! asked stands here: that a volume is staged at all where nothing is mounted (a block volume), and under which access
//! mode each target is published, without which a single writer could not be enforced after a restart.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use varve_csi::capability::AccessMode;

/// How a volume is staged and published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The staging target path.
    pub path: PathBuf,
    /// What is at that path.
    pub access: Access,
    /// The targets that it is published at, in no particular order.
    #[serde(default)]
    pub publications: Vec<Publication>,
}

/// What a staging path holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// The raw device is used; nothing is mounted at the staging path.
    Block,
    /// The volume's file system is mounted at the staging path.
    Mount {
        /// The mount flags asked for.
        #[serde(default)]
        flags: Vec<String>,
        /// The group that was to own the volume.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<u32>,
    },
}

/// One target path of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// The target path.
    pub target: PathBuf,
    /// Whether it is read-only there.
    pub read_only: bool,
    /// The access mode it was published with.
    #[serde(with = "AccessModeName")]
    pub mode: AccessMode,
}

/// The names of access modes as they are written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "AccessMode", rename_all = "kebab-case")]
enum AccessModeName {
    Writer,
    ReaderOnly,
    SingleWriter,
    MultiWriter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_by_later_versions() {
        let staged = Staged {
            path: "/staging".into(),
            access: Access::Mount { flags: vec!["noatime".into()], group: Some(7) },
            publications: vec![Publication { target: "/pod".into(), read_only: true, mode: AccessMode::SingleWriter }],
        };
        let text = r#"{"path":"/staging","access":{"mount":{"flags":["noatime"],"group":7}},"publications":[{"target":"/pod","read_only":true,"mode":"single-writer"}]}"#;
        assert_eq!(serde_json::to_string(&staged).expect("written"), text);
        assert_eq!(serde_json::from_str::<Staged>(text).expect("read"), staged);
    }
}
