//! What a node is configured with.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use crate::{
    cut::{making::Hold, sentinel::Sentinel},
    observe::Observer,
    pool::Location,
    watermark::Marks,
};

/// Everything a node needs to start, apart from the repository.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, as Kubernetes and the topology know it.
    pub node_id: String,
    /// Where the pool is.
    pub pool: Location,
    /// How many times the pool's capacity may be promised to volumes.
    pub overcommit: f64,
    /// How little of the pool may be free before bases go, and before nothing is cut.
    pub marks: Marks,
    /// Offloads under way at once.
    pub offloads: usize,
    /// What offloads keep to.
    pub offload_limits: OffloadLimits,
    /// Longest time that writers are held before the watchdog thaws them, whatever the cut does.
    pub freeze_limit: Duration,
    /// Who thaws what this process leaves frozen when it is killed; `None` leaves that to the next start.
    pub sentinel: Option<Arc<Sentinel>>,
    /// Most volumes that may be published to the node at once; `None` where only the pool's room limits them.
    pub max_volumes: Option<NonZeroU32>,
    /// Who is told of what the node does; nobody where there is none.
    pub observer: Option<Arc<dyn Observer>>,
}

/// What a node's offloads keep to, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadLimits {
    /// Cuts of one volume that may wait to be offloaded; further snapshots of it are refused.
    pub waiting_of_volume: usize,
    /// Cuts of all volumes that may wait; further snapshots are refused.
    pub waiting: usize,
    /// Most bytes a second read of cuts; `None` for no limit.
    pub io_bandwidth: Option<u64>,
    /// How long an offload goes on at the least before it makes way for others that have less to move.
    pub shortest_turn: Duration,
}

impl Default for OffloadLimits {
    fn default() -> Self {
        Self { waiting_of_volume: 16, waiting: 512, io_bandwidth: None, shortest_turn: Duration::from_secs(5) }
    }
}

impl Config {
    /// How writers are held while a cut is made.
    #[must_use]
    pub fn hold(&self) -> Hold {
        Hold { limit: self.freeze_limit, sentinel: self.sentinel.clone() }
    }
}
