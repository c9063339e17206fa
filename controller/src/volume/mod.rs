//! Volumes: their life from the claim of a name to the removal of the record.
//!
//! # Crash consistency
//! A volume is made in three steps: the claim of its name in the repository, the image on the node, the record marked
//! complete. It is deleted in the opposite order, image and then record. So there is never an image without a record,
//! and a creation that broke off is taken up by its retry, or found by a listing and deleted.

mod capacity;
mod create;
mod delete;
mod expand;
pub(crate) mod health;
mod list;
mod modify;
mod order;
mod publish;
mod source;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::HashMap;

use varve_csi::capacity::wire;
use varve_proto::csi::{self, volume_content_source};
use varve_repository::record::volume::{Source, VolumeRecord};

use crate::topology;

/// Key of the volume context that names the incarnation; the same for a volume's whole life, another for a later volume
/// of the same name.
const INCARNATION: &str = "varve.io/incarnation";

/// The key that calls on a volume are serialised by.
fn exclusively(id: varve_repository::id::VolumeId) -> String {
    format!("volume {id}")
}

/// Describes a volume as CSI does.
fn described(record: &VolumeRecord) -> csi::Volume {
    csi::Volume {
        capacity_bytes: wire(record.capacity_bytes),
        volume_id: record.id.to_string(),
        volume_context: context(record),
        content_source: record.source.map(content_source),
        accessible_topology: vec![topology::of(&record.home_node)],
    }
}

fn context(record: &VolumeRecord) -> HashMap<String, String> {
    [(INCARNATION.to_owned(), record.incarnation.to_string())].into()
}

fn content_source(source: Source) -> csi::VolumeContentSource {
    use volume_content_source::{SnapshotSource, Type, VolumeSource};
    let source = match source {
        Source::Snapshot(id) => Type::Snapshot(SnapshotSource { snapshot_id: id.to_string() }),
        Source::Volume(id) => Type::Volume(VolumeSource { volume_id: id.to_string() }),
    };
    csi::VolumeContentSource { r#type: Some(source) }
}
