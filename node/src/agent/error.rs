//! What can go wrong with a call to the agent, and the one place where that becomes a status code.

use std::{io, path::PathBuf};

use tonic::{Code, Status};
use uuid::Uuid;
use varve_csi::status;
use varve_repository::{
    ErrorKind,
    id::{SnapshotId, VolumeId},
};

use crate::{cut::making, volume::NoRoom};

/// The result of everything that the agent is asked.
pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The volume has no image here.
    #[error("volume {0} has no image on this node")]
    NoVolume(VolumeId),
    /// The snapshot is neither here nor in the repository.
    #[error("snapshot {0} is neither on this node nor in the repository")]
    NoSnapshot(SnapshotId),
    /// The image that is here belongs to a volume of the same name that should be gone.
    #[error(
        "volume {id} has an image of incarnation {found} on this node, and {wanted} was asked for: delete that first"
    )]
    OtherIncarnation {
        /// The volume.
        id: VolumeId,
        /// What is here.
        found: Uuid,
        /// What was asked for.
        wanted: Uuid,
    },
    /// The image that is here was made from something else.
    #[error("volume {id} has an image on this node already, with another {what}")]
    Different {
        /// The volume.
        id: VolumeId,
        /// In what it differs.
        what: &'static str,
    },
    /// The snapshot's id belongs to another volume's cut.
    #[error("snapshot {id} is of volume {found}, not of {wanted}")]
    OtherVolume {
        /// The snapshot.
        id: SnapshotId,
        /// Whose it is.
        found: VolumeId,
        /// Whose it should be.
        wanted: VolumeId,
    },
    /// Some members of a group exist, and some do not: they cannot be of one instant any more.
    #[error("only some snapshots of the group exist ({missing} does not): delete the group snapshot and take it again")]
    PartOfGroup {
        /// One that does not exist.
        missing: SnapshotId,
    },
    /// The snapshot was deleted while it was being made.
    #[error("snapshot {0} was deleted")]
    Deleted(SnapshotId),
    /// The volume is in use.
    #[error("volume {0} is staged: unstage it first")]
    Staged(VolumeId),
    /// Another call works on the same thing.
    #[error("another call is working on {0}: try again")]
    Busy(String),
    /// The pool has no room.
    #[error("volume {id} is not admitted")]
    Room {
        /// The volume.
        id: VolumeId,
        /// Whether it is there already and was to grow.
        growing: bool,
        /// Why not.
        #[source]
        source: NoRoom,
    },
    /// Too many cuts of the volume wait.
    #[error(
        "{waiting} snapshots of volume {volume} wait to be offloaded and at most {most} may (waiting_cuts_per_volume): try \
         again when one of them is ready, or delete some"
    )]
    Backlog {
        /// The volume.
        volume: VolumeId,
        /// How many wait.
        waiting: usize,
        /// How many may.
        most: usize,
    },
    /// Too many cuts of all volumes wait.
    #[error(
        "{waiting} snapshots on this node wait to be offloaded and at most {most} may (waiting_cuts): try again when some \
         are ready, or delete some"
    )]
    NodeBacklog {
        /// How many wait, with those of this call that were let through.
        waiting: usize,
        /// How many may.
        most: usize,
    },
    /// Hardly anything of the pool is free.
    #[error(
        "the pool has {free} of {capacity} bytes free and at least {mark} are needed for this: delete volumes, or snapshots that \
         are kept on the node; let offloads end; or grow the pool"
    )]
    Scarce {
        /// What is free, in bytes.
        free: u64,
        /// All of it, in bytes.
        capacity: u64,
        /// What has to be free, in bytes.
        mark: u64,
    },
    /// A volume is to be filled with more than it holds.
    #[error("a volume of {bytes} bytes cannot hold its source of {source_bytes} bytes")]
    Smaller {
        /// What was asked for.
        bytes: u64,
        /// What the source has.
        source_bytes: u64,
    },
    /// Nothing was cut.
    #[error(transparent)]
    Cut(#[from] making::Error),
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] varve_repository::Error),
    /// The system refused.
    #[error("{action} {path:?}")]
    System {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The image was deleted while it was being made.
    #[error("the making of volume {0} was cancelled")]
    Cancelled(VolumeId),
    /// The agent is being stopped.
    #[error("the node is stopping: try again")]
    Stopping,
    /// A bug.
    #[error("a task failed: {0}")]
    Panicked(String),
}

impl Error {
    pub(super) fn system(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::System { action, path, source }
    }

    /// The status code that the CSI call behind is to answer with.
    fn code(&self) -> Code {
        match self {
            Self::NoVolume(_) | Self::NoSnapshot(_) => Code::NotFound,
            Self::OtherIncarnation { .. } | Self::Different { .. } | Self::OtherVolume { .. } => Code::AlreadyExists,
            Self::PartOfGroup { .. } | Self::Staged(_) => Code::FailedPrecondition,
            Self::Deleted(_) | Self::Busy(_) | Self::Cancelled(_) => Code::Aborted,
            Self::Room { growing: true, source: NoRoom::LargerThanPool { .. }, .. } | Self::Smaller { .. } => {
                Code::OutOfRange
            }
            // Nothing was cut, so the call has failed: `ABORTED` would say that it goes on.
            Self::Room { .. } | Self::Scarce { .. } | Self::Backlog { .. } | Self::NodeBacklog { .. } => {
                Code::ResourceExhausted
            }
            Self::Cut(making::Error::Freeze(_)) => Code::Aborted,
            Self::Cut(making::Error::System { source, .. }) | Self::System { source, .. } => of_system(source),
            Self::Repository(error) if error.kind() == ErrorKind::Local => {
                std::error::Error::source(error).and_then(|e| e.downcast_ref()).map_or(Code::Internal, of_system)
            }
            Self::Repository(error) => status::repository(error).code(),
            Self::Stopping => Code::Unavailable,
            Self::Panicked(_) => Code::Internal,
        }
    }
}

fn of_system(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        Self::new(error.code(), status::chain(error))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}
