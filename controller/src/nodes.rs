//! The seam to the cluster: which nodes exist, and how the agent of each is reached.

use std::fmt;

use async_trait::async_trait;
use tonic::{Status, transport::Channel};
use varve_proto::agent::agent_client::AgentClient;

/// A client of one node's agent. Cloning is cheap and shares the connection.
pub type Client = AgentClient<Channel>;

/// Why a node cannot be spoken to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such node, for certain: what it held is gone with it. Whoever cannot tell says `Unreachable`.
    #[error("there is no node {node:?}")]
    Unknown {
        /// The node's name.
        node: String,
    },
    /// The node exists, or may exist, and does not answer.
    #[error("node {node:?} cannot be reached: {reason}")]
    Unreachable {
        /// The node's name.
        node: String,
        /// What was tried, and what came of it.
        reason: String,
    },
    /// It cannot be told at present which nodes exist.
    #[error("the nodes cannot be listed: {reason}")]
    Unlisted {
        /// What was tried, and what came of it.
        reason: String,
    },
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::unavailable(error.to_string())
    }
}

/// The nodes of the cluster.
#[async_trait]
pub trait Nodes: Send + Sync + fmt::Debug {
    /// Names every node that has a pool, in order.
    ///
    /// # Errors
    /// `Unlisted`.
    async fn names(&self) -> Result<Vec<String>, Error>;

    /// Returns a client of the node's agent; it need not have connected yet.
    ///
    /// # Errors
    /// `Unknown` or `Unreachable`.
    async fn agent(&self, node: &str) -> Result<Client, Error>;
}

/// The one node of a process that is controller and node at once.
#[derive(Clone, Debug)]
pub struct Fixed {
    node: String,
    client: Client,
}

impl Fixed {
    /// Takes the node's name and a channel to its agent.
    #[must_use]
    pub fn new(node: impl Into<String>, channel: Channel) -> Self {
        Self { node: node.into(), client: AgentClient::new(channel) }
    }
}

#[async_trait]
impl Nodes for Fixed {
    async fn names(&self) -> Result<Vec<String>, Error> {
        Ok(vec![self.node.clone()])
    }

    async fn agent(&self, node: &str) -> Result<Client, Error> {
        if node == self.node { Ok(self.client.clone()) } else { Err(Error::Unknown { node: node.to_owned() }) }
    }
}
