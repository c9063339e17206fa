//! What a new volume is filled with: found, and described as far as its size and place depend on it.

use tonic::Status;
use varve_csi::status;
use varve_proto::csi::{self, volume_content_source};
use varve_repository::record::volume::{Presentation, Source};

use crate::{
    Controller, catalog,
    parameters::Durability,
    snapshot::{Found, Snapshot, Stage},
};

/// What the source says of the new volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// What the source is presented as, where that is known.
    pub(super) presentation: Option<Presentation>,
    /// The source's size in bytes: the least that the new volume may have.
    pub(super) bytes: u64,
    /// The only node that can make the new volume.
    pub(super) bound_to: Option<String>,
    /// The node that can make it fastest.
    pub(super) near: Option<String>,
}

/// Reads the source of a request.
///
/// # Errors
/// `INVALID_ARGUMENT` where it is there and names nothing, `NOT_FOUND` where what it names cannot exist.
pub(super) fn parse(source: Option<&csi::VolumeContentSource>) -> Result<Option<Source>, Status> {
    let Some(source) = source else { return Ok(None) };
    match &source.r#type {
        None => Err(status::missing("volume_content_source.type")),
        Some(volume_content_source::Type::Snapshot(snapshot)) => {
            let field = "volume_content_source.snapshot.snapshot_id";
            Ok(Some(Source::Snapshot(catalog::snapshot_id(field, required(field, &snapshot.snapshot_id)?)?)))
        }
        Some(volume_content_source::Type::Volume(volume)) => {
            let field = "volume_content_source.volume.volume_id";
            Ok(Some(Source::Volume(catalog::volume_id(field, required(field, &volume.volume_id)?)?)))
        }
    }
}

fn required<'a>(field: &str, text: &'a str) -> Result<&'a str, Status> {
    varve_csi::name::required(field, text)
}

impl Controller {
    /// Finds a source and what it says of the new volume.
    ///
    /// # Errors
    /// `NOT_FOUND`; `UNAVAILABLE` where the source is still being made, or may be on a node that does not answer;
    /// `FAILED_PRECONDITION` where it failed.
    pub(super) async fn origin(&self, source: Source) -> Result<Origin, Status> {
        match source {
            Source::Volume(id) => {
                let record = catalog::volume(self.repository(), id).await?.value;
                if !record.complete {
                    return Err(Status::unavailable(format!("the source, volume {id}, is still being created")));
                }
                Ok(Origin {
                    presentation: Some(record.presentation),
                    bytes: record.capacity_bytes,
                    bound_to: Some(record.home_node),
                    near: None,
                })
            }
            Source::Snapshot(id) => match self.find_snapshot(id).await? {
                Found::Root(root) => Ok(Origin {
                    presentation: Some(root.description.presentation),
                    bytes: root.description.capacity_bytes,
                    bound_to: None,
                    near: Some(root.description.node),
                }),
                Found::Cut(cut) => self.origin_of_cut(cut).await,
                Found::Nowhere => Err(catalog::no_snapshot(id)),
                Found::Unsure(status) => Err(status),
            },
        }
    }

    /// A cut is a source once it is ready, which without a root only one that is kept on its node can be.
    async fn origin_of_cut(&self, cut: Snapshot) -> Result<Origin, Status> {
        match &cut.stage {
            Stage::Ready => {}
            Stage::Offloading { done, total } => {
                return Err(Status::unavailable(format!(
                    "the source, snapshot {}, is not ready to use: {done} of {total} bytes are offloaded",
                    cut.id
                )));
            }
            Stage::Failed(_) => return Err(cut.failure()),
        }
        // The agent refuses a presentation that does not fit, should the volume's record be gone by now.
        let record = catalog::stored(self.repository().volume(cut.volume).await)?;
        let presentation = record.map(|record| record.value.presentation);
        let node = Some(cut.node);
        let (bound_to, near) = match cut.durability {
            Durability::Node => (node, None),
            Durability::Bucket => (None, node),
        };
        Ok(Origin { presentation, bytes: cut.bytes, bound_to, near })
    }
}
