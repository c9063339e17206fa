//! What the tests of the link stand on: repositories with a clock that can be moved, an agent that says what it was asked.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};
use varve_controller::nodes::{Client, Error, Nodes as _};
use varve_link::{
    Trust,
    directory::{Directory, Table},
    listen::Listener,
    nodes::Dialled,
};
use varve_proto::agent::{
    Activity, CreateCutsRequest, CreateCutsResponse, CreateImageRequest, CreateImageResponse, DeleteCutRequest,
    DeleteCutResponse, DeleteImageRequest, DeleteImageResponse, ExpandImageRequest, ExpandImageResponse,
    GetPoolRequest, GetPoolResponse, ListActivitiesRequest, ListActivitiesResponse, ListCutsRequest, ListCutsResponse,
    ListImagesRequest, ListImagesResponse, ModifyImageRequest, ModifyImageResponse,
    agent_server::{Agent, AgentServer},
};
use varve_repository::{
    Repository,
    crypto::MasterKey,
    seam::{Clock, Seams, System, Work},
    store::Store,
};

/// A clock that goes as it is told to.
#[derive(Debug)]
pub(crate) struct Moved(AtomicI64);

impl Moved {
    /// Puts it so far ahead of the machine's, or behind.
    pub(crate) fn by(&self, hours: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "some days")]
        self.0.store((hours * 3600.0) as i64, Ordering::SeqCst);
    }
}

impl Clock for Moved {
    fn now(&self) -> jiff::Timestamp {
        System.now() + jiff::SignedDuration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// A repository, its key, and a clock for each process that opens it.
pub(crate) struct Place {
    folder: TempDir,
    key: MasterKey,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), key: MasterKey::generate(&System) }
    }

    /// Opens it as another process would.
    pub(crate) async fn open(&self) -> (Trust, Arc<Moved>) {
        let clock = Arc::new(Moved(AtomicI64::new(0)));
        let seams = Seams::new(Arc::clone(&clock) as Arc<dyn Clock>, Arc::new(System), Work::Threads);
        let store = Store::open(&format!("file://{}", self.folder.path().display()), &[]).unwrap();
        let repository = Repository::open_or_init(store, &self.key, seams).await.unwrap();
        (Trust::of(&repository), clock)
    }
}

/// An agent that knows its name.
#[derive(Clone)]
struct Named(String);

#[tonic::async_trait]
impl Agent for Named {
    async fn get_pool(&self, _: Request<GetPoolRequest>) -> Result<Response<GetPoolResponse>, Status> {
        Ok(Response::new(GetPoolResponse { node_id: self.0.clone(), ..Default::default() }))
    }

    async fn list_activities(
        &self,
        _: Request<ListActivitiesRequest>,
    ) -> Result<Response<ListActivitiesResponse>, Status> {
        let activity = Activity { volume_name: self.0.clone(), ..Default::default() };
        Ok(Response::new(ListActivitiesResponse { activities: vec![activity] }))
    }

    async fn create_image(&self, _: Request<CreateImageRequest>) -> Result<Response<CreateImageResponse>, Status> {
        std::future::pending().await
    }

    async fn delete_image(&self, _: Request<DeleteImageRequest>) -> Result<Response<DeleteImageResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn expand_image(&self, _: Request<ExpandImageRequest>) -> Result<Response<ExpandImageResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn modify_image(&self, _: Request<ModifyImageRequest>) -> Result<Response<ModifyImageResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn create_cuts(&self, _: Request<CreateCutsRequest>) -> Result<Response<CreateCutsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_cuts(&self, _: Request<ListCutsRequest>) -> Result<Response<ListCutsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_cut(&self, _: Request<DeleteCutRequest>) -> Result<Response<DeleteCutResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A node that listens. Dropping it ends it.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Node {
    /// Listens on a free port.
    pub(crate) async fn start(trust: &Trust, name: &str) -> Self {
        Self::start_at(trust, name, "127.0.0.1:0".parse().unwrap()).await
    }

    /// Listens on an address.
    pub(crate) async fn start_at(trust: &Trust, name: &str, address: SocketAddr) -> Self {
        let listener = Listener::bind(address).await.unwrap();
        let (address, trust, name) = (listener.address(), trust.clone(), name.to_owned());
        let (shutdown, stop) = (CancellationToken::new(), CancellationToken::new());
        let tokens = (shutdown.clone(), stop.clone());
        let routes = Routes::new(AgentServer::new(Named(name.clone())));
        let task =
            tokio::spawn(async move { listener.serve(&trust, &name, routes, tokens.0, tokens.1).await.unwrap() });
        Self { address, shutdown, stop, task }
    }

    /// Ends it, whatever is under way.
    pub(crate) async fn end(mut self) {
        self.shutdown.cancel();
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A directory whose one node moves.
#[derive(Debug)]
pub(crate) struct Moving(pub(crate) Mutex<SocketAddr>);

#[tonic::async_trait]
impl Directory for Moving {
    async fn names(&self) -> Result<Vec<String>, Error> {
        Ok(vec!["a".to_owned()])
    }

    async fn address(&self, _: &str) -> Result<String, Error> {
        Ok(self.0.lock().unwrap().to_string())
    }
}

/// A controller's client of a node called `a`.
pub(crate) async fn client(trust: &Trust, address: SocketAddr) -> Client {
    let table = Table::new([("a".to_owned(), address.to_string())].into());
    Dialled::new(trust, Arc::new(table)).agent("a").await.unwrap()
}

/// Asks a node for its name once.
pub(crate) async fn ask(client: &Client) -> Result<String, Status> {
    client.clone().get_pool(GetPoolRequest {}).await.map(|answer| answer.into_inner().node_id)
}

/// Asks a node for its name until it answers: attempts to connect come in pauses.
pub(crate) async fn ask_again(client: &Client) -> String {
    let answered = async {
        loop {
            match ask(client).await {
                Ok(name) => return name,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answered).await.expect("it answers")
}
