//! One node's agent, as the controller calls it: plain values in and out, and failures of the way told from answers.

use std::{error::Error as _, future::Future, time::Duration};

use tonic::{Code, Response, Status};
use varve_csi::status::chain;
use varve_proto::agent::{
    Activity, CreateCutsRequest, CreateImageRequest, Cut, DeleteCutRequest, DeleteImageRequest, ExpandImageRequest,
    ExpandImageResponse, GetPoolRequest, GetPoolResponse, Image, ListActivitiesRequest, ListCutsRequest,
    ListImagesRequest, ModifyImageRequest,
};

use crate::nodes::Client;

/// A node's agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    node: String,
    client: Client,
    patience: Duration,
}

/// Tells whether an answer leaves it open what happened, or will happen, on the node: the same call is to be made again.
/// All other codes are verdicts. The list is that of the Kubernetes sidecars, which go on with a call after these codes
/// and take it for ended after any other.
pub(crate) fn is_transient(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Aborted | Code::Unavailable
    )
}

impl Agent {
    /// Wraps a node's client; questions that take no work are given up after `patience`.
    pub(crate) fn new(node: String, client: Client, patience: Duration) -> Self {
        Self { node, client, patience }
    }

    /// The node's name.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) async fn create_image(&self, request: CreateImageRequest) -> Result<(), Status> {
        self.work(self.client.clone().create_image(request)).await.map(drop)
    }

    pub(crate) async fn delete_image(&self, volume: String) -> Result<(), Status> {
        self.work(self.client.clone().delete_image(DeleteImageRequest { volume_id: volume })).await.map(drop)
    }

    pub(crate) async fn expand_image(&self, volume: String, bytes: u64) -> Result<ExpandImageResponse, Status> {
        let request = ExpandImageRequest { volume_id: volume, capacity_bytes: bytes };
        self.work(self.client.clone().expand_image(request)).await
    }

    pub(crate) async fn modify_image(&self, request: ModifyImageRequest) -> Result<(), Status> {
        self.work(self.client.clone().modify_image(request)).await.map(drop)
    }

    /// Lists all images, or the one of a volume.
    pub(crate) async fn images(&self, volume: Option<String>) -> Result<Vec<Image>, Status> {
        let request = ListImagesRequest { volume_id: volume.unwrap_or_default() };
        Ok(self.question(self.client.clone().list_images(request)).await?.images)
    }

    pub(crate) async fn create_cuts(&self, request: CreateCutsRequest) -> Result<Vec<Cut>, Status> {
        let wanted = request.members.len();
        let cuts = self.work(self.client.clone().create_cuts(request)).await?.cuts;
        if cuts.len() == wanted {
            Ok(cuts)
        } else {
            Err(Status::internal(format!("node {:?} answered {} cuts for {wanted}", self.node, cuts.len())))
        }
    }

    pub(crate) async fn cuts(&self, request: ListCutsRequest) -> Result<Vec<Cut>, Status> {
        Ok(self.question(self.client.clone().list_cuts(request)).await?.cuts)
    }

    pub(crate) async fn delete_cut(&self, snapshot: String) -> Result<(), Status> {
        self.work(self.client.clone().delete_cut(DeleteCutRequest { snapshot_id: snapshot })).await.map(drop)
    }

    pub(crate) async fn pool(&self) -> Result<GetPoolResponse, Status> {
        self.question(self.client.clone().get_pool(GetPoolRequest {})).await
    }

    /// Lists what is under way and what needs a person.
    pub(crate) async fn activities(&self) -> Result<Vec<Activity>, Status> {
        Ok(self.question(self.client.clone().list_activities(ListActivitiesRequest {})).await?.activities)
    }

    /// Waits for work, for as long as the caller of the CSI call does.
    async fn work<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        call.await.map(Response::into_inner).map_err(|status| self.explain(status))
    }

    /// Waits for what an agent that is well answers at once.
    async fn question<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        match tokio::time::timeout(self.patience, self.work(call)).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(Status::unavailable(format!("node {:?} did not answer within {:?}", self.node, self.patience)))
            }
        }
    }

    /// Passes an agent's own answer on with its code and message. A status that was made on this side, because the
    /// connection failed, has a source or the code `UNKNOWN`, which agents do not use.
    fn explain(&self, status: Status) -> Status {
        if status.source().is_some() || status.code() == Code::Unknown {
            let reason = status.source().map_or_else(|| status.message().to_owned(), chain);
            Status::unavailable(format!("node {:?} cannot be reached: {reason}", self.node))
        } else {
            Status::new(status.code(), status.message())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use varve_proto::agent::agent_client::AgentClient;

    use super::*;
    use crate::testing::{Bench, Fault, Method, connect};

    fn agent(channel: tonic::transport::Channel) -> Agent {
        Agent::new("a".to_owned(), AgentClient::new(channel), Duration::from_millis(50))
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_unavailable_and_names_the_node() {
        let (client, server) = tokio::io::duplex(1024);
        let agent = agent(connect(client).await);
        drop(server);
        let status = agent.delete_image("vol".to_owned()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().starts_with("node \"a\" cannot be reached"), "{}", status.message());
        // Nor does it come back.
        assert_eq!(agent.pool().await.unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn an_agent_that_hangs_is_not_waited_for() {
        let (client, _server) = tokio::io::duplex(1024);
        let agent = agent(connect(client).await);
        let asked = Instant::now();
        let status = agent.pool().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("did not answer within 50ms"), "{}", status.message());
        assert!(asked.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn an_answer_passes_through_with_its_code_and_message() {
        let bench = Bench::new(&["a"]).await;
        bench.agent("a").fail(Method::DeleteImage, Fault::Verdict(Code::FailedPrecondition));
        let agent = agent(crate::testing::serve(bench.agent("a")).await);
        let status = agent.delete_image("vol".to_owned()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "node \"a\" is told to fail"));
    }
}
