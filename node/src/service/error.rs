//! What can go wrong with a call of the kubelet, and the status codes that CSI prescribes for it.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
};

use tonic::{Code, Status};
use varve_csi::status;
use varve_repository::{id::VolumeId, record::volume::Presentation};

use crate::filesystem;

/// The result of everything that the service does.
pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no such volume, as far as this node knows.
    #[error("volume {0} has no image on this node")]
    NoVolume(String),
    /// The volume is there, but not at the path that was given.
    #[error("volume {id} is neither staged nor published at {path:?}")]
    NotThere { id: VolumeId, path: PathBuf },
    /// The volume was to be published and is not staged there.
    #[error("volume {id} is not staged at {path:?}: call NodeStageVolume first")]
    NotStaged { id: VolumeId, path: PathBuf },
    /// The volume is staged at another path.
    #[error("volume {id} is staged at {path:?}: unstage it there first")]
    StagedElsewhere { id: VolumeId, path: PathBuf },
    /// The volume is staged at that path, in another way.
    #[error("volume {id} is staged at {path:?} already, with other mount flags")]
    StagedOtherwise { id: VolumeId, path: PathBuf },
    /// The volume is published at that path, in another way.
    #[error("volume {id} is published at {path:?} already, {how}")]
    PublishedOtherwise { id: VolumeId, path: PathBuf, how: &'static str },
    /// The volume is published at another path, and may not be at two.
    #[error("volume {id} is published at {path:?}: {reason}")]
    PublishedElsewhere { id: VolumeId, path: PathBuf, reason: &'static str },
    /// The volume is to be unstaged and is still in use.
    #[error("volume {id} is still mounted at {path:?}: unpublish it there first")]
    StillPublished { id: VolumeId, path: PathBuf },
    /// The capability is not one that the volume has.
    #[error("volume {id} is presented as {}: {reason}", presentation.as_str())]
    Capability { id: VolumeId, presentation: Presentation, reason: &'static str },
    /// As the failure within, in a call for which CSI wants another code.
    #[error(transparent)]
    Invalid(Box<Error>),
    /// Flags of a publication that staging would have had to apply.
    #[error("volume {id} is staged without mount flag {flag:?}, which a publication cannot add")]
    Flag { id: VolumeId, flag: String },
    /// The kernel refused the caller's mount flags.
    #[error("the kernel refuses to mount with these mount_flags: one of them is no option of {filesystem}")]
    Flags { filesystem: filesystem::Filesystem, source: filesystem::Error },
    /// A path that the caller answers for is not as CSI wants it.
    #[error("{path:?} {what}")]
    Path { path: PathBuf, what: &'static str },
    /// The file system is not the one that the volume is presented with.
    #[error("volume {id} is presented as {} and holds {content:?}: it is not mounted", presentation.as_str())]
    Content { id: VolumeId, presentation: Presentation, content: filesystem::Content },
    /// The image is not there any more.
    #[error("the image {0:?} is gone: restore a snapshot of the volume")]
    ImageLost(PathBuf),
    /// The file system does not take writes, and so cannot grow.
    #[error("the file system of volume {0} is read-only and cannot grow")]
    ReadOnly(VolumeId),
    /// The size asked for is not the size that there is.
    #[error("volume {id} has {bytes} bytes, and {wanted}: call ControllerExpandVolume first")]
    Size { id: VolumeId, bytes: u64, wanted: String },
    /// A device is still open.
    #[error("{device:?} of volume {id} is still open somewhere")]
    DeviceBusy { id: VolumeId, device: PathBuf, source: io::Error },
    /// The file system's side failed.
    #[error(transparent)]
    Filesystem(#[from] filesystem::Error),
    /// The system refused.
    #[error("{action} {path:?}")]
    System { action: &'static str, path: PathBuf, source: io::Error },
    /// A bug.
    #[error("a task failed: {0}")]
    Panicked(String),
}

impl Error {
    pub(super) fn system(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::System { action, path, source }
    }

    fn code(&self) -> Code {
        match self {
            Self::NoVolume(_) | Self::NotThere { .. } => Code::NotFound,
            Self::StagedOtherwise { .. } | Self::PublishedOtherwise { .. } => Code::AlreadyExists,
            Self::NotStaged { .. }
            | Self::StagedElsewhere { .. }
            | Self::PublishedElsewhere { .. }
            | Self::StillPublished { .. }
            | Self::Capability { .. }
            | Self::Flag { .. }
            | Self::Path { .. }
            | Self::Content { .. }
            | Self::ReadOnly(_)
            | Self::DeviceBusy { .. } => Code::FailedPrecondition,
            Self::Flags { .. } | Self::Invalid(_) => Code::InvalidArgument,
            Self::ImageLost(_) => Code::DataLoss,
            Self::Size { .. } => Code::OutOfRange,
            Self::Filesystem(error) => of_filesystem(error),
            Self::System { source, .. } => of_system(source),
            Self::Panicked(_) => Code::Internal,
        }
    }
}

fn of_filesystem(error: &filesystem::Error) -> Code {
    use filesystem::Error as E;
    match error {
        E::InvalidOption { .. } => Code::InvalidArgument,
        E::Damaged { .. } => Code::DataLoss,
        E::NotBlank { .. } | E::Unrecognised { .. } | E::Busy { .. } | E::CannotGrow { .. } | E::ToolMissing { .. } => {
            Code::FailedPrecondition
        }
        E::System { source, .. } => of_system(source),
        E::ToolFailed { .. } | E::ToolTimedOut { .. } => Code::Internal,
    }
}

fn of_system(error: &io::Error) -> Code {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        status::of(error.code(), &error)
    }
}
