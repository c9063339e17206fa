//! The nodes taken together: one agent by name, or all asked the same question at once.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tonic::Status;
use tracing::info;
use varve_proto::agent::{Cut, ListCutsRequest};
use varve_repository::id::SnapshotId;

use crate::{
    agent::Agent,
    nodes::{self, Nodes},
};

/// Nodes asked at the same time.
const AT_ONCE: usize = 32;

/// The nodes of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    nodes: Arc<dyn Nodes>,
    patience: Duration,
}

/// What the nodes answered to one question.
#[derive(Debug)]
pub(crate) struct Survey<T> {
    /// Each node that answered, and its answer, in the order of their names.
    pub(crate) answers: Vec<(String, T)>,
    /// Each node that did not, and why, in the order of their names.
    pub(crate) silent: Vec<(String, Status)>,
}

impl<T> Survey<T> {
    /// Says why nothing found is no proof that there is nothing; `None` where every node answered.
    pub(crate) fn doubt(&self, about: &str) -> Option<Status> {
        let (_, first) = self.silent.first()?;
        let more = self.silent.len() - 1;
        let others = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        Some(Status::unavailable(format!("{about} may be on a node that does not answer: {}{others}", first.message())))
    }
}

impl Fleet {
    pub(crate) fn new(nodes: Arc<dyn Nodes>, patience: Duration) -> Self {
        Self { nodes, patience }
    }

    /// Names every node, in order.
    pub(crate) async fn names(&self) -> Result<Vec<String>, nodes::Error> {
        Ok(self.nodes.names().await?.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// Returns a node's agent.
    pub(crate) async fn agent(&self, node: &str) -> Result<Agent, nodes::Error> {
        let client = self.nodes.agent(node).await?;
        Ok(Agent::new(node.to_owned(), client, self.patience))
    }

    /// Asks the nodes named the same question.
    pub(crate) async fn ask<T, F>(&self, names: Vec<String>, question: impl Fn(Agent) -> F) -> Survey<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let question = &question;
        let mut results: Vec<(String, Result<T, Status>)> = stream::iter(names)
            .map(|node| async move {
                let answer = match self.agent(&node).await {
                    Ok(agent) => question(agent).await,
                    Err(error) => Err(error.into()),
                };
                (node, answer)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        results.sort_by(|left, right| left.0.cmp(&right.0));
        let mut survey = Survey { answers: Vec::new(), silent: Vec::new() };
        for (node, answer) in results {
            match answer {
                Ok(answer) => survey.answers.push((node, answer)),
                Err(status) => survey.silent.push((node, status)),
            }
        }
        survey
    }

    /// Asks every node for the cuts that `request` selects.
    pub(crate) async fn cuts(&self, request: ListCutsRequest) -> Result<Survey<Vec<Cut>>, Status> {
        let names = self.names().await?;
        let request = &request;
        Ok(self.ask(names, |agent| async move { agent.cuts(request.clone()).await }).await)
    }

    /// Has a node forget a cut that the repository says is gone. The node finds that out by itself as well, when it
    /// would commit it and at its next start, so a failure is worth a line in the log and no more.
    pub(crate) async fn forget_cut(&self, node: &str, snapshot: SnapshotId) {
        let outcome = async {
            let agent = self.agent(node).await?;
            let call = agent.delete_cut(snapshot.to_string());
            tokio::time::timeout(self.patience, call)
                .await
                .unwrap_or_else(|_| Err(Status::unavailable(format!("no answer within {:?}", self.patience))))
        };
        if let Err(status) = outcome.await {
            info!(%snapshot, node, reason = status.message(), "the cut of a deleted snapshot is left to its node");
        }
    }
}
