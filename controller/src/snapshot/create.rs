//! CreateSnapshot: cut the volume on its node, and answer with how far the offload has come.
//!
//! A snapshot's id follows from its name and a generation, which moves on each time a snapshot of that name is deleted;
//! so a repeated call finds what the first one made, and a name can be used again.
//!
//! A call that finds the cut answers at once with its state: only the call that makes the cut waits for the offload. A cut is
//! made only after the repository, read last, had neither a root nor a tombstone at the id: a cut that was offloaded and
//! forgotten while the nodes were asked is then found as a root, and is not made a second time. For a snapshot that goes to
//! the repository the node that makes the cut looks there, after it has looked for the cut on itself, so that no round trip
//! is spent on looking here as well; what is found is the same, since a root never comes back behind a tombstone.

use std::{collections::HashMap, time::Duration};

use tonic::Status;
use varve_csi::name;
use varve_proto::{
    agent::{CreateCutsRequest, ListCutsRequest, create_cuts_request::Member},
    csi,
};
use varve_repository::{
    SnapshotState,
    id::{SnapshotId, VolumeId},
};

use super::Snapshot;
use crate::{
    Controller,
    activity::Delay,
    catalog::{self, stored},
    parameters::{self, Durability},
    topology::Requirement,
};

/// A validated `CreateSnapshotRequest`.
#[derive(Debug)]
struct Order {
    name: String,
    volume: String,
    durability: Durability,
    requirement: Requirement,
    parameters: HashMap<String, String>,
}

impl Order {
    fn parse(request: csi::CreateSnapshotRequest) -> Result<Self, Status> {
        let requirement = request.accessibility_requirements.as_ref();
        Ok(Self {
            name: name::required("name", &request.name)?.to_owned(),
            volume: name::required("source_volume_id", &request.source_volume_id)?.to_owned(),
            durability: Durability::parse("parameters", &request.parameters)?,
            requirement: Requirement::parse("accessibility_requirements", requirement)?,
            parameters: request.parameters,
        })
    }

    /// Answers with a snapshot that has the name, if it is of the volume asked for.
    fn accept(&self, snapshot: Snapshot, volume: VolumeId) -> Result<csi::CreateSnapshotResponse, Status> {
        if snapshot.volume != volume {
            return Err(Status::already_exists(format!(
                "name is {:?}, which snapshot {} of volume {} has: expected another name, or that volume",
                self.name, snapshot.id, snapshot.volume
            )));
        }
        if snapshot.durability == Durability::Node {
            self.place(&snapshot.node)?;
        }
        Ok(csi::CreateSnapshotResponse { snapshot: Some(snapshot.settled()?.described()) })
    }

    /// Checks that a snapshot which is kept on `node` alone is where it is asked for.
    fn place(&self, node: &str) -> Result<(), Status> {
        if self.requirement.admits(node) {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "accessibility_requirements ({}) exclude node {node:?}, which alone keeps the snapshot: ask for that node, or \
             for durability bucket",
            self.requirement.describe()
        )))
    }
}

impl Controller {
    /// Makes a snapshot, or finds the one that was made under the name; waits up to `wait` for its offload.
    ///
    /// # Errors
    /// As CSI, "CreateSnapshot Errors"; `FAILED_PRECONDITION` with the reason where the cut cannot be offloaded.
    pub(crate) async fn create_snapshot(
        &self,
        request: csi::CreateSnapshotRequest,
        wait: Duration,
    ) -> Result<csi::CreateSnapshotResponse, Status> {
        let order = Order::parse(request)?;
        let volume = catalog::volume_id("source_volume_id", &order.volume)?;
        let _held = self.hold(format!("snapshot name {}", order.name))?;
        // At once: each is a round trip to the store.
        let (current, record) =
            futures::join!(self.repository().current_snapshot(&order.name), self.repository().volume(volume));
        // What the store does not answer is seen by nobody but the caller: no node has anything of it yet.
        for error in [current.as_ref().err(), record.as_ref().err()].into_iter().flatten() {
            self.refusals().note(&order.name, volume, Delay::of_store(error));
        }
        let not_yet = |status: &Status| {
            if let Some(delay) = Delay::of_node(status) {
                self.refusals().note(&order.name, volume, delay);
            }
        };
        let (id, root) = stored(current)?;
        let _held_id = self.hold(super::exclusively(id))?;
        if let Some(root) = root {
            self.refusals().forget(&order.name);
            return order.accept(Snapshot::of_root(&root), volume);
        }
        let record = stored(record)?.map(|record| record.value);
        self.refusals().forget(&order.name);
        let home = record.as_ref().map(|record| record.home_node.as_str());
        if let Some(cut) = self.find_cut(id, home).await.inspect_err(not_yet)? {
            return order.accept(cut, volume);
        }
        let node_looks =
            order.durability == Durability::Bucket && record.as_ref().is_some_and(|record| record.complete);
        let state = match node_looks {
            true => SnapshotState::Absent,
            false => stored(self.repository().snapshot(id).await)?,
        };
        match state {
            SnapshotState::Absent => {}
            SnapshotState::Committed(root) => return order.accept(Snapshot::of_root(&root), volume),
            SnapshotState::Gone(_) => {
                return Err(Status::aborted(format!("snapshot {id} was deleted meanwhile: try again")));
            }
        }
        let record = record.ok_or_else(|| catalog::no_volume(volume))?;
        if !record.complete {
            return Err(Status::unavailable(format!("source_volume_id is {volume}, which is still being created")));
        }
        if order.durability == Durability::Node {
            order.place(&record.home_node)?;
        }
        let member = Member {
            snapshot_id: id.to_string(),
            snapshot_name: order.name.clone(),
            volume_id: volume.to_string(),
            parameters: parameters::claim(&record.parameters),
        };
        let request = CreateCutsRequest {
            members: vec![member],
            group_id: String::new(),
            durability: varve_proto::agent::Durability::from(order.durability).into(),
            parameters: order.parameters.clone(),
            wait_millis: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let agent = self.fleet().agent(&record.home_node).await?;
        let cuts = agent.create_cuts(request).await.inspect_err(not_yet)?;
        match cuts.first() {
            Some(cut) => order.accept(Snapshot::of_cut(agent.node(), cut)?, volume),
            None => Err(Status::internal("the agent answered no cut")),
        }
    }

    /// Looks for the cut of a snapshot: on the volume's own node, where it nearly always is, and then on the others, where
    /// one of another volume may have the id. A node that does not answer is passed over: orchestrators never use
    /// a name for two volumes, and should it have such a cut, only one of the two can be committed.
    async fn find_cut(&self, id: SnapshotId, home: Option<&str>) -> Result<Option<Snapshot>, Status> {
        let request = ListCutsRequest { snapshot_id: id.to_string(), ..ListCutsRequest::default() };
        if let Some(home) = home {
            let agent = self.fleet().agent(home).await?;
            if let Some(cut) = agent.cuts(request.clone()).await?.first() {
                return Snapshot::of_cut(home, cut).map(Some);
            }
        }
        let survey = self.fleet().cuts(request).await?;
        let cut = survey.answers.iter().find_map(|(node, cuts)| cuts.first().map(|cut| Snapshot::of_cut(node, cut)));
        match (cut, home) {
            (Some(cut), _) => cut.map(Some),
            // The volume is gone, and its cut may be waiting on a node that does not answer.
            (None, None) => survey.doubt(&format!("snapshot {id}")).map_or(Ok(None), Err),
            (None, Some(_)) => Ok(None),
        }
    }
}
