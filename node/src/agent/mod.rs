//! The agent: what a controller asks of the node that holds a volume's image.

mod ailment;

use std::sync::Arc;

pub use ailment::{Ailment, Severity};
use varve_csi::exclusive::Exclusive;
use varve_repository::Repository;

use crate::{
    config::Config,
    cut::Cuts,
    pool::Pool,
    volume::{Volume, Volumes},
};

/// The agent of one node. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Agent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    pool: Pool,
    repository: Repository,
    volumes: Volumes,
    cuts: Cuts,
    exclusive: Exclusive,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {}

impl Agent {
    /// Puts the pool in order after whatever ended the last process, and takes up its offloads where they were.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config, pool: Pool, repository: Repository) -> Result<Self, StartError> {
        let _ = (config, pool, repository);
        unimplemented!()
    }

    /// Takes no more calls, interrupts offloads and hydrations, and waits for what cannot be interrupted. Afterwards
    /// nothing is frozen, nothing is under way, and the caller may close the pool.
    pub async fn stop(&self) {
        unimplemented!()
    }

    /// The node's name.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.0.config.node_id
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// The repository that cuts are offloaded to.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.0.repository
    }

    /// The volumes of this node.
    #[must_use]
    pub fn volumes(&self) -> &Volumes {
        &self.0.volumes
    }

    /// The cuts of this node.
    #[must_use]
    pub fn cuts(&self) -> &Cuts {
        &self.0.cuts
    }

    /// What calls are working on: by volume id and by snapshot id, as text. The CSI service of the node takes part.
    #[must_use]
    pub fn exclusive(&self) -> &Exclusive {
        &self.0.exclusive
    }

    /// Finds out what is the matter with a volume; blocks.
    #[must_use]
    pub fn ailments(&self, volume: &Volume) -> Vec<Ailment> {
        let _ = volume;
        unimplemented!()
    }

    /// Finds out what is the matter with the pool; blocks.
    #[must_use]
    pub fn pool_ailments(&self) -> Vec<Ailment> {
        unimplemented!()
    }
}
