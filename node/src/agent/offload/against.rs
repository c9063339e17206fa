//! What an offload is computed against.

use tokio::sync::OwnedRwLockReadGuard;
use varve_repository::{SnapshotState, id::SnapshotId, offload::Against};

use super::{Agent, Result};
use crate::cut::{Cut, Record, keep};

/// What an offload relies upon, from the most to the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trust {
    /// The extent maps of this node's file system, and what the repository holds.
    #[default]
    ExtentMaps,
    /// What the repository holds; everything allocated is compared with it.
    Content,
    /// Nothing: everything allocated is sent.
    Nothing,
}

impl Trust {
    /// Says why no more is relied upon.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::ExtentMaps => "nothing is wrong",
            Self::Content => "extent maps were wrong, so it is compared with what the repository holds",
            Self::Nothing => "what the repository holds is damaged, so it is sent anew",
        }
    }
}

/// What an offload is computed against, with what it takes of this node.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) against: Against,
    /// The base whose blocks are compared, kept in place meanwhile; with `Against::Base` alone.
    pub(super) base: Option<(Cut, OwnedRwLockReadGuard<()>)>,
}

impl Agent {
    /// Chooses the best that can be had: a base that is here, else a snapshot of the same blocks in the repository, else
    /// nothing; but nothing beyond `trust`.
    pub(super) async fn choose(&self, record: &Record, trust: Trust) -> Result<Chosen> {
        if trust == Trust::Nothing {
            return Ok(Chosen { against: Against::Anew, base: None });
        }
        let description = &record.description;
        let lineage = (description.volume, description.incarnation);
        loop {
            let mut here = self.cuts().list();
            here.retain(|cut| !cut.removal().is_cancelled());
            let Some(id) = keep::base(&here, lineage, record.origin) else { break };
            let Some(cut) = here.into_iter().find(|cut| cut.id() == id) else { break };
            let Some(lease) = cut.lease().await else { continue };
            // As it was seen last: the offload looks behind its intent whether the base still stands, and if it does not, what
            // was seen last is that.
            match self.repository().snapshot_lately(id).await? {
                SnapshotState::Committed(_) if trust == Trust::Content => {
                    return Ok(Chosen { against: Against::Content(id), base: None });
                }
                SnapshotState::Committed(_) => {
                    return Ok(Chosen { against: Against::Base(id), base: Some((cut, lease)) });
                }
                SnapshotState::Absent | SnapshotState::Gone(_) => {
                    tracing::info!(base = %id, "a base is no longer in the repository and is of no use");
                    drop(lease);
                    self.remove_cut(&cut).await?;
                }
            }
        }
        let against = self.in_repository(record).await?.map_or(Against::Nothing, Against::Content);
        Ok(Chosen { against, base: None })
    }

    /// Finds a snapshot in the repository that holds much of what the cut holds.
    async fn in_repository(&self, record: &Record) -> Result<Option<SnapshotId>> {
        let description = &record.description;
        let roots = self.repository().readable_snapshots().await?.roots;
        let of_volume = roots
            .iter()
            .map(|root| &root.description)
            .filter(|root| root.volume == description.volume && root.id != description.id)
            .max_by_key(|root| (root.incarnation == description.incarnation, root.created_at, root.id));
        let origin = record.origin.filter(|origin| roots.iter().any(|root| root.description.id == *origin));
        Ok(of_volume.map(|root| root.id).or(origin))
    }
}
