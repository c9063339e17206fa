//! Which cuts are kept as bases once they are offloaded.
//!
//! A *lineage* is one incarnation of a volume. Its base is its newest offloaded cut; before there is one, it is the
//! snapshot that the volume was made from. A lineage is served for as long as its volume is here, or a cut of it still has
//! to be offloaded. Every offloaded cut that is no served lineage's base is superseded: it only holds blocks.
//!
//! Nothing of this is recorded: it follows from what is here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use uuid::Uuid;
use varve_repository::id::{SnapshotId, VolumeId};

use super::{Cut, State};
use crate::volume::Volume;

/// One incarnation of a volume.
pub(crate) type Lineage = (VolumeId, Uuid);

/// What counts of a cut.
#[derive(Clone, Copy, Debug)]
struct Fact {
    id: SnapshotId,
    lineage: Lineage,
    created_at: Timestamp,
    kind: Kind,
    origin: Option<SnapshotId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Wanted,
    Base,
    Other,
}

impl From<&Cut> for Fact {
    fn from(cut: &Cut) -> Self {
        let record = cut.record();
        Self {
            id: record.description.id,
            lineage: (record.description.volume, record.description.incarnation),
            created_at: record.description.created_at,
            kind: match record.state {
                State::Pending | State::Failed { .. } => Kind::Wanted,
                State::Base => Kind::Base,
                State::NodeOnly | State::GivenUp { .. } => Kind::Other,
            },
            origin: record.origin,
        }
    }
}

/// Finds the cut that the next one of a lineage is computed against: offloaded, and here. `origin` is what the volume was
/// made from.
pub(crate) fn base(cuts: &[Cut], lineage: Lineage, origin: Option<SnapshotId>) -> Option<SnapshotId> {
    let facts: Vec<_> = cuts.iter().map(Fact::from).collect();
    newest(&facts, lineage).or_else(|| {
        let origin = origin?;
        facts.iter().any(|fact| fact.id == origin && fact.kind == Kind::Base).then_some(origin)
    })
}

/// Finds the cuts that nothing will be computed against any more.
pub(crate) fn superseded(cuts: &[Cut], volumes: &[Volume]) -> Vec<SnapshotId> {
    let facts: Vec<_> = cuts.iter().map(Fact::from).collect();
    let here = volumes.iter().map(|volume| {
        let record = volume.record();
        ((record.id, record.incarnation), record.origin)
    });
    decide(&facts, here)
}

fn decide(facts: &[Fact], volumes: impl Iterator<Item = (Lineage, Option<SnapshotId>)>) -> Vec<SnapshotId> {
    let wanted = facts.iter().filter(|fact| fact.kind == Kind::Wanted).map(|fact| (fact.lineage, fact.origin));
    let served: BTreeMap<Lineage, Option<SnapshotId>> = volumes.chain(wanted).collect();
    let kept: BTreeSet<SnapshotId> =
        served.into_iter().filter_map(|(lineage, origin)| newest(facts, lineage).or(origin)).collect();
    facts.iter().filter(|fact| fact.kind == Kind::Base && !kept.contains(&fact.id)).map(|fact| fact.id).collect()
}

fn newest(facts: &[Fact], lineage: Lineage) -> Option<SnapshotId> {
    facts
        .iter()
        .filter(|fact| fact.lineage == lineage && fact.kind == Kind::Base)
        .max_by_key(|fact| (fact.created_at, fact.id))
        .map(|fact| fact.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(n: u8) -> SnapshotId {
        SnapshotId::from_bytes([n; 16])
    }

    fn lineage(n: u8) -> Lineage {
        (VolumeId::from_bytes([n; 16]), Uuid::from_bytes([n; 16]))
    }

    fn fact(id: u8, of: u8, kind: Kind, origin: Option<u8>) -> Fact {
        let created_at = Timestamp::from_second(i64::from(id)).expect("within range");
        Fact { id: snapshot(id), lineage: lineage(of), created_at, kind, origin: origin.map(snapshot) }
    }

    fn superseded(facts: &[Fact], volumes: &[(u8, Option<u8>)]) -> Vec<SnapshotId> {
        decide(facts, volumes.iter().map(|(n, origin)| (lineage(*n), origin.map(snapshot))))
    }

    #[test]
    fn the_newest_base_of_a_volume_is_kept() {
        let facts = [fact(1, 1, Kind::Base, None), fact(2, 1, Kind::Base, None), fact(3, 1, Kind::Wanted, None)];
        assert_eq!(superseded(&facts, &[(1, None)]), [snapshot(1)]);
    }

    #[test]
    fn bases_go_with_their_volume_unless_a_cut_waits() {
        assert_eq!(superseded(&[fact(1, 1, Kind::Base, None)], &[]), [snapshot(1)]);
        assert_eq!(superseded(&[fact(1, 1, Kind::Base, None), fact(2, 1, Kind::Wanted, None)], &[]), []);
    }

    #[test]
    fn an_origin_is_kept_until_the_clone_has_a_base_of_its_own() {
        let origin = fact(1, 1, Kind::Base, None);
        assert_eq!(superseded(&[origin], &[(2, Some(1))]), []);
        assert_eq!(superseded(&[origin, fact(5, 2, Kind::Wanted, Some(1))], &[]), []);
        assert_eq!(superseded(&[origin, fact(5, 2, Kind::Base, Some(1))], &[(2, Some(1))]), [snapshot(1)]);
    }

    #[test]
    fn an_earlier_incarnation_is_another_lineage() {
        let mut old = fact(9, 1, Kind::Base, None);
        old.lineage.1 = Uuid::from_bytes([77; 16]);
        assert_eq!(superseded(&[fact(1, 1, Kind::Base, None), old], &[(1, None)]), [snapshot(9)]);
    }

    #[test]
    fn what_is_wanted_or_kept_on_the_node_is_never_superseded() {
        assert_eq!(superseded(&[fact(1, 1, Kind::Wanted, None), fact(2, 2, Kind::Other, None)], &[]), []);
    }
}
