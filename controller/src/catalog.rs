//! The repository's records, as requests ask for them: ids as text, failures as status codes.

use tonic::Status;
use varve_csi::status;
use varve_repository::{
    Error, ErrorKind, Repository, Versioned,
    id::{SnapshotId, VolumeId},
    record::volume::VolumeRecord,
};

/// Times that a record's update is tried again when another writer was faster.
const UPDATES: usize = 4;

/// Turns a failure of the repository into a status.
pub(crate) fn stored<T>(result: Result<T, Error>) -> Result<T, Status> {
    result.map_err(|error| status::repository(&error))
}

/// Reads the id of a volume; a text that is no id names a volume that does not exist.
///
/// # Errors
/// `NOT_FOUND`.
pub(crate) fn volume_id(field: &str, text: &str) -> Result<VolumeId, Status> {
    text.parse().map_err(|error| Status::not_found(format!("{field}: {error}: there is no such volume")))
}

/// Reads the id of a snapshot; a text that is no id names a snapshot that does not exist.
///
/// # Errors
/// `NOT_FOUND`.
pub(crate) fn snapshot_id(field: &str, text: &str) -> Result<SnapshotId, Status> {
    text.parse().map_err(|error| Status::not_found(format!("{field}: {error}: there is no such snapshot")))
}

/// Says that a volume does not exist.
pub(crate) fn no_volume(id: VolumeId) -> Status {
    Status::not_found(format!("there is no volume {id}"))
}

/// Says that a snapshot does not exist.
pub(crate) fn no_snapshot(id: SnapshotId) -> Status {
    Status::not_found(format!("there is no snapshot {id}"))
}

/// Reads the record of a volume that has to exist.
///
/// # Errors
/// `NOT_FOUND`, or the store's.
pub(crate) async fn volume(repository: &Repository, id: VolumeId) -> Result<Versioned<VolumeRecord>, Status> {
    stored(repository.volume(id).await)?.ok_or_else(|| no_volume(id))
}

/// Changes the record of a volume by `change`, which may be called again on a record that another writer changed
/// meanwhile, and answers `None` where nothing is left to change.
///
/// # Errors
/// What `change` answers, `NOT_FOUND`, `ABORTED` where others are faster again and again, or the store's.
pub(crate) async fn update_volume(
    repository: &Repository,
    id: VolumeId,
    change: impl Fn(&VolumeRecord) -> Result<Option<VolumeRecord>, Status>,
) -> Result<VolumeRecord, Status> {
    let mut last = None;
    for _ in 0..UPDATES {
        let current = volume(repository, id).await?;
        let Some(changed) = change(&current.value)? else { return Ok(current.value) };
        match repository.update_volume(current, changed).await {
            Ok(updated) => return Ok(updated.value),
            Err(error) if error.kind() == ErrorKind::Conflict => last = Some(error),
            Err(error) => return Err(status::repository(&error)),
        }
    }
    Err(last.map_or_else(|| Status::aborted(format!("volume {id} keeps changing")), |error| status::repository(&error)))
}
