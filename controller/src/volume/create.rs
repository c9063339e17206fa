//! CreateVolume: claim the name, make the image, mark the record complete.
//!
//! # Crash consistency
//! The claim comes first and names the node, so whatever happens on the node has a record that tells of it. A call that
//! breaks off behind the claim leaves it; the retry reads it and goes on, on the same node and with the same
//! incarnation, which the agent joins to what it has begun. Only a verdict of the node (see
//! [`is_transient`](crate::agent::is_transient)) ends a claim: then what is left of the image is removed, and after it the
//! record, so that nothing leaks and another node can be tried. A claim moves to another node, because the caller wants
//! it elsewhere, only after the image is known to be gone from the first.
//!
//! # Concurrency
//! A record that is complete is never touched from here. One that is not may only be completed while it still names
//! the incarnation and the node that the image was made with; a controller that finds it changed removes its image.

use std::collections::BTreeMap;

use tonic::{Code, Status};
use tracing::{info, warn};
use uuid::Uuid;
use varve_csi::{capability::Capability, capacity::CapacityRange, name};
use varve_proto::{
    agent::{CreateImageRequest, create_image_request},
    csi,
};
use varve_repository::{
    Claim, Versioned,
    record::volume::{OffloadParameters, Presentation, Source, VolumeRecord},
};

use super::{
    described, exclusively,
    source::{self, Origin},
};
use crate::{
    Controller,
    agent::{Agent, is_transient},
    catalog::{self, stored},
    nodes,
    parameters::{self, Offload},
    placement::{self, Choice, Demand},
    presentation::{self, DEFAULT_BYTES, GRANULE, Wanted},
    topology::Requirement,
};

/// A validated `CreateVolumeRequest`.
#[derive(Debug)]
struct Order {
    name: String,
    range: CapacityRange,
    wanted: Wanted,
    source: Option<Source>,
    requirement: Requirement,
    class: Offload,
    mutable: Offload,
    parameters: BTreeMap<String, String>,
}

impl Order {
    fn parse(request: &csi::CreateVolumeRequest) -> Result<Self, Status> {
        let name = name::required("name", &request.name)?.to_owned();
        let capabilities = Capability::parse_all("volume_capabilities", &request.volume_capabilities)?;
        Ok(Self {
            name,
            range: CapacityRange::parse("capacity_range", request.capacity_range.as_ref())?,
            wanted: Wanted::of(&capabilities),
            requirement: Requirement::parse("accessibility_requirements", request.accessibility_requirements.as_ref())?,
            class: Offload::parse("parameters", &request.parameters)?,
            mutable: Offload::parse("mutable_parameters", &request.mutable_parameters)?,
            parameters: parameters::recorded(&request.parameters),
            source: source::parse(request.volume_content_source.as_ref())?,
        })
    }

    /// Tells whether the volume that has the name is the one asked for, its place aside (CSI, CreateVolume:
    /// "compatible").
    fn compare(&self, record: &VolumeRecord) -> Result<(), Status> {
        let mut differences = Vec::new();
        if !self.range.admits(record.capacity_bytes) {
            differences.push(format!("capacity_range does not admit its {} bytes", record.capacity_bytes));
        }
        if !self.wanted.admits(record.presentation) {
            let is = record.presentation.as_str();
            differences.push(format!("volume_capabilities ask for {}, it is {is}", self.wanted.as_str()));
        }
        if self.source != record.source {
            differences.push("volume_content_source is another".to_owned());
        }
        if Offload::recorded(&record.parameters) != Some(self.class) {
            differences.push("parameters are others".to_owned());
        }
        if !self.mutable.holds_in(record.offload) {
            differences.push("mutable_parameters are others".to_owned());
        }
        if differences.is_empty() { Ok(()) } else { Err(taken(record, &differences.join("; "))) }
    }

    /// Tells whether the volume that has the name is where it is asked for.
    fn compare_place(&self, record: &VolumeRecord) -> Result<(), Status> {
        if self.requirement.admits(&record.home_node) {
            return Ok(());
        }
        Err(taken(record, &format!("accessibility_requirements exclude its node {:?}", record.home_node)))
    }

    /// Settles what the new volume is presented as.
    fn presentation(&self, origin: Option<&Origin>) -> Result<Presentation, Status> {
        let source = origin.and_then(|origin| origin.presentation);
        let presentation = self.wanted.settle(source);
        match source {
            Some(source) if source != presentation => Err(Status::invalid_argument(format!(
                "volume_capabilities ask for {}, and volume_content_source is {}: ask for the same",
                self.wanted.as_str(),
                source.as_str()
            ))),
            _ => Ok(presentation),
        }
    }

    /// Settles the new volume's size in bytes.
    fn bytes(&self, presentation: Presentation, origin: Option<&Origin>) -> Result<u64, Status> {
        let smallest = presentation::smallest(presentation);
        let Some(origin) = origin else { return self.range.pick(DEFAULT_BYTES.max(smallest), smallest, GRANULE) };
        if self.range.required != 0 && self.range.required.next_multiple_of(GRANULE) < origin.bytes {
            return Err(Status::out_of_range(format!(
                "capacity_range.required_bytes is {}: expected at least the {} bytes of volume_content_source",
                self.range.required, origin.bytes
            )));
        }
        self.range.pick(origin.bytes, smallest.max(origin.bytes), GRANULE)
    }
}

fn taken(record: &VolumeRecord, difference: &str) -> Status {
    Status::already_exists(format!("name is {:?}, which volume {} has: {difference}", record.name, record.id))
}

impl Controller {
    /// Makes a volume, or finds the one that was made under the name.
    ///
    /// # Errors
    /// As CSI, "CreateVolume Errors".
    pub(crate) async fn create_volume(
        &self,
        request: csi::CreateVolumeRequest,
    ) -> Result<csi::CreateVolumeResponse, Status> {
        let order = Order::parse(&request)?;
        let id = self.repository().volume_id(&order.name);
        let _held = self.hold(exclusively(id))?;
        let record = match stored(self.repository().volume(id).await)? {
            None => self.begin(&order).await?,
            Some(found) => {
                order.compare(&found.value)?;
                if found.value.complete {
                    order.compare_place(&found.value)?;
                    found.value
                } else {
                    self.take_up(&order, found).await?
                }
            }
        };
        Ok(csi::CreateVolumeResponse { volume: Some(described(&record)) })
    }

    /// Starts from nothing.
    async fn begin(&self, order: &Order) -> Result<VolumeRecord, Status> {
        let origin = match order.source {
            Some(source) => Some(self.origin(source).await?),
            None => None,
        };
        let presentation = order.presentation(origin.as_ref())?;
        let bytes = order.bytes(presentation, origin.as_ref())?;
        let choice = self.choose(order, bytes, origin).await?;
        let seams = self.repository().seams();
        let record = VolumeRecord {
            id: self.repository().volume_id(&order.name),
            name: order.name.clone(),
            incarnation: uuid::Builder::from_random_bytes(seams.random()).into_uuid(),
            capacity_bytes: bytes,
            presentation,
            home_node: choice.best,
            source: order.source,
            offload: order.mutable.over(order.class.over(OffloadParameters::default())),
            parameters: order.parameters.clone(),
            created_at: seams.clock.now(),
            complete: false,
        };
        match stored(self.repository().claim_volume(record).await)? {
            Claim::Created(record) => self.fill(record, choice.others).await,
            Claim::AlreadyPresent(other) => {
                Err(Status::aborted(format!("another controller is creating volume {}: try again", other.id)))
            }
        }
    }

    /// Goes on with a claim whose image was not seen complete.
    async fn take_up(&self, order: &Order, found: Versioned<VolumeRecord>) -> Result<VolumeRecord, Status> {
        let record = &found.value;
        let home = self.fleet().agent(&record.home_node).await;
        let moves = !order.requirement.admits(&record.home_node) || matches!(home, Err(nodes::Error::Unknown { .. }));
        if !moves {
            return self.fill(found.value, Vec::new()).await;
        }
        // The caller wants it elsewhere, or its node is no more. What was made there was never handed out.
        let origin = match order.source {
            Some(source) => Some(self.origin(source).await?),
            None => None,
        };
        let choice = self.choose(order, record.capacity_bytes, origin).await?;
        info!(volume = %record.id, from = record.home_node, to = choice.best, "moving an unfinished creation");
        match home {
            Ok(home) => discard(&home, record).await?,
            Err(nodes::Error::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let record = self.assign(found, choice.best).await?;
        self.fill(record, choice.others).await
    }

    async fn choose(&self, order: &Order, bytes: u64, origin: Option<Origin>) -> Result<Choice, Status> {
        let Origin { bound_to, near, .. } = origin.unwrap_or_default();
        let demand = Demand { bytes, requirement: order.requirement.clone(), bound_to, near };
        placement::place(self.fleet(), &demand).await
    }

    /// Has the image made on the record's node, or on the next one that has room.
    async fn fill(&self, mut record: VolumeRecord, others: Vec<String>) -> Result<VolumeRecord, Status> {
        let mut others = others.into_iter();
        loop {
            let agent = self.fleet().agent(&record.home_node).await?;
            let Err(status) = agent.create_image(image_of(&record)).await else {
                return self.complete(&agent, record).await;
            };
            if is_transient(&status) {
                return Err(status);
            }
            discard(&agent, &record).await?;
            let next = if status.code() == Code::ResourceExhausted { others.next() } else { None };
            let Some(next) = next else {
                stored(self.repository().remove_volume(record.id).await)?;
                return Err(status);
            };
            info!(volume = %record.id, from = record.home_node, to = next, reason = status.message(), "trying the next node");
            let current = catalog::volume(self.repository(), record.id).await?;
            if current.value != record {
                return Err(changed(&record));
            }
            record = self.assign(current, next).await?;
        }
    }

    /// Gives an unfinished claim another node.
    async fn assign(&self, current: Versioned<VolumeRecord>, node: String) -> Result<VolumeRecord, Status> {
        let record = VolumeRecord { home_node: node, ..current.value.clone() };
        Ok(stored(self.repository().update_volume(current, record).await)?.value)
    }

    /// Marks the record complete, provided that it is still the one that the image was made for.
    async fn complete(&self, agent: &Agent, record: VolumeRecord) -> Result<VolumeRecord, Status> {
        let current = stored(self.repository().volume(record.id).await)?;
        match current {
            Some(current) if current.value == record => {
                let complete = VolumeRecord { complete: true, ..record };
                Ok(stored(self.repository().update_volume(current, complete).await)?.value)
            }
            Some(current)
                if current.value.incarnation == record.incarnation && current.value.home_node == record.home_node =>
            {
                if current.value.complete {
                    Ok(current.value)
                } else {
                    Err(changed(&record))
                }
            }
            _ => {
                if let Err(status) = discard(agent, &record).await {
                    warn!(volume = %record.id, node = agent.node(), reason = status.message(), "an image is left");
                }
                Err(changed(&record))
            }
        }
    }
}

fn changed(record: &VolumeRecord) -> Status {
    Status::aborted(format!("another controller changed volume {} meanwhile: try again", record.id))
}

/// Removes what a creation has left on a node, and ends it there should it still be under way. An image of another
/// incarnation is not this creation's to touch.
async fn discard(agent: &Agent, record: &VolumeRecord) -> Result<(), Status> {
    let images = agent.images(Some(record.id.to_string())).await?;
    if images.iter().all(|image| is_incarnation(&image.incarnation, record)) {
        agent.delete_image(record.id.to_string()).await?;
    }
    Ok(())
}

fn is_incarnation(text: &str, record: &VolumeRecord) -> bool {
    Uuid::parse_str(text).is_ok_and(|incarnation| incarnation == record.incarnation)
}

fn image_of(record: &VolumeRecord) -> CreateImageRequest {
    CreateImageRequest {
        volume_id: record.id.to_string(),
        volume_name: record.name.clone(),
        incarnation: record.incarnation.to_string(),
        capacity_bytes: record.capacity_bytes,
        presentation: record.presentation.as_str().to_owned(),
        offload: Some(super::modify::for_agent(record.offload)),
        source: record.source.map(|source| match source {
            Source::Snapshot(id) => create_image_request::Source::SourceSnapshotId(id.to_string()),
            Source::Volume(id) => create_image_request::Source::SourceVolumeId(id.to_string()),
        }),
    }
}
