//! What a node is configured with.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use crate::{
    cut::{making::Hold, sentinel::Sentinel},
    pool::Location,
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
    /// Offloads under way at once.
    pub offloads: usize,
    /// Longest time that writers are held before the watchdog thaws them, whatever the cut does.
    pub freeze_limit: Duration,
    /// Who thaws what this process leaves frozen when it is killed; `None` leaves that to the next start.
    pub sentinel: Option<Arc<Sentinel>>,
    /// Most volumes that may be published to the node at once; `None` where only the pool's room limits them.
    pub max_volumes: Option<NonZeroU32>,
}

impl Config {
    /// How writers are held while a cut is made.
    #[must_use]
    pub fn hold(&self) -> Hold {
        Hold { limit: self.freeze_limit, sentinel: self.sentinel.clone() }
    }
}
