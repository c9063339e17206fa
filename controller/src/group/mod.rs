//! Group snapshots: snapshots of several volumes, cut at one instant.
//!
//! A group has no record. Its id follows from its name and a generation, each member's id from the group's and the
//! volume's, and every cut and root names its group: the group is what names it.
//!
//! All volumes of a group have to be on one node, which holds the writers of all of them at once. Groups across nodes are
//! refused: no one instant could be promised.

mod create;
mod delete;
mod get;
#[cfg(test)]
mod tests;

use tonic::Status;
use varve_proto::csi;
use varve_repository::id::GroupId;

use crate::snapshot::Snapshot;

/// The key that calls on a group are serialised by.
fn exclusively(id: GroupId) -> String {
    format!("group snapshot {id}")
}

/// Describes a group as CSI does.
fn described(id: GroupId, members: &[Snapshot]) -> csi::VolumeGroupSnapshot {
    let last = members.iter().map(|member| member.created_at).max_by_key(|time| (time.seconds, time.nanos));
    csi::VolumeGroupSnapshot {
        group_snapshot_id: id.to_string(),
        snapshots: members.iter().map(Snapshot::described).collect(),
        creation_time: last,
        ready_to_use: members.iter().all(Snapshot::is_ready),
    }
}

/// Says that the list of members given is not that of the group.
fn mismatch(group: GroupId, what: &str) -> Status {
    Status::invalid_argument(format!("snapshot_ids do not match group snapshot {group}: {what}"))
}
