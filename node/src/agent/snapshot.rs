//! Snapshots: cutting, listing and deleting.
//!
//! # Crash consistency
//!
//! A cut is answered for only once it is durable. A call that is repeated finds it here, or finds its root in the
//! repository; it never cuts under the same id again, since that would be another instant.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures::future::{join_all, try_join_all};
use jiff::Timestamp;
use varve_repository::{
    SnapshotState,
    id::{GroupId, SnapshotId, VolumeId},
    record::snapshot::{Root, SnapshotDescription},
};

use super::{Agent, Error, Result};
use crate::{
    cut::{
        self, Cut, Status, keep,
        making::{self, Made, Member},
    },
    volume::Volume,
};

/// Where a snapshot is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// In the repository: ready when its root is committed.
    Bucket,
    /// On this node alone: ready at the cut.
    Node,
}

/// One snapshot that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedCut {
    pub(super) id: SnapshotId,
    pub(super) name: String,
    pub(super) volume: VolumeId,
    /// Of this one alone.
    pub(super) parameters: BTreeMap<String, String>,
}

/// Snapshots that are wanted, all of one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedCuts {
    pub(super) members: Vec<WantedCut>,
    pub(super) group: Option<GroupId>,
    pub(super) durability: Durability,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) wait: Duration,
}

/// A snapshot, as it is found.
#[derive(Clone, Debug)]
pub(super) struct FoundCut {
    pub(super) description: SnapshotDescription,
    pub(super) status: Status,
    pub(super) durability: Durability,
    pub(super) total_bytes: u64,
    pub(super) done_bytes: u64,
}

impl From<&Cut> for FoundCut {
    fn from(cut: &Cut) -> Self {
        let record = cut.record();
        let progress = cut.progress().read();
        Self {
            description: record.description,
            status: cut.status().borrow().clone(),
            durability: match record.state {
                cut::State::NodeOnly => Durability::Node,
                cut::State::Pending | cut::State::Base | cut::State::Failed { .. } | cut::State::GivenUp { .. } => {
                    Durability::Bucket
                }
            },
            total_bytes: progress.total,
            done_bytes: progress.done,
        }
    }
}

impl From<&Root> for FoundCut {
    fn from(root: &Root) -> Self {
        Self {
            description: root.description.clone(),
            status: Status::Ready,
            durability: Durability::Bucket,
            total_bytes: root.statistics.changed_bytes,
            done_bytes: root.statistics.changed_bytes,
        }
    }
}

/// Where a wanted snapshot was found.
enum Known {
    Here(Cut),
    Committed(Box<Root>),
}

impl Known {
    fn description(&self) -> SnapshotDescription {
        match self {
            Self::Here(cut) => cut.record().description,
            Self::Committed(root) => root.description.clone(),
        }
    }
}

impl Agent {
    /// Cuts all members at one instant, starts their offloads and waits a while for those to end.
    pub(super) async fn create_cuts(&self, wanted: WantedCuts) -> Result<Vec<FoundCut>> {
        let wait = wanted.wait;
        let agent = self.clone();
        let known = self.run(async move { agent.cut(wanted).await }).await?;
        let _token = self.enter()?;
        let settled = join_all(known.iter().map(|known| async move {
            if let Known::Here(cut) = known {
                // An error means that the cut is gone, which its status says too.
                let _ = cut.status().wait_for(Status::is_settled).await;
            }
        }));
        tokio::select! {
            _ = settled => {}
            () = tokio::time::sleep(wait) => {}
            () = self.0.stop.cancelled() => {}
        }
        let mut found = Vec::with_capacity(known.len());
        for known in &known {
            found.push(match known {
                Known::Committed(root) => FoundCut::from(&**root),
                Known::Here(cut) => match FoundCut::from(cut) {
                    // A base that went is in the repository all the same.
                    FoundCut { status: Status::Removed, .. } => match self.repository().snapshot(cut.id()).await? {
                        SnapshotState::Committed(root) => FoundCut::from(&*root),
                        SnapshotState::Absent | SnapshotState::Gone(_) => return Err(Error::Deleted(cut.id())),
                    },
                    found => found,
                },
            });
        }
        Ok(found)
    }

    /// Finds the snapshots, or cuts them; holds the volumes only for so long.
    async fn cut(&self, wanted: WantedCuts) -> Result<Vec<Known>> {
        let ids: Vec<_> = wanted.members.iter().map(|member| member.id).collect();
        self.take_up_stranded(move |id| ids.contains(id)).await?;
        let held = wanted
            .members
            .iter()
            .flat_map(|member| [member.id.to_string(), member.volume.to_string()])
            .map(|id| self.hold(id))
            .collect::<Result<Vec<_>>>()?;
        let known = try_join_all(wanted.members.iter().map(|member| self.known(member, wanted.durability))).await?;
        if let Some(missing) = known.iter().position(Option::is_none) {
            if known.iter().any(Option::is_some) {
                return Err(Error::PartOfGroup { missing: wanted.members[missing].id });
            }
        } else {
            let known: Vec<_> = known.into_iter().flatten().collect();
            for known in &known {
                if let Known::Here(cut) = known {
                    self.try_again(cut);
                }
            }
            return Ok(known);
        }
        if wanted.durability == Durability::Bucket {
            self.admit_cuts(wanted.members.iter().map(|member| member.volume))?;
        }
        let volumes = wanted
            .members
            .iter()
            .map(|member| self.volumes().get(&member.volume).ok_or(Error::NoVolume(member.volume)))
            .collect::<Result<Vec<_>>>()?;
        self.require_room().await?;
        let order: Vec<SnapshotId> = wanted.members.iter().map(|member| member.id).collect();
        let cuts = self
            .block(move |agent| {
                let _held = held;
                agent.make_cuts(&wanted, &volumes)
            })
            .await?;
        for cut in &cuts {
            self.offload_cuts_of(cut.record().description.volume);
        }
        Ok(order.iter().filter_map(|id| cuts.iter().find(|cut| cut.id() == *id).cloned()).map(Known::Here).collect())
    }

    /// Finds a snapshot on this node or in the repository.
    async fn known(&self, wanted: &WantedCut, durability: Durability) -> Result<Option<Known>> {
        let known = match (self.cuts().get(&wanted.id), durability) {
            (Some(cut), _) => Some(Known::Here(cut)),
            (None, Durability::Node) => None,
            (None, Durability::Bucket) => match self.repository().snapshot(wanted.id).await? {
                SnapshotState::Absent => None,
                SnapshotState::Committed(root) => Some(Known::Committed(root)),
                SnapshotState::Gone(_) => return Err(Error::Deleted(wanted.id)),
            },
        };
        if let Some(known) = &known {
            let found = known.description().volume;
            if found != wanted.volume {
                return Err(Error::OtherVolume { id: wanted.id, found, wanted: wanted.volume });
            }
        }
        Ok(known)
    }

    fn make_cuts(&self, wanted: &WantedCuts, volumes: &[Volume]) -> Result<Vec<Cut>> {
        let pool = self.pool();
        let clock = &*self.repository().seams().clock;
        let members = wanted
            .members
            .iter()
            .zip(volumes)
            .map(|(one, volume)| self.member(wanted, one, volume, clock.now()))
            .collect();
        let name = wanted.group.map_or_else(|| wanted.members[0].id.to_string(), |group| group.to_string());
        let folder = pool.make_folder(&name).map_err(Error::system("making a folder in", pool.making_dir()))?;
        let made = making::make(&**pool.filesystem(), folder.clone(), members, &self.config().hold(), clock);
        let cuts = made.map_err(Error::from).and_then(|made| self.commit(&made));
        match cuts {
            Ok(cuts) => Ok(cuts),
            Err(error) => {
                self.observer().not_cut();
                discard(self, &folder);
                Err(error)
            }
        }
    }

    fn commit(&self, made: &Made) -> Result<Vec<Cut>> {
        let committed =
            making::commit(self.pool(), made).map_err(Error::system("putting cuts into", self.pool().cuts_dir()))?;
        let cuts = self.0.stranded.take_up(self.pool(), committed, |cut| self.cuts().insert(cut.clone()));
        let cuts = cuts.map_err(Error::system("taking up cuts in", self.pool().cuts_dir()))?;
        self.observer().cut(cuts.len(), made.pause());
        for cut in &cuts {
            let description = cut.record().description;
            tracing::info!(
                volume = %description.volume, snapshot = %description.id, bytes = description.capacity_bytes,
                frozen = description.frozen, pause_ms = made.pause().as_secs_f64() * 1e3, "cut"
            );
        }
        Ok(cuts)
    }

    /// Takes up cuts that were committed and then could not be, if there are any.
    ///
    /// # Errors
    /// The system's, where one that `concerns` the caller still cannot be: nothing can be said of it, nor be cut in its
    /// place.
    async fn take_up_stranded(&self, concerns: impl Fn(&SnapshotId) -> bool + Send + 'static) -> Result<()> {
        if self.0.stranded.is_empty() {
            return Ok(());
        }
        let (cuts, outcome) = self
            .block(move |agent| {
                Ok(agent.0.stranded.retry(agent.pool(), concerns, |cut| agent.cuts().insert(cut.clone())))
            })
            .await?;
        for cut in cuts {
            tracing::info!(snapshot = %cut.id(), "a cut that was committed is taken up");
            self.offload_cuts_of(cut.record().description.volume);
        }
        outcome.map_err(Error::system("taking up cuts in", self.pool().cuts_dir()))
    }

    fn member(&self, wanted: &WantedCuts, one: &WantedCut, volume: &Volume, now: Timestamp) -> Member {
        let record = volume.record();
        let description = SnapshotDescription {
            id: one.id,
            name: one.name.clone(),
            volume: record.id,
            volume_name: record.name,
            incarnation: record.incarnation,
            capacity_bytes: record.capacity_bytes,
            presentation: record.presentation,
            created_at: now,
            node: self.node_id().to_owned(),
            group: wanted.group,
            frozen: false,
            pause_nanos: 0,
            parameters: wanted
                .parameters
                .iter()
                .chain(&one.parameters)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        };
        let state = match wanted.durability {
            Durability::Bucket => cut::State::Pending,
            Durability::Node => cut::State::NodeOnly,
        };
        let record = cut::Record { description, state, origin: record.origin, offload: record.offload };
        Member { data: volume.data(), record }
    }

    /// Lists the cuts that a filter takes. Those of whole listings are the ones that are not in the repository.
    pub(super) async fn list_cuts(
        &self,
        id: Option<SnapshotId>,
        volume: Option<VolumeId>,
        group: Option<GroupId>,
    ) -> Result<Vec<FoundCut>> {
        let _token = self.enter()?;
        self.take_up_stranded(move |stranded| id.is_none_or(|id| id == *stranded)).await?;
        let matches = |cut: &Cut| {
            let record = cut.record();
            id.map_or(record.state != cut::State::Base, |id| cut.id() == id)
                && volume.is_none_or(|volume| record.description.volume == volume)
                && group.is_none_or(|group| record.description.group == Some(group))
        };
        Ok(self.cuts().list().iter().filter(|cut| matches(cut)).map(FoundCut::from).collect())
    }

    /// Forgets a cut, ending its offload and waiting for that. One that is not here is fine.
    pub(super) async fn delete_cut(&self, id: SnapshotId) -> Result<()> {
        let agent = self.clone();
        self.run(async move {
            agent.take_up_stranded(move |stranded| *stranded == id).await?;
            let _held = agent.hold(id)?;
            match agent.cuts().get(&id) {
                Some(cut) => agent.remove_cut(&cut).await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Removes a cut once nobody reads it any more.
    pub(super) async fn remove_cut(&self, cut: &Cut) -> Result<()> {
        let alone = cut.evict().await;
        let cut = cut.clone();
        self.block(move |agent| {
            let _alone = alone;
            if *cut.status().borrow() == Status::Removed {
                // Somebody else was first, and in its place there may be another one by now.
                return Ok(());
            }
            let folder = cut.folder();
            agent
                .pool()
                .remove_folder(folder)
                .or_else(|error| if folder.exists() { Err(error) } else { Ok(()) })
                .map_err(Error::system("removing", folder))?;
            agent.cuts().remove(&cut.id());
            agent.0.offloads.forget(cut.id());
            agent.0.activities.forget(cut.id());
            cut.set_status(Status::Removed);
            tracing::info!(snapshot = %cut.id(), "cut removed");
            Ok(())
        })
        .await
    }

    /// Removes the bases that nothing will be computed against any more. What fails is tried again the next time.
    pub(super) async fn shed(&self) {
        for id in keep::superseded(&self.cuts().list(), &self.volumes().list()) {
            if let Some(cut) = self.cuts().get(&id)
                && let Err(error) = self.remove_cut(&cut).await
            {
                tracing::warn!(snapshot = %id, error = &error as &dyn std::error::Error, "a base stays for now");
            }
        }
    }
}

fn discard(agent: &Agent, folder: &Path) {
    if let Err(error) = agent.pool().remove_folder(folder) {
        tracing::warn!(folder = %folder.display(), %error, "unfinished work stays until the next start");
    }
}
