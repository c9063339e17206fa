//! How many cuts may wait for their offload.

use std::collections::HashMap;

use varve_repository::id::VolumeId;

use super::{Agent, Error, Result};
use crate::cut::State;

impl Agent {
    /// Checks that one more cut of each volume may wait. Two calls at once may both find the last place free: the bound is
    /// there to keep the pool from filling up, and one more does not.
    ///
    /// # Errors
    /// `Backlog`.
    pub(in crate::agent) fn admit_cuts(&self, volumes: impl Iterator<Item = VolumeId>) -> Result<()> {
        let mut of_volume: HashMap<VolumeId, usize> = HashMap::new();
        let mut of_node = 0;
        for cut in self.cuts().list() {
            let record = cut.record();
            if matches!(record.state, State::Pending | State::Failed { .. }) {
                *of_volume.entry(record.description.volume).or_default() += 1;
                of_node += 1;
            }
        }
        let limits = &self.config().offload_limits;
        for volume in volumes {
            let waiting = of_volume.get(&volume).copied().unwrap_or_default();
            if waiting >= limits.waiting_of_volume {
                return Err(Error::Backlog { volume, waiting, most: limits.waiting_of_volume });
            }
            of_node += 1;
            if of_node > limits.waiting {
                return Err(Error::NodeBacklog { waiting: of_node - 1, most: limits.waiting });
            }
        }
        Ok(())
    }
}
