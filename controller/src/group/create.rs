//! CreateVolumeGroupSnapshot: cut all volumes at one instant, and answer with how far their offloads have come.
//!
//! # Generations
//! A group's name can be used again once the group is deleted. The generation of a group is the first in which no volume
//! asked for has a tombstone as its member; so a deletion that broke off half-way, and is followed by a new creation,
//! leads to a new group, and never to a mixture. Members that are kept on their node alone leave no tombstones: their
//! group is made again under the same id.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tonic::Status;
use varve_csi::{name, status};
use varve_proto::{
    agent::{CreateCutsRequest, create_cuts_request::Member},
    csi,
};
use varve_repository::{
    SnapshotState,
    id::{GroupId, VolumeId},
    record::volume::VolumeRecord,
};

use super::{described, exclusively};
use crate::{
    Controller,
    catalog::{self, stored},
    parameters::{self, Durability},
    snapshot::{Filter, Snapshot},
};

/// A validated `CreateVolumeGroupSnapshotRequest`.
#[derive(Debug)]
struct Order {
    name: String,
    /// In the order of the request, each once.
    volumes: Vec<VolumeId>,
    durability: Durability,
    parameters: HashMap<String, String>,
}

impl Order {
    fn parse(request: csi::CreateVolumeGroupSnapshotRequest) -> Result<Self, Status> {
        let name = name::required("name", &request.name)?.to_owned();
        let durability = Durability::parse("parameters", &request.parameters)?;
        if request.source_volume_ids.is_empty() {
            return Err(status::missing("source_volume_ids"));
        }
        let mut volumes = Vec::new();
        for (index, text) in request.source_volume_ids.iter().enumerate() {
            let field = format!("source_volume_ids[{index}]");
            let volume = catalog::volume_id(&field, name::required(&field, text)?)?;
            if volumes.contains(&volume) {
                return Err(status::invalid(&field, text, "each volume once"));
            }
            volumes.push(volume);
        }
        Ok(Self { name, volumes, durability, parameters: request.parameters })
    }

    /// Answers with a group that has the name, if it is the one asked for.
    fn accept(&self, group: GroupId, mut members: Vec<Snapshot>) -> Result<csi::VolumeGroupSnapshot, Status> {
        let taken = |difference: String| {
            Status::already_exists(format!("name is {:?}, which group snapshot {group} has: {difference}", self.name))
        };
        let has: BTreeSet<VolumeId> = members.iter().map(|member| member.volume).collect();
        let wants: BTreeSet<VolumeId> = self.volumes.iter().copied().collect();
        if has != wants {
            return Err(taken(format!("source_volume_ids are others, it is of {has:?}")));
        }
        if members.iter().any(|member| member.durability != self.durability) {
            return Err(taken("parameters ask for another durability".to_owned()));
        }
        members.sort_by_key(|member| self.volumes.iter().position(|volume| *volume == member.volume));
        let members = members.into_iter().map(Snapshot::settled).collect::<Result<Vec<_>, _>>()?;
        Ok(described(group, &members))
    }
}

impl Controller {
    /// Makes a group snapshot, or finds the one that was made under the name; waits up to `wait` for the offloads.
    ///
    /// # Errors
    /// As CSI, "CreateVolumeGroupSnapshot Errors"; `FAILED_PRECONDITION` also with the reason where a member cannot be
    /// offloaded.
    pub(crate) async fn create_group(
        &self,
        request: csi::CreateVolumeGroupSnapshotRequest,
        wait: Duration,
    ) -> Result<csi::CreateVolumeGroupSnapshotResponse, Status> {
        let order = Order::parse(request)?;
        let _held = self.hold(format!("group snapshot name {}", order.name))?;
        let group = self.current_group(&order).await?;
        let _held_id = self.hold(exclusively(group))?;
        let sighting = self.find_snapshots(Filter { volume: None, group: Some(group) }).await?;
        let answer = if sighting.snapshots.is_empty() {
            self.cut_group(&order, group, wait).await?
        } else {
            match (order.accept(group, sighting.snapshots), sighting.doubt) {
                // Members that are not seen may be on the node that does not answer.
                (Err(status), Some(doubt)) if status.code() == tonic::Code::AlreadyExists => return Err(doubt),
                (answer, _) => answer?,
            }
        };
        Ok(csi::CreateVolumeGroupSnapshotResponse { group_snapshot: Some(answer) })
    }

    /// Finds the id under which a group of that name stands or may be made.
    async fn current_group(&self, order: &Order) -> Result<GroupId, Status> {
        let mut generation = 0_u64;
        'generations: loop {
            let group = self.group_id(&order.name, generation);
            for volume in &order.volumes {
                let member = self.repository().member_id(group, *volume);
                if let SnapshotState::Gone(_) = stored(self.repository().snapshot(member).await)? {
                    generation += 1;
                    continue 'generations;
                }
            }
            return Ok(group);
        }
    }

    /// Derives the id of the `generation`th group of that name. No valid name has a NUL in it, so that no name with a
    /// generation is another name.
    fn group_id(&self, name: &str, generation: u64) -> GroupId {
        match generation {
            0 => self.repository().group_id(name),
            later => self.repository().group_id(&format!("{name}\0{later}")),
        }
    }

    async fn cut_group(
        &self,
        order: &Order,
        group: GroupId,
        wait: Duration,
    ) -> Result<csi::VolumeGroupSnapshot, Status> {
        let records = self.neighbours(order).await?;
        let node = records.first().ok_or_else(|| status::missing("source_volume_ids"))?.home_node.clone();
        let members = records.iter().map(|record| Member {
            snapshot_id: self.repository().member_id(group, record.id).to_string(),
            snapshot_name: order.name.clone(),
            volume_id: record.id.to_string(),
            parameters: parameters::claim(&record.parameters),
        });
        let request = CreateCutsRequest {
            members: members.collect(),
            group_id: group.to_string(),
            durability: varve_proto::agent::Durability::from(order.durability).into(),
            parameters: order.parameters.clone(),
            wait_millis: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let cuts = self.fleet().agent(&node).await?.create_cuts(request).await?;
        let cuts = cuts.iter().map(|cut| Snapshot::of_cut(&node, cut)).collect::<Result<Vec<_>, _>>()?;
        order.accept(group, cuts)
    }

    /// Reads the records of all volumes, which must be on one node.
    async fn neighbours(&self, order: &Order) -> Result<Vec<VolumeRecord>, Status> {
        let mut records: Vec<VolumeRecord> = Vec::new();
        for (index, volume) in order.volumes.iter().enumerate() {
            let record = catalog::volume(self.repository(), *volume).await?.value;
            if !record.complete {
                return Err(Status::unavailable(format!(
                    "source_volume_ids[{index}] is {volume}, which is still being created"
                )));
            }
            if let Some(VolumeRecord { home_node: node, .. }) = records.first()
                && *node != record.home_node
            {
                return Err(Status::failed_precondition(format!(
                    "source_volume_ids[{index}] is {volume}, on node {:?}, and those before it are on node {node:?}: \
                     volumes can be snapshotted together only where all of them are on one node",
                    record.home_node
                )));
            }
            records.push(record);
        }
        Ok(records)
    }
}
