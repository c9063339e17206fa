//! NodeGetVolumeHealth and NodeGetStorageHealth: what is the matter, seen from the node.
//!
//! The agent finds what is the matter with images, backups and the pool; here what only a staged volume can have is added:
//! a mount that is gone, a file system that no longer takes writes, errors that the kernel counted.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use tokio::time::timeout;
use varve_csi::status;
use varve_proto::csi::{
    StorageHealthErrorType, VolumeHealthErrorType, node_get_storage_health_response::StorageBackendHealth,
    volume_health::VolumeHealthEntry,
};
use varve_repository::{Repository, id::VolumeId};

use super::presence::{At, Presence, is_writable};
use crate::{
    agent::{Ailment, Severity},
    device::LoopDevice,
    filesystem::Mount,
    volume::{Access, Staged, Volume},
};

/// How long the repository has to answer before it counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(10);

/// Finds what is the matter with a volume where it is staged. Empty when it is well, or not staged.
pub(super) fn of_staged(volume: &Volume) -> Vec<Ailment> {
    let Some(staged) = volume.staged() else { return Vec::new() };
    let presence = match Presence::of(volume) {
        Ok(presence) => presence,
        Err(error) => return vec![inaccessible("StateUnknown", status::chain(&error))],
    };
    let Some(device) = presence.device else {
        let message = "the volume is staged and its device is gone: unstage it and stage it again";
        return vec![inaccessible("DeviceMissing", message.to_owned())];
    };
    let mut ailments = Vec::new();
    if let Access::Mount { flags, .. } = &staged.access {
        match presence.at(&staged.path) {
            Ok(At::Volume(mount)) => {
                let read_only = flags.iter().any(|flag| flag == "ro");
                ailments.extend(of_mount(&mount, read_only).or_else(|| of_errors(device)));
            }
            Ok(At::Nothing | At::Other) => {
                let message = format!("nothing of it is mounted at {} any more: stage it again", staged.path.display());
                ailments.push(inaccessible("MountMissing", message));
            }
            Err(error) => ailments.push(inaccessible("StateUnknown", status::chain(&error))),
        }
    }
    ailments.extend(of_publications(&staged, &presence));
    ailments
}

fn of_mount(mount: &Mount, read_only: bool) -> Option<Ailment> {
    // Sizes would be answered from memory by a file system that has shut down; names are not.
    if let Err(error) = fs::read_dir(&mount.target).and_then(|mut entries| entries.next().transpose()) {
        let message = format!("its file system does not answer ({error}): unstage it, so that it is checked");
        return Some(inaccessible("FilesystemFailed", message));
    }
    (!is_writable(mount) && !read_only).then(|| {
        let message = "its file system became read-only after an error: unstage it, so that it is checked";
        inaccessible("FilesystemReadOnly", message.to_owned())
    })
}

/// Reads how many errors ext4 counted; other file systems stop at the first.
fn of_errors(device: LoopDevice) -> Option<Ailment> {
    let counter = Path::new("/sys/fs/ext4").join(device.path().file_name()?).join("errors_count");
    let count: u64 = fs::read_to_string(counter).ok()?.trim().parse().ok()?;
    (count > 0).then(|| Ailment {
        severity: Severity::Degraded,
        reason: "FilesystemErrors",
        message: format!("its file system met {count} errors: unstage it, so that it is checked"),
    })
}

/// Finds publications that somebody else unmounted.
fn of_publications(staged: &Staged, presence: &Presence) -> Option<Ailment> {
    let missing: Vec<String> = staged
        .publications
        .iter()
        .filter(|publication| matches!(presence.at(&publication.target), Ok(At::Nothing | At::Other)))
        .map(|publication| publication.target.display().to_string())
        .collect();
    (!missing.is_empty()).then(|| {
        let message = format!("it is published and no longer mounted at {}: publish it again", missing.join(", "));
        inaccessible("PublicationMissing", message)
    })
}

fn inaccessible(reason: &'static str, message: String) -> Ailment {
    Ailment { severity: Severity::Inaccessible, reason, message }
}

/// Finds out whether the repository answers.
pub(super) async fn of_repository(repository: &Repository) -> Option<Ailment> {
    // Nobody's volume: that it is absent is an answer.
    let nobody = VolumeId::from_bytes([0; VolumeId::LEN]);
    let message = match timeout(PATIENCE, repository.volume(nobody)).await {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => status::chain(&error),
        Err(_) => format!("no answer within {} seconds", PATIENCE.as_secs()),
    };
    Some(Ailment {
        severity: Severity::Degraded,
        reason: "RepositoryUnreachable",
        message: format!("volumes work, and their snapshots wait until the repository answers again: {message}"),
    })
}

/// Joins what has the same severity and reason, as CSI wants it, keeping the order.
fn joined(ailments: Vec<Ailment>) -> Vec<Ailment> {
    let mut places = BTreeMap::new();
    let mut joined: Vec<Ailment> = Vec::new();
    for ailment in ailments {
        match places.get(&(ailment.severity, ailment.reason)) {
            Some(place) => {
                let first: &mut Ailment = &mut joined[*place];
                first.message = format!("{}; {}", first.message, ailment.message);
            }
            None => {
                places.insert((ailment.severity, ailment.reason), joined.len());
                joined.push(ailment);
            }
        }
    }
    joined
}

/// Gives ailments of a volume as CSI tells them.
pub(super) fn volume_entries(ailments: Vec<Ailment>) -> Vec<VolumeHealthEntry> {
    let entry = |ailment: Ailment| {
        let status = match ailment.severity {
            Severity::Degraded => VolumeHealthErrorType::Degraded,
            Severity::Inaccessible => VolumeHealthErrorType::Inaccessible,
            Severity::DataLoss => VolumeHealthErrorType::DataLoss,
        };
        VolumeHealthEntry { status: status.into(), reason: ailment.reason.into(), message: ailment.message }
    };
    joined(ailments).into_iter().map(entry).collect()
}

/// Gives ailments of the pool and of the repository as CSI tells them.
pub(super) fn storage_entries(ailments: Vec<Ailment>) -> Vec<StorageBackendHealth> {
    let entry = |ailment: Ailment| {
        let status = match ailment.severity {
            Severity::Degraded => StorageHealthErrorType::StorageDegraded,
            Severity::Inaccessible | Severity::DataLoss => StorageHealthErrorType::StorageUnreachable,
        };
        StorageBackendHealth {
            status: status.into(),
            reason: ailment.reason.into(),
            message: ailment.message,
            volume_capability: None,
        }
    };
    joined(ailments).into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ailment(severity: Severity, reason: &'static str, message: &str) -> Ailment {
        Ailment { severity, reason, message: message.to_owned() }
    }

    #[test]
    fn no_status_and_reason_are_told_twice() {
        let entries = volume_entries(vec![
            ailment(Severity::Degraded, "BackupFailed", "snap-1"),
            ailment(Severity::Inaccessible, "MountMissing", "gone"),
            ailment(Severity::Degraded, "BackupFailed", "snap-2"),
        ]);
        let told: Vec<_> = entries.iter().map(|entry| (entry.status, &*entry.reason, &*entry.message)).collect();
        assert_eq!(told, [(1, "BackupFailed", "snap-1; snap-2"), (2, "MountMissing", "gone")]);
    }

    #[test]
    fn what_cannot_be_reached_is_told_apart_from_what_is_worse_than_it_should_be() {
        let entries = storage_entries(vec![
            ailment(Severity::Degraded, "PoolNearlyFull", ""),
            ailment(Severity::Inaccessible, "PoolUnreadable", ""),
        ]);
        assert_eq!(entries.iter().map(|entry| entry.status).collect::<Vec<_>>(), [1, 2]);
    }
}
