//! What can go wrong with a repository, and what a caller can do about it.

use std::io;

use crate::{
    crypto::SlotId,
    id::{SnapshotId, VolumeId},
};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is: what a caller may decide on. The CSI edge maps each kind to one status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The store did not answer, throttled, or broke off: the same call may succeed later.
    Unavailable,
    /// The store refused the credentials or lacks a permission.
    Denied,
    /// The store has no room for more.
    Full,
    /// The location, key or argument given is not usable as it is.
    Invalid,
    /// There is no repository here, or no such record.
    NotFound,
    /// Another writer got there first, or the record changed since it was read.
    Conflict,
    /// The snapshot was deleted or its offload cancelled.
    Cancelled,
    /// The repository is of a newer format, or the store lacks what a repository needs.
    Unsupported,
    /// The master key opens no key slot.
    WrongKey,
    /// Bytes read are not the bytes written.
    Corrupt,
    /// Reading the image or writing the target failed.
    Local,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Unavailable,
        Self::Denied,
        Self::Full,
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Cancelled,
        Self::Unsupported,
        Self::WrongKey,
        Self::Corrupt,
        Self::Local,
    ];

    /// Its name, in one word for machines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Cancelled => "cancelled",
            Self::Unsupported => "unsupported",
            Self::WrongKey => "wrong_key",
            Self::Corrupt => "corrupt",
            Self::Local => "local",
        }
    }
}

/// A failure of the repository, with what it was about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The location's text cannot be used.
    #[error("repository {url:?} is not usable: {reason}")]
    Location {
        /// The text given, without credentials.
        url: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// There is no repository at the location.
    #[error("no repository at {url}: create one with `varve repository init`, or check the spelling")]
    NoRepository {
        /// The location.
        url: String,
    },
    /// There is one already, made with another key.
    #[error("{url} already holds a repository ({uuid})")]
    AlreadyInitialised {
        /// The location.
        url: String,
        /// The uuid of the one that is there.
        uuid: uuid::Uuid,
    },
    /// The key given opens none of the key slots.
    #[error(
        "the master key does not open this repository: none of its {} key slots is sealed with it ({}); without the key of \
         one of them nothing in it can be read or restored",
        slots.len(),
        slots.join(", ")
    )]
    WrongKey {
        /// The slots that were tried, by id and label.
        slots: Vec<String>,
    },
    /// There is no key slot of that id.
    #[error("no key slot {slot} in this repository: `varve repository key list` names those that are there")]
    NoKeySlot {
        /// The id.
        slot: SlotId,
    },
    /// Without that key slot nobody might open the repository any more.
    #[error("key slot {slot} is kept: {reason}")]
    LockOut {
        /// The slot that was to be removed.
        slot: SlotId,
        /// Why it is needed, and what would be right.
        reason: &'static str,
    },
    /// The master key's text is not a key.
    #[error("the master key from {origin} is not usable: {reason}")]
    MasterKey {
        /// A file's path or an environment variable's name.
        origin: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The format is of a later version.
    #[error("{object} has format version {found}; this program reads up to version {supported}: use a newer varve")]
    FutureFormat {
        /// The object's key in the bucket.
        object: String,
        /// The version it has.
        found: u16,
        /// The newest version that this program reads.
        supported: u16,
    },
    /// The store cannot do what the format relies on.
    #[error("the store at {url} cannot hold a repository: {reason}")]
    UnfitStore {
        /// The location.
        url: String,
        /// Which guarantee is missing, and how that was seen.
        reason: String,
    },
    /// An object is missing, cut short, or not what its reference says.
    #[error("{object} is damaged: {reason}")]
    Corrupt {
        /// The object's key in the bucket.
        object: String,
        /// What does not fit.
        reason: String,
    },
    /// A record has outgrown what readers accept.
    #[error("{object} would have {bytes} bytes, and a record has at most {limit}")]
    RecordTooLarge {
        /// The object's key in the bucket.
        object: String,
        /// How many bytes it would have.
        bytes: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The file that is to say what a check looked at already is of no use for it.
    #[error("the state of a check in {path} cannot be used: {reason}; expected one that this check wrote, or no file")]
    CheckState {
        /// The file's path.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// A record changed between being read and being written.
    #[error("{object} was changed by another writer")]
    Conflict {
        /// The object's key in the bucket.
        object: String,
    },
    /// The snapshot has a tombstone.
    #[error("snapshot {snapshot} was deleted or cancelled: {reason}")]
    Cancelled {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Why, as its tombstone says.
        reason: String,
    },
    /// The snapshot that an offload builds upon is no longer a root.
    #[error("base snapshot {base} of {snapshot} is gone")]
    BaseGone {
        /// The snapshot being written.
        snapshot: SnapshotId,
        /// The one it was to build upon.
        base: SnapshotId,
    },
    /// Blocks held to be unchanged differ from the base's: the tracking erred.
    #[error("block {block} of volume {volume} was held to be unchanged and is not: offload it in full")]
    Tracking {
        /// The volume.
        volume: VolumeId,
        /// The position of the first such block, in blocks.
        block: u64,
    },
    /// There is no such snapshot.
    #[error("no snapshot {snapshot} in this repository")]
    NoSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// The image could not be read, or the target not written.
    #[error("{what}")]
    Local {
        /// What was being done.
        what: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The work was cancelled by its owner, and nothing was decided: it can be taken up again.
    #[error("interrupted")]
    Interrupted,
    /// The store failed.
    #[error("{operation} {object} failed")]
    Store {
        /// What was being done: `reading`, `writing`, `listing`, `deleting`.
        operation: &'static str,
        /// The object's key in the bucket.
        object: String,
        /// What the store said, sorted.
        kind: ErrorKind,
        /// What the store said.
        #[source]
        source: crate::store::Cause,
    },
}

impl Error {
    /// Sorts the failure by what a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Location { .. }
            | Self::MasterKey { .. }
            | Self::CheckState { .. }
            | Self::RecordTooLarge { .. }
            | Self::LockOut { .. } => ErrorKind::Invalid,
            Self::NoRepository { .. } | Self::NoSnapshot { .. } | Self::NoKeySlot { .. } => ErrorKind::NotFound,
            Self::AlreadyInitialised { .. } | Self::Conflict { .. } | Self::BaseGone { .. } | Self::Tracking { .. } => {
                ErrorKind::Conflict
            }
            Self::WrongKey { .. } => ErrorKind::WrongKey,
            Self::FutureFormat { .. } | Self::UnfitStore { .. } => ErrorKind::Unsupported,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            Self::Local { .. } => ErrorKind::Local,
            Self::Interrupted => ErrorKind::Unavailable,
            Self::Store { kind, .. } => *kind,
        }
    }

    /// Tells whether the same call may succeed later with nothing changed by a person.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind() == ErrorKind::Unavailable
    }
}
