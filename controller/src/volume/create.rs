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
//! A record that is complete is never touched from here, nor is its image. A claim is completed only while it is still as
//! the image was asked for with. Whoever is about to remove an unfinished image renews the claim first, by a conditional
//! update: either that finds the claim completed by another controller, or the other's completion finds it renewed.

use tonic::{Code, Status};
use tracing::{info, warn};
use uuid::Uuid;
use varve_proto::{
    agent::{CreateImageRequest, create_image_request},
    csi,
};
use varve_repository::{
    Claim, Versioned,
    record::volume::{Source, VolumeRecord},
};

use super::{described, exclusively, order::Order, source::Origin};
use crate::{
    Controller,
    agent::{Agent, is_transient},
    catalog::{self, stored},
    nodes,
    placement::{self, Choice, Demand},
};

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
            offload: order.offload(),
            parameters: order.parameters.clone(),
            created_at: seams.clock.now(),
            complete: false,
            published: None,
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
        let found = match home {
            Ok(home) => {
                let found = self.renew(found).await?;
                discard(&home, &found.value).await?;
                found
            }
            Err(nodes::Error::Unknown { .. }) => found,
            Err(error) => return Err(error.into()),
        };
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
            let current = catalog::volume(self.repository(), record.id).await?;
            if current.value != record {
                return Err(changed(&record));
            }
            let current = self.renew(current).await?;
            discard(&agent, &record).await?;
            let next = if status.code() == Code::ResourceExhausted { others.next() } else { None };
            let Some(next) = next else {
                stored(self.repository().remove_volume(record.id).await)?;
                return Err(status);
            };
            info!(volume = %record.id, from = record.home_node, to = next, reason = status.message(), "trying the next node");
            record = self.assign(current, next).await?;
        }
    }

    /// Makes an unfinished claim one that nobody else has read.
    async fn renew(&self, current: Versioned<VolumeRecord>) -> Result<Versioned<VolumeRecord>, Status> {
        let now = self.repository().seams().clock.now();
        let record = VolumeRecord { created_at: now, ..current.value.clone() };
        stored(self.repository().update_volume(current, record).await)
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
        parameters: record.parameters.clone().into_iter().collect(),
        source: record.source.map(|source| match source {
            Source::Snapshot(id) => create_image_request::Source::SourceSnapshotId(id.to_string()),
            Source::Volume(id) => create_image_request::Source::SourceVolumeId(id.to_string()),
        }),
    }
}
