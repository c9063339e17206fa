//! Which nodes there are, and where their agents listen.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use varve_controller::nodes::Error;

/// Says which nodes there are, and where their agents listen.
#[async_trait]
pub trait Directory: Send + Sync + fmt::Debug {
    /// Names every node that has a pool, in order.
    ///
    /// # Errors
    /// `Unlisted`.
    async fn names(&self) -> Result<Vec<String>, Error>;

    /// Returns where a node's agent listens at present, as `host:port`.
    ///
    /// # Errors
    /// `Unknown` where there is for certain no such node, `Unreachable` where it has no address at present or nobody can
    /// tell.
    async fn address(&self, node: &str) -> Result<String, Error>;
}

/// Nodes that were written down. What is not in it is gone.
#[derive(Clone, Debug)]
pub struct Table(BTreeMap<String, String>);

impl Table {
    /// Takes names of nodes and where their agents listen, as `host:port`.
    #[must_use]
    pub fn new(nodes: BTreeMap<String, String>) -> Self {
        Self(nodes)
    }
}

#[async_trait]
impl Directory for Table {
    async fn names(&self) -> Result<Vec<String>, Error> {
        Ok(self.0.keys().cloned().collect())
    }

    async fn address(&self, node: &str) -> Result<String, Error> {
        self.0.get(node).cloned().ok_or_else(|| Error::Unknown { node: node.to_owned() })
    }
}
