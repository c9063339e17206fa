//! What can go wrong with a pool.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A failed operation on a pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Another process uses the pool.
    #[error("the pool {pool:?} is in use by another process")]
    InUse {
        /// Folder or image of the pool.
        pool: PathBuf,
    },
    /// There is nothing at the location, or nothing of the right sort.
    #[error("the pool {pool:?} cannot be used: {reason}")]
    Unusable {
        /// Folder or image of the pool.
        pool: PathBuf,
        /// What was found, and what would be right.
        reason: String,
    },
    /// A system call failed.
    #[error("{action} {path:?}")]
    System {
        /// What was being done, as a verb: "open", "attach".
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Making, mounting or unmounting the pool's file system failed.
    #[error(transparent)]
    Filesystem(#[from] crate::filesystem::Error),
}

/// Kinds of [`PoolError`], for those who decide by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolErrorKind {
    /// Another process uses it.
    InUse,
    /// The location is not a pool and cannot become one.
    Unusable,
    /// A program is missing or failed, or the system did.
    System,
}

impl PoolError {
    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> PoolErrorKind {
        match self {
            Self::InUse { .. } => PoolErrorKind::InUse,
            Self::Unusable { .. } => PoolErrorKind::Unusable,
            Self::System { .. } | Self::Filesystem(_) => PoolErrorKind::System,
        }
    }
}

impl PoolError {
    /// Makes, for `map_err`, the error of a system call.
    pub(super) fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, path: path.to_owned(), source }
    }

    /// Makes the error that refuses a location.
    pub(super) fn unusable(pool: &Path, reason: impl Into<String>) -> Self {
        Self::Unusable { pool: pool.to_owned(), reason: reason.into() }
    }
}
