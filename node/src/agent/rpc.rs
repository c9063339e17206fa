//! The agent API over gRPC: requests are checked and become domain types, and outcomes become messages.

use std::{collections::HashSet, hash::Hash, num::NonZeroU32, str::FromStr, time::Duration};

use tonic::{Request, Response, Status};
use varve_csi::{name, status};
use varve_proto::agent::{self as proto, agent_server};
use varve_repository::{
    block::{BLOCK_SIZE, Blocks},
    record::volume::{OffloadParameters, Presentation, Source},
};

use super::{
    Agent,
    image::{Found, Wanted},
    snapshot::{Durability, FoundCut, WantedCut, WantedCuts},
};
use crate::{cut, pool::Kind};

/// The strongest compression that zstd has without its extremes.
const STRONGEST: u32 = 19;

/// The largest share of a node's offloads.
const HEAVIEST: u8 = 100;

#[tonic::async_trait]
impl agent_server::Agent for Agent {
    async fn create_image(
        &self,
        request: Request<proto::CreateImageRequest>,
    ) -> Result<Response<proto::CreateImageResponse>, Status> {
        let wanted = Wanted::try_from(request.into_inner())?;
        Agent::create_image(self, wanted).await.map_err(|error| Status::from(&*error))?;
        Ok(Response::new(proto::CreateImageResponse {}))
    }

    async fn delete_image(
        &self,
        request: Request<proto::DeleteImageRequest>,
    ) -> Result<Response<proto::DeleteImageResponse>, Status> {
        let id = parse("volume_id", &request.into_inner().volume_id)?;
        Agent::delete_image(self, id).await?;
        Ok(Response::new(proto::DeleteImageResponse {}))
    }

    async fn expand_image(
        &self,
        request: Request<proto::ExpandImageRequest>,
    ) -> Result<Response<proto::ExpandImageResponse>, Status> {
        let request = request.into_inner();
        let id = parse("volume_id", &request.volume_id)?;
        let grown = Agent::expand_image(self, id, capacity(request.capacity_bytes)?).await?;
        Ok(Response::new(proto::ExpandImageResponse { capacity_bytes: grown.capacity_bytes, staged: grown.staged }))
    }

    async fn modify_image(
        &self,
        request: Request<proto::ModifyImageRequest>,
    ) -> Result<Response<proto::ModifyImageResponse>, Status> {
        let request = request.into_inner();
        let id = parse("volume_id", &request.volume_id)?;
        Agent::modify_image(self, id, offload(request.offload)?).await?;
        Ok(Response::new(proto::ModifyImageResponse {}))
    }

    async fn list_images(
        &self,
        request: Request<proto::ListImagesRequest>,
    ) -> Result<Response<proto::ListImagesResponse>, Status> {
        let id = optional("volume_id", &request.into_inner().volume_id)?;
        let images = Agent::list_images(self, id).await?.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ListImagesResponse { images }))
    }

    async fn create_cuts(
        &self,
        request: Request<proto::CreateCutsRequest>,
    ) -> Result<Response<proto::CreateCutsResponse>, Status> {
        let wanted = WantedCuts::try_from(request.into_inner())?;
        let cuts = Agent::create_cuts(self, wanted).await?.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::CreateCutsResponse { cuts }))
    }

    async fn list_cuts(
        &self,
        request: Request<proto::ListCutsRequest>,
    ) -> Result<Response<proto::ListCutsResponse>, Status> {
        let request = request.into_inner();
        let cuts = Agent::list_cuts(
            self,
            optional("snapshot_id", &request.snapshot_id)?,
            optional("volume_id", &request.volume_id)?,
            optional("group_id", &request.group_id)?,
        )
        .await?;
        Ok(Response::new(proto::ListCutsResponse { cuts: cuts.into_iter().map(Into::into).collect() }))
    }

    async fn delete_cut(
        &self,
        request: Request<proto::DeleteCutRequest>,
    ) -> Result<Response<proto::DeleteCutResponse>, Status> {
        let id = parse("snapshot_id", &request.into_inner().snapshot_id)?;
        Agent::delete_cut(self, id).await?;
        Ok(Response::new(proto::DeleteCutResponse {}))
    }

    async fn get_pool(&self, _: Request<proto::GetPoolRequest>) -> Result<Response<proto::GetPoolResponse>, Status> {
        let _token = self.enter()?;
        let response = self
            .block(|agent| {
                // A pool that cannot be measured is among the ailments, and has nothing to give.
                let usage = agent.pool().usage().unwrap_or_default();
                let provisionable = agent.limits().map_or(0, |limits| agent.volumes().provisionable(limits));
                Ok(proto::GetPoolResponse {
                    node_id: agent.node_id().to_owned(),
                    capacity_bytes: usage.capacity,
                    free_bytes: usage.free,
                    provisionable_bytes: whole_blocks(provisionable),
                    largest_volume_bytes: whole_blocks(provisionable.min(usage.capacity)),
                    filesystem: match agent.pool().filesystem().kind() {
                        Kind::Xfs => "xfs".into(),
                        Kind::Btrfs => "btrfs".into(),
                    },
                    ailments: agent.pool_ailments().into_iter().map(Into::into).collect(),
                    max_volumes: agent.config().max_volumes.map_or(0, NonZeroU32::get),
                })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn list_activities(
        &self,
        _: Request<proto::ListActivitiesRequest>,
    ) -> Result<Response<proto::ListActivitiesResponse>, Status> {
        let _token = self.enter()?;
        let activities = self.block(|agent| Ok(agent.activities())).await?;
        Ok(Response::new(proto::ListActivitiesResponse { activities }))
    }
}

impl TryFrom<proto::CreateImageRequest> for Wanted {
    type Error = Status;

    fn try_from(request: proto::CreateImageRequest) -> Result<Self, Status> {
        let source = match &request.source {
            None => None,
            Some(proto::create_image_request::Source::SourceSnapshotId(id)) => {
                Some(Source::Snapshot(parse("source_snapshot_id", id)?))
            }
            Some(proto::create_image_request::Source::SourceVolumeId(id)) => {
                Some(Source::Volume(parse("source_volume_id", id)?))
            }
        };
        let presentation = [Presentation::Ext4, Presentation::Xfs, Presentation::Block]
            .into_iter()
            .find(|presentation| presentation.as_str() == request.presentation)
            .ok_or_else(|| status::invalid("presentation", &request.presentation, "ext4, xfs or block"))?;
        Ok(Self {
            id: parse("volume_id", &request.volume_id)?,
            name: name::required("volume_name", &request.volume_name)?.to_owned(),
            incarnation: request
                .incarnation
                .parse()
                .map_err(|_| status::invalid("incarnation", &request.incarnation, "a uuid"))?,
            capacity_bytes: capacity(request.capacity_bytes)?,
            presentation,
            source,
            offload: offload(request.offload)?,
            parameters: request.parameters.into_iter().collect(),
        })
    }
}

impl TryFrom<proto::CreateCutsRequest> for WantedCuts {
    type Error = Status;

    fn try_from(request: proto::CreateCutsRequest) -> Result<Self, Status> {
        let members = request
            .members
            .iter()
            .map(|member| {
                Ok(WantedCut {
                    id: parse("members.snapshot_id", &member.snapshot_id)?,
                    name: name::required("members.snapshot_name", &member.snapshot_name)?.to_owned(),
                    volume: parse("members.volume_id", &member.volume_id)?,
                    parameters: member.parameters.clone().into_iter().collect(),
                })
            })
            .collect::<Result<Vec<_>, Status>>()?;
        if members.is_empty() {
            return Err(status::missing("members"));
        }
        once("members.snapshot_id", members.iter().map(|member| member.id))?;
        once("members.volume_id", members.iter().map(|member| member.volume))?;
        let group = optional("group_id", &request.group_id)?;
        if members.len() > 1 && group.is_none() {
            return Err(status::missing("group_id"));
        }
        let durability = match request.durability() {
            proto::Durability::Unspecified | proto::Durability::Bucket => Durability::Bucket,
            proto::Durability::Node => Durability::Node,
        };
        let wait = Duration::from_millis(request.wait_millis.into());
        Ok(Self { members, group, durability, parameters: request.parameters.into_iter().collect(), wait })
    }
}

impl From<Found> for proto::Image {
    fn from(found: Found) -> Self {
        Self {
            volume_id: found.record.id.to_string(),
            incarnation: found.record.incarnation.to_string(),
            capacity_bytes: found.record.capacity_bytes,
            allocated_bytes: found.allocated_bytes,
            staged: found.staged,
            published_paths: found.published.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            ailments: found.ailments.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<FoundCut> for proto::Cut {
    fn from(found: FoundCut) -> Self {
        let (state, message) = match found.status {
            cut::Status::Pending { message } => (proto::cut::State::Pending, message),
            cut::Status::Offloading => (proto::cut::State::Offloading, String::new()),
            cut::Status::Ready => (proto::cut::State::Ready, String::new()),
            cut::Status::Failed { message } => (proto::cut::State::Failed, message),
            cut::Status::Removed => (proto::cut::State::Failed, "it was deleted".into()),
        };
        let durability = match found.durability {
            Durability::Bucket => proto::Durability::Bucket,
            Durability::Node => proto::Durability::Node,
        };
        let description = found.description;
        Self {
            snapshot_id: description.id.to_string(),
            snapshot_name: description.name,
            volume_id: description.volume.to_string(),
            group_id: description.group.map(|group| group.to_string()).unwrap_or_default(),
            created_at: Some(prost_types::Timestamp {
                seconds: description.created_at.as_second(),
                nanos: description.created_at.subsec_nanosecond(),
            }),
            size_bytes: description.capacity_bytes,
            state: state.into(),
            message,
            durability: durability.into(),
            total_bytes: found.total_bytes,
            done_bytes: found.done_bytes,
        }
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<T, Status> {
    name::required(field, text)?.parse().map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

fn optional<T: FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<Option<T>, Status> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

fn once<T: Eq + Hash + ToString>(field: &str, ids: impl Iterator<Item = T>) -> Result<(), Status> {
    let mut seen = HashSet::new();
    for id in ids {
        let text = id.to_string();
        if !seen.insert(id) {
            return Err(status::invalid(field, text, "each only once"));
        }
    }
    Ok(())
}

fn capacity(bytes: u64) -> Result<u64, Status> {
    match Blocks::from_bytes(bytes) {
        Some(blocks) if blocks > Blocks::ZERO => Ok(bytes),
        _ => Err(status::invalid("capacity_bytes", bytes, "a multiple of 4096 above 0")),
    }
}

fn offload(parameters: Option<proto::OffloadParameters>) -> Result<OffloadParameters, Status> {
    let parameters = parameters.unwrap_or_default();
    let compression = parameters
        .compression
        .map(|level| match u8::try_from(level) {
            Ok(small) if level <= STRONGEST => Ok(small),
            _ => Err(status::invalid("offload.compression", level, "0 to 19")),
        })
        .transpose()?;
    let weight = parameters
        .weight
        .map(|weight| match u8::try_from(weight) {
            Ok(small @ 1..=HEAVIEST) => Ok(small),
            _ => Err(status::invalid("offload.weight", weight, "1 to 100")),
        })
        .transpose()?;
    let (bandwidth, io_bandwidth) = (parameters.bandwidth, parameters.io_bandwidth);
    for (field, rate) in [("offload.bandwidth", bandwidth), ("offload.io_bandwidth", io_bandwidth)] {
        if rate == Some(0) {
            return Err(status::invalid(field, 0, "bytes a second above 0, or none for no limit"));
        }
    }
    Ok(OffloadParameters { compression, bandwidth, weight, io_bandwidth })
}

fn whole_blocks(bytes: u64) -> u64 {
    bytes - bytes % BLOCK_SIZE
}
