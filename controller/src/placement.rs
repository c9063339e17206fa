//! Placement: which nodes may get a new volume, the best one first.
//!
//! The caller's preferences come first, in its order (CSI, `TopologyRequirement`). Among the rest the node that made the
//! source snapshot leads, since it may clone where others have to hydrate; then the one with the most room.

use std::cmp::Reverse;

use tonic::Status;
use varve_csi::topology;
use varve_proto::agent::{Ailment, GetPoolResponse, ailment};

use crate::{
    fleet::{Fleet, Survey},
    topology::Requirement,
};

/// What a new volume needs of its node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand {
    /// The volume's size.
    pub(crate) bytes: u64,
    /// Where the caller wants it.
    pub(crate) requirement: Requirement,
    /// The only node that has the source, if one has it alone.
    pub(crate) bound_to: Option<String>,
    /// The node that made the source, if that is no more than an advantage.
    pub(crate) near: Option<String>,
}

/// The nodes that can take a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The best one.
    pub(crate) best: String,
    /// The others, in order.
    pub(crate) others: Vec<String>,
}

/// Finds the nodes that can take the volume.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` where no node that the caller allows has the room, `OUT_OF_RANGE` where no node at all could
/// ever hold it, `UNAVAILABLE` where the nodes that might do not answer.
pub(crate) async fn place(fleet: &Fleet, demand: &Demand) -> Result<Choice, Status> {
    let names = fleet.names().await?;
    let allowed = demand.allowed(&names)?;
    let everywhere = allowed.len() == names.len();
    let pools = fleet.ask(allowed, |agent| async move { agent.pool().await }).await;
    demand.choose(&pools, everywhere)
}

impl Demand {
    /// Keeps the nodes that the topology and the source allow.
    fn allowed(&self, names: &[String]) -> Result<Vec<String>, Status> {
        let holds_source = |node: &String| self.bound_to.as_ref().is_none_or(|only| only == node);
        let allowed: Vec<String> =
            names.iter().filter(|node| self.requirement.admits(node) && holds_source(node)).cloned().collect();
        if !allowed.is_empty() {
            return Ok(allowed);
        }
        Err(match &self.bound_to {
            Some(only) if !self.requirement.admits(only) => Status::resource_exhausted(format!(
                "the source is on node {only:?} alone, which accessibility_requirements ({}) exclude: place the pod there \
                 (nodeSelector {}: {only}), or take a snapshot and restore that",
                self.requirement.describe(),
                topology::NODE
            )),
            Some(only) => Status::unavailable(format!("the source is on node {only:?} alone, which is not there")),
            None if names.is_empty() => Status::unavailable("there is no node yet"),
            None => Status::resource_exhausted(format!(
                "no node meets accessibility_requirements ({}): there are {}",
                self.requirement.describe(),
                some_of(names)
            )),
        })
    }

    /// Orders the nodes with room; `everywhere` says that the pools are those of all nodes.
    fn choose(&self, pools: &Survey<GetPoolResponse>, everywhere: bool) -> Result<Choice, Status> {
        let mut fit: Vec<(&String, u64)> = pools
            .answers
            .iter()
            .filter(|(_, pool)| room(pool) >= self.bytes)
            .map(|(node, pool)| (node, pool.provisionable_bytes))
            .collect();
        fit.sort_by_key(|(node, provisionable)| {
            let preference = self.requirement.preference(node).unwrap_or(usize::MAX);
            (preference, self.near.as_ref() != Some(*node), Reverse(*provisionable))
        });
        let mut nodes = fit.into_iter().map(|(node, _)| node.clone());
        let best = nodes.next().ok_or_else(|| self.refuse(pools, everywhere))?;
        Ok(Choice { best, others: nodes.collect() })
    }

    fn refuse(&self, pools: &Survey<GetPoolResponse>, everywhere: bool) -> Status {
        if let Some(doubt) = pools.doubt("room for the volume") {
            return doubt;
        }
        let largest = pools.answers.iter().map(|(_, pool)| pool.capacity_bytes).max().unwrap_or(0);
        if everywhere && self.bytes > largest {
            return Status::out_of_range(format!(
                "capacity_range asks for {} bytes: the largest pool has {largest} bytes",
                self.bytes
            ));
        }
        let rooms: Vec<String> =
            pools.answers.iter().map(|(node, pool)| format!("{node}: {} bytes", room(pool))).collect();
        Status::resource_exhausted(format!("{} bytes find no room; left are {}", self.bytes, some_of(&rooms)))
    }
}

/// The largest volume that a pool takes at present, in bytes; none where it is not accessible.
pub(crate) fn room(pool: &GetPoolResponse) -> u64 {
    if pool.ailments.iter().any(hinders) { 0 } else { pool.provisionable_bytes.min(pool.largest_volume_bytes) }
}

fn hinders(ailment: &Ailment) -> bool {
    matches!(ailment.severity(), ailment::Severity::Inaccessible | ailment::Severity::DataLoss)
}

/// Joins the first few, so that a message stays readable on a large cluster.
fn some_of(texts: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = texts.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if texts.len() > SHOWN {
        text.push_str(&format!(" and {} more", texts.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests;
