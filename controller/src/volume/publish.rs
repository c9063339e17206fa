//! ControllerPublishVolume and ControllerUnpublishVolume: a volume is given to its node, in its record alone.
//!
//! A volume is used on the node that holds its image, so there is nothing to attach. A publication is a fence: it says who
//! has the volume and how, no other use is granted meanwhile, and the volume is not deleted. Orchestrators that do not
//! publish need none of it: nodes stage volumes that were never published.
//!
//! # Concurrency
//! Two controllers are kept apart by the conditional update of the record: whoever comes second decides anew by what the
//! first has written. The limit of a node is counted beforehand, so that calls at the same instant may exceed it: it
//! bounds load, and no promise hangs on it.

use tonic::Status;
use varve_csi::{
    capability::{self, Capability},
    context, name, status,
};
use varve_proto::csi;
use varve_repository::{
    id::VolumeId,
    record::volume::{AccessMode, Publication, VolumeRecord},
};

use super::{INCARNATION, exclusively};
use crate::{
    Controller,
    agent::Agent,
    catalog::{self, stored},
    nodes,
    presentation::Wanted,
};

/// A validated `ControllerPublishVolumeRequest`.
#[derive(Debug)]
struct Claim {
    volume: String,
    wanted: Wanted,
    publication: Publication,
    /// The incarnation in the volume context. Orchestrators add keys of their own to that, which say nothing here.
    incarnation: Option<String>,
}

impl Claim {
    fn parse(request: &csi::ControllerPublishVolumeRequest) -> Result<Self, Status> {
        let volume = name::required("volume_id", &request.volume_id)?.to_owned();
        let node = name::node("node_id", &request.node_id)?.to_owned();
        let capability = Capability::parse("volume_capability", request.volume_capability.as_ref())?;
        let incarnation = name::map("volume_context", &request.volume_context)?.get(INCARNATION).cloned();
        name::map("secrets", &request.secrets)?;
        let publication = Publication { node, mode: mode(capability.access_mode), read_only: request.readonly };
        Ok(Self { volume, wanted: Wanted::of(&[capability]), publication, incarnation })
    }

    /// Decides by the record: the record to write, or `None` where the volume is published so already.
    fn decide(&self, record: &VolumeRecord) -> Result<Option<VolumeRecord>, Status> {
        let (id, node) = (record.id, &self.publication.node);
        if self.incarnation.as_ref().is_some_and(|incarnation| *incarnation != record.incarnation.to_string()) {
            return Err(Status::not_found(format!(
                "volume_context is that of an earlier volume {id}, which is gone: the present one has another"
            )));
        }
        if let Some(Publication { node: holder, .. }) = &record.published
            && holder != node
        {
            return Err(Status::failed_precondition(format!("volume {id} is published to node {holder:?}")));
        }
        if !record.complete {
            return Err(Status::unavailable(format!("volume {id} is still being created")));
        }
        if record.home_node != *node {
            let home = &record.home_node;
            return Err(Status::failed_precondition(format!(
                "volume {id} is on node {home:?} and can be published there alone"
            )));
        }
        let admitted = self.wanted.admits(record.presentation);
        match &record.published {
            Some(present) if admitted && *present == self.publication => Ok(None),
            Some(present) => Err(Status::already_exists(format!(
                "volume {id} is published to node {node:?} already, as {} for {}: unpublish it first",
                record.presentation.as_str(),
                describe(present)
            ))),
            None if !admitted => {
                let is = record.presentation.as_str();
                Err(status::invalid("volume_capability", self.wanted.as_str(), &format!("{is}, as the volume is")))
            }
            None => Ok(Some(VolumeRecord { published: Some(self.publication.clone()), ..record.clone() })),
        }
    }
}

impl Controller {
    /// Publishes a volume to the node that holds it; published there so already, it stays as it is.
    ///
    /// # Errors
    /// As CSI, "ControllerPublishVolume Errors"; `FAILED_PRECONDITION` also for a node that does not hold the volume,
    /// `UNAVAILABLE` where its node does not answer.
    pub(crate) async fn publish_volume(
        &self,
        request: csi::ControllerPublishVolumeRequest,
    ) -> Result<csi::ControllerPublishVolumeResponse, Status> {
        let claim = Claim::parse(&request)?;
        let id = catalog::volume_id("volume_id", &claim.volume)?;
        let _held = self.hold(exclusively(id))?;
        let record = catalog::volume(self.repository(), id).await?.value;
        let agent = self.fleet().agent(&claim.publication.node).await;
        if let Err(nodes::Error::Unknown { node }) = &agent {
            return Err(Status::not_found(format!("node_id is {node:?}: there is no such node")));
        }
        if claim.decide(&record)?.is_some() {
            self.check_limit(&agent?).await?;
            catalog::update_volume(self.repository(), id, |record| claim.decide(record)).await?;
        }
        Ok(csi::ControllerPublishVolumeResponse { publish_context: context::of(claim.publication.read_only) })
    }

    /// Checks that one more volume may be published to a node.
    async fn check_limit(&self, agent: &Agent) -> Result<(), Status> {
        let most = agent.pool().await?.max_volumes;
        if most == 0 {
            return Ok(());
        }
        let records = stored(self.repository().volumes().await)?;
        let here = |record: &&VolumeRecord| record.published.as_ref().is_some_and(|one| one.node == agent.node());
        let count = records.iter().filter(here).count();
        if u32::try_from(count).is_ok_and(|count| count < most) {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "node {:?} takes {most} volumes, and {count} are published to it: unpublish one first",
            agent.node()
        )))
    }

    /// Takes a volume back from a node, or from whichever has it where none is named. A volume that is not published
    /// there, or does not exist, and a node that is gone are no reasons to fail: the volume cannot be there.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, `ABORTED`, or the store's.
    pub(crate) async fn unpublish_volume(
        &self,
        request: csi::ControllerUnpublishVolumeRequest,
    ) -> Result<csi::ControllerUnpublishVolumeResponse, Status> {
        let text = name::required("volume_id", &request.volume_id)?;
        let node = match request.node_id.as_str() {
            "" => None,
            node => Some(name::node("node_id", node)?),
        };
        name::map("secrets", &request.secrets)?;
        let Ok(id) = text.parse::<VolumeId>() else { return Ok(csi::ControllerUnpublishVolumeResponse {}) };
        let _held = self.hold(exclusively(id))?;
        let outcome = catalog::update_volume(self.repository(), id, |record| {
            let there = record.published.as_ref().is_some_and(|one| node.is_none_or(|node| one.node == node));
            Ok(there.then(|| VolumeRecord { published: None, ..record.clone() }))
        })
        .await;
        match outcome {
            Err(status) if status.code() != tonic::Code::NotFound => Err(status),
            _ => Ok(csi::ControllerUnpublishVolumeResponse {}),
        }
    }
}

/// An access mode, as records keep it.
const fn mode(mode: capability::AccessMode) -> AccessMode {
    match mode {
        capability::AccessMode::Writer => AccessMode::SingleNodeWriter,
        capability::AccessMode::ReaderOnly => AccessMode::SingleNodeReaderOnly,
        capability::AccessMode::SingleWriter => AccessMode::SingleNodeSingleWriter,
        capability::AccessMode::MultiWriter => AccessMode::SingleNodeMultiWriter,
    }
}

/// How a publication lets the volume be used, for messages.
fn describe(publication: &Publication) -> String {
    let mode = match publication.mode {
        AccessMode::SingleNodeWriter => "SINGLE_NODE_WRITER",
        AccessMode::SingleNodeReaderOnly => "SINGLE_NODE_READER_ONLY",
        AccessMode::SingleNodeSingleWriter => "SINGLE_NODE_SINGLE_WRITER",
        AccessMode::SingleNodeMultiWriter => "SINGLE_NODE_MULTI_WRITER",
    };
    format!("{mode}{}", if publication.read_only { ", read-only" } else { "" })
}
