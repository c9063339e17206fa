//! What can go wrong with a volume's file system.

use std::{io, path::PathBuf, time::Duration};

use varve_csi::capability::Filesystem;

use super::Content;

/// The outcome of an operation on a volume's file system.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation on a volume's file system, or on a pool's when it is made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{action} {path:?}")]
    System {
        /// What was being done, as a verb: "mount", "open".
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program that is needed is not installed.
    #[error("{tool} is not installed: apt-get install -y {package}")]
    ToolMissing {
        /// The program.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program failed.
    #[error("{tool} failed ({status}): {stderr}")]
    ToolFailed {
        /// The program.
        tool: &'static str,
        /// Its exit status, as text.
        status: String,
        /// The end of what it wrote on its standard error.
        stderr: String,
    },
    /// A program took too long and was killed.
    #[error("{tool} did not end within {limit:?} and was killed")]
    ToolTimedOut {
        /// The program.
        tool: &'static str,
        /// How long it was given.
        limit: Duration,
    },
    /// Something is on the device that was to be formatted.
    #[error("{device:?} is not blank, it holds {content:?}: it is not formatted")]
    NotBlank {
        /// The device.
        device: PathBuf,
        /// What is on it.
        content: Content,
    },
    /// The device's first MiB is neither zero nor anything known.
    #[error("{device:?} holds data of an unknown kind: it is neither formatted nor mounted")]
    Unrecognised {
        /// The device.
        device: PathBuf,
    },
    /// The file system is damaged beyond what is repaired without a person.
    #[error("the {filesystem:?} file system on {device:?} is damaged: {report}")]
    Damaged {
        /// The device.
        device: PathBuf,
        /// Its file system.
        filesystem: Filesystem,
        /// What the checker said.
        report: String,
    },
    /// The kernel does not let this process grow a mounted ext4 (that takes `CAP_SYS_RESOURCE`), and it cannot be unmounted.
    #[error(
        "the ext4 on {device:?} is in use, and growing it then takes the capability SYS_RESOURCE, \
         which this process does not have: stop what uses it, or give the capability"
    )]
    CannotGrow {
        /// The device.
        device: PathBuf,
    },
    /// Something still uses a mount.
    #[error("{target:?} is in use")]
    Busy {
        /// The mount point.
        target: PathBuf,
    },
    /// A mount option that is malformed or that the driver owns.
    #[error("mount option {option:?}: {reason}")]
    InvalidOption {
        /// The option.
        option: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}
