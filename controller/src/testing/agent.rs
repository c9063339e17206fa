//! A stand-in for a node's agent. It has no pool and no images, only what the agent API tells of them, and keeps that
//! API's promises (idempotent calls, one instant for a group, a cut that is forgotten once its root is committed).
//!
//! It is there for the faults of nodes, which the real agent does not produce at will: answers that are lost after the work
//! is done, verdicts of every code, offloads that end between two looks, images that vanish. Roots are real: an
//! offload commits one to the repository.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;
use varve_proto::agent::{
    Activity, Ailment, CreateCutsRequest, CreateCutsResponse, CreateImageRequest, CreateImageResponse, Cut,
    DeleteCutRequest, DeleteCutResponse, DeleteImageRequest, DeleteImageResponse, Durability, ExpandImageRequest,
    ExpandImageResponse, GetPoolRequest, GetPoolResponse, Image, ListActivitiesRequest, ListActivitiesResponse,
    ListCutsRequest, ListCutsResponse, ListImagesRequest, ListImagesResponse, ModifyImageRequest, ModifyImageResponse,
    OffloadParameters, agent_server, create_cuts_request::Member, cut::State,
};
use varve_repository::{
    Repository, SnapshotState,
    block::{BlockSource, Blocks, Change, ChangeSource},
    offload::{self, Against},
    progress::Progress,
    record::{
        snapshot::{Root, SnapshotDescription},
        volume::Presentation,
    },
};

use super::GIB;

/// A call of the agent API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    CreateImage,
    DeleteImage,
    ExpandImage,
    ModifyImage,
    ListImages,
    CreateCuts,
    ListCuts,
    DeleteCut,
    GetPool,
    ListActivities,
}

/// What goes wrong with one call.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The work is done, and the answer never arrives.
    LostAnswer,
    /// The work is not done, and this is why.
    Verdict(Code),
    /// As a verdict, once the gate is open.
    VerdictAfter(Code, Gate),
    /// Just before the work every cut is offloaded and forgotten.
    OffloadFirst,
}

/// Holds a call until a test lets it go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Notify, Notify)>);

impl Gate {
    /// Waits until a call is at the gate.
    pub(crate) async fn reached(&self) {
        self.0.0.notified().await;
    }

    /// Lets the call go on.
    pub(crate) fn open(&self) {
        self.0.1.notify_one();
    }

    async fn pass(&self) {
        self.0.0.notify_one();
        self.0.1.notified().await;
    }
}

/// The stand-in. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct FakeAgent {
    node: String,
    repository: Repository,
    state: Arc<Mutex<World>>,
    gate: Gate,
}

#[derive(Debug)]
struct World {
    images: BTreeMap<String, Held>,
    cuts: BTreeMap<String, Cut>,
    faults: HashMap<Method, VecDeque<Fault>>,
    calls: Vec<Method>,
    instants: i64,
    capacity: u64,
    ailments: Vec<Ailment>,
    activities: Vec<Activity>,
    /// Whether offloads end within the wait of the call that began them.
    prompt: bool,
    waits: Vec<u32>,
    members: Vec<Member>,
    max_volumes: u32,
}

/// An image, and what it was made with.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) image: Image,
    pub(crate) request: CreateImageRequest,
    pub(crate) offload: OffloadParameters,
}

impl FakeAgent {
    pub(super) fn new(node: &str, repository: Repository) -> Self {
        let state = World {
            images: BTreeMap::new(),
            cuts: BTreeMap::new(),
            faults: HashMap::new(),
            calls: Vec::new(),
            instants: 0,
            capacity: 100 * GIB,
            ailments: Vec::new(),
            activities: Vec::new(),
            prompt: false,
            waits: Vec::new(),
            members: Vec::new(),
            max_volumes: 0,
        };
        Self { node: node.to_owned(), repository, state: Arc::new(Mutex::new(state)), gate: Gate::default() }
    }

    /// Lets the next call of a method go wrong, after those already told to.
    pub(crate) fn fail(&self, method: Method, fault: Fault) {
        self.state().faults.entry(method).or_default().push_back(fault);
    }

    /// The gate of this node.
    pub(crate) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// How often a method was called.
    pub(crate) fn calls(&self, method: Method) -> usize {
        self.state().calls.iter().filter(|call| **call == method).count()
    }

    /// The image of a volume, if it is there.
    pub(crate) fn held(&self, volume: &str) -> Option<Held> {
        self.state().images.get(volume).cloned()
    }

    /// Changes an image from outside.
    pub(crate) fn change_image(&self, volume: &str, change: impl FnOnce(&mut Image)) {
        change(&mut self.state().images.get_mut(volume).unwrap().image);
    }

    /// Loses an image, as a pool does that was made anew.
    pub(crate) fn lose_image(&self, volume: &str) {
        self.state().images.remove(volume);
    }

    /// The ids of all cuts.
    pub(crate) fn cut_ids(&self) -> Vec<String> {
        self.state().cuts.keys().cloned().collect()
    }

    /// Changes a cut from outside.
    pub(crate) fn change_cut(&self, snapshot: &str, change: impl FnOnce(&mut Cut)) {
        change(self.state().cuts.get_mut(snapshot).unwrap());
    }

    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    pub(crate) fn set_ailments(&self, ailments: Vec<Ailment>) {
        self.state().ailments = ailments;
    }

    pub(crate) fn set_activities(&self, activities: Vec<Activity>) {
        self.state().activities = activities;
    }

    /// Limits the volumes that may be published here; 0 lifts the limit.
    pub(crate) fn set_max_volumes(&self, most: u32) {
        self.state().max_volumes = most;
    }

    pub(crate) fn set_prompt(&self) {
        self.state().prompt = true;
    }

    /// How long the calls that made cuts were to wait, in milliseconds.
    pub(crate) fn waits(&self) -> Vec<u32> {
        self.state().waits.clone()
    }

    /// What cuts were asked for, in the order of the calls.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.state().members.clone()
    }

    /// Loses a cut.
    pub(crate) fn forget(&self, snapshot: &str) {
        self.state().cuts.remove(snapshot);
    }

    /// Ends the offload of a cut: its root is committed, and then the cut is forgotten.
    pub(crate) async fn offload(&self, snapshot: &str) {
        let cut = self.state().cuts[snapshot].clone();
        let description = self.describe(&cut);
        self.repository.offload(empty(description)).await.expect("the root is committed");
        self.state().cuts.remove(snapshot);
    }

    fn describe(&self, cut: &Cut) -> SnapshotDescription {
        let held = self.held(&cut.volume_id);
        let presentation = held.as_ref().map_or("ext4", |held| held.request.presentation.as_str());
        let presentation = [Presentation::Ext4, Presentation::Xfs, Presentation::Block]
            .into_iter()
            .find(|known| known.as_str() == presentation)
            .unwrap();
        let at = cut.created_at.unwrap();
        SnapshotDescription {
            id: cut.snapshot_id.parse().unwrap(),
            name: cut.snapshot_name.clone(),
            volume: cut.volume_id.parse().unwrap(),
            volume_name: held.as_ref().map_or_else(String::new, |held| held.request.volume_name.clone()),
            incarnation: held.map_or_else(Uuid::nil, |held| held.image.incarnation.parse().unwrap()),
            capacity_bytes: cut.size_bytes,
            presentation,
            created_at: Timestamp::new(at.seconds, at.nanos).unwrap(),
            node: self.node.clone(),
            group: (!cut.group_id.is_empty()).then(|| cut.group_id.parse().unwrap()),
            frozen: false,
            pause_nanos: 0,
            parameters: BTreeMap::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, World> {
        self.state.lock().unwrap()
    }

    /// Counts the call, and does `work` unless a fault says otherwise.
    async fn answer<T>(
        &self,
        method: Method,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let fault = {
            let mut state = self.state();
            state.calls.push(method);
            state.faults.get_mut(&method).and_then(VecDeque::pop_front)
        };
        match fault {
            Some(Fault::Verdict(code)) => Err(Status::new(code, format!("node {:?} is told to fail", self.node))),
            Some(Fault::VerdictAfter(code, gate)) => {
                gate.pass().await;
                Err(Status::new(code, format!("node {:?} is told to fail", self.node)))
            }
            Some(Fault::LostAnswer) => {
                work.await?;
                Err(Status::unknown("the connection was reset"))
            }
            Some(Fault::OffloadFirst) => {
                for snapshot in self.cut_ids() {
                    self.offload(&snapshot).await;
                }
                work.await.map(Response::new)
            }
            None => work.await.map(Response::new),
        }
    }

    fn make_image(&self, request: CreateImageRequest) -> Result<CreateImageResponse, Status> {
        let mut state = self.state();
        if let Some(held) = state.images.get(&request.volume_id) {
            return if held.request.incarnation == request.incarnation {
                Ok(CreateImageResponse {})
            } else {
                Err(Status::already_exists("another incarnation's image is in the way"))
            };
        }
        if state.room() < request.capacity_bytes {
            return Err(Status::resource_exhausted("the pool has no room"));
        }
        let image = Image {
            volume_id: request.volume_id.clone(),
            incarnation: request.incarnation.clone(),
            capacity_bytes: request.capacity_bytes,
            ..Image::default()
        };
        let offload = request.offload.unwrap_or_default();
        state.images.insert(request.volume_id.clone(), Held { image, request, offload });
        Ok(CreateImageResponse {})
    }

    async fn make_cuts(&self, request: CreateCutsRequest) -> Result<CreateCutsResponse, Status> {
        let mut cuts = Vec::new();
        {
            let mut state = self.state();
            state.instants += 1;
            state.waits.push(request.wait_millis);
            state.members.extend(request.members.iter().cloned());
        }
        for member in &request.members {
            cuts.push(self.make_cut(member, &request).await?);
        }
        if self.state().prompt {
            for cut in &mut cuts {
                if cut.state() != State::Ready {
                    self.offload(&cut.snapshot_id).await;
                    cut.set_state(State::Ready);
                }
            }
        }
        Ok(CreateCutsResponse { cuts })
    }

    async fn make_cut(&self, member: &Member, request: &CreateCutsRequest) -> Result<Cut, Status> {
        let known = self.state().cuts.get(&member.snapshot_id).cloned();
        if let Some(cut) = known {
            return if cut.volume_id == member.volume_id {
                Ok(cut)
            } else {
                Err(Status::already_exists("the id belongs to a cut of another volume"))
            };
        }
        match self.repository.snapshot(member.snapshot_id.parse().unwrap()).await.unwrap() {
            SnapshotState::Absent => {}
            SnapshotState::Committed(root) => {
                assert!(request.durability() == Durability::Bucket, "the controller has read the root before");
                return committed(&root, member);
            }
            SnapshotState::Gone(_) => return Err(Status::aborted("the snapshot was deleted")),
        }
        let mut state = self.state();
        let Some(held) = state.images.get(&member.volume_id) else {
            return Err(Status::not_found(format!("volume {} has no image here", member.volume_id)));
        };
        let instant = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_700_000_000 + state.instants);
        let kept_here = request.durability() == Durability::Node;
        let cut = Cut {
            snapshot_id: member.snapshot_id.clone(),
            snapshot_name: member.snapshot_name.clone(),
            volume_id: member.volume_id.clone(),
            group_id: request.group_id.clone(),
            created_at: Some(prost_types::Timestamp { seconds: instant.as_second(), nanos: 0 }),
            size_bytes: held.image.capacity_bytes,
            state: if kept_here { State::Ready } else { State::Pending }.into(),
            message: String::new(),
            durability: request.durability,
            total_bytes: 0,
            done_bytes: 0,
        };
        state.cuts.insert(member.snapshot_id.clone(), cut.clone());
        Ok(cut)
    }
}

impl World {
    fn room(&self) -> u64 {
        let promised: u64 = self.images.values().map(|held| held.image.capacity_bytes).sum();
        self.capacity.saturating_sub(promised)
    }
}

#[tonic::async_trait]
impl agent_server::Agent for FakeAgent {
    async fn create_image(
        &self,
        request: Request<CreateImageRequest>,
    ) -> Result<Response<CreateImageResponse>, Status> {
        self.answer(Method::CreateImage, async { self.make_image(request.into_inner()) }).await
    }

    async fn delete_image(
        &self,
        request: Request<DeleteImageRequest>,
    ) -> Result<Response<DeleteImageResponse>, Status> {
        let work = async {
            let volume = request.into_inner().volume_id;
            let mut state = self.state();
            if state.images.get(&volume).is_some_and(|held| held.image.staged) {
                return Err(Status::failed_precondition("the volume is staged"));
            }
            state.images.remove(&volume);
            Ok(DeleteImageResponse {})
        };
        self.answer(Method::DeleteImage, work).await
    }

    async fn expand_image(
        &self,
        request: Request<ExpandImageRequest>,
    ) -> Result<Response<ExpandImageResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            let mut state = self.state();
            let room = state.room();
            let held = state.images.get_mut(&request.volume_id).ok_or_else(|| Status::not_found("no image here"))?;
            let image = &mut held.image;
            if request.capacity_bytes > room.saturating_add(image.capacity_bytes) {
                return Err(Status::out_of_range("larger than the pool can hold"));
            }
            image.capacity_bytes = image.capacity_bytes.max(request.capacity_bytes);
            Ok(ExpandImageResponse { capacity_bytes: image.capacity_bytes, staged: image.staged })
        };
        self.answer(Method::ExpandImage, work).await
    }

    async fn modify_image(
        &self,
        request: Request<ModifyImageRequest>,
    ) -> Result<Response<ModifyImageResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            let mut state = self.state();
            let held = state.images.get_mut(&request.volume_id).ok_or_else(|| Status::not_found("no image here"))?;
            held.offload = request.offload.unwrap_or_default();
            Ok(ModifyImageResponse {})
        };
        self.answer(Method::ModifyImage, work).await
    }

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        let work = async {
            let volume = request.into_inner().volume_id;
            let state = self.state();
            let images = state.images.values().map(|held| held.image.clone());
            let images = images.filter(|image| volume.is_empty() || image.volume_id == volume).collect();
            Ok(ListImagesResponse { images })
        };
        self.answer(Method::ListImages, work).await
    }

    async fn create_cuts(&self, request: Request<CreateCutsRequest>) -> Result<Response<CreateCutsResponse>, Status> {
        self.answer(Method::CreateCuts, self.make_cuts(request.into_inner())).await
    }

    async fn list_cuts(&self, request: Request<ListCutsRequest>) -> Result<Response<ListCutsResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
            let matches = |cut: &&Cut| {
                is(&request.snapshot_id, &cut.snapshot_id)
                    && is(&request.volume_id, &cut.volume_id)
                    && is(&request.group_id, &cut.group_id)
            };
            Ok(ListCutsResponse { cuts: self.state().cuts.values().filter(matches).cloned().collect() })
        };
        self.answer(Method::ListCuts, work).await
    }

    async fn delete_cut(&self, request: Request<DeleteCutRequest>) -> Result<Response<DeleteCutResponse>, Status> {
        let work = async {
            self.state().cuts.remove(&request.into_inner().snapshot_id);
            Ok(DeleteCutResponse {})
        };
        self.answer(Method::DeleteCut, work).await
    }

    async fn get_pool(&self, _: Request<GetPoolRequest>) -> Result<Response<GetPoolResponse>, Status> {
        let work = async {
            let state = self.state();
            Ok(GetPoolResponse {
                node_id: self.node.clone(),
                capacity_bytes: state.capacity,
                free_bytes: state.capacity,
                provisionable_bytes: state.room(),
                largest_volume_bytes: state.room(),
                filesystem: "xfs".to_owned(),
                ailments: state.ailments.clone(),
                max_volumes: state.max_volumes,
            })
        };
        self.answer(Method::GetPool, work).await
    }

    async fn list_activities(
        &self,
        _: Request<ListActivitiesRequest>,
    ) -> Result<Response<ListActivitiesResponse>, Status> {
        let work = async { Ok(ListActivitiesResponse { activities: self.state().activities.clone() }) };
        self.answer(Method::ListActivities, work).await
    }
}

/// What a node answers of a snapshot that it finds in the repository.
fn committed(root: &Root, member: &Member) -> Result<Cut, Status> {
    let SnapshotDescription { id, name, volume, group, capacity_bytes, created_at, .. } = &root.description;
    if volume.to_string() != member.volume_id {
        return Err(Status::already_exists("the id belongs to a snapshot of another volume"));
    }
    Ok(Cut {
        snapshot_id: id.to_string(),
        snapshot_name: name.clone(),
        volume_id: volume.to_string(),
        group_id: group.map(|group| group.to_string()).unwrap_or_default(),
        created_at: Some(prost_types::Timestamp { seconds: created_at.as_second(), nanos: 0 }),
        size_bytes: *capacity_bytes,
        state: State::Ready.into(),
        message: String::new(),
        durability: Durability::Bucket.into(),
        total_bytes: 0,
        done_bytes: 0,
    })
}

/// The offload of a cut that is all zeroes.
fn empty(description: SnapshotDescription) -> offload::Request {
    let blocks = Blocks::from_bytes(description.capacity_bytes).unwrap();
    offload::Request {
        description,
        against: Against::Nothing,
        changes: Arc::new(Zeroes(blocks)),
        source: Arc::new(Zeroes(blocks)),
        journal: None,
        parameters: Default::default(),
        progress: Progress::default(),
        cancel: CancellationToken::new(),
    }
}

/// An image without a single written block.
struct Zeroes(Blocks);

impl ChangeSource for Zeroes {
    fn changes(&self, _: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        Ok(Box::new(std::iter::empty()))
    }
}

impl BlockSource for Zeroes {
    fn capacity(&self) -> Blocks {
        self.0
    }

    fn read(&self, _: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }
}
