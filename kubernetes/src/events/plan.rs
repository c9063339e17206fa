//! What is to be told: a pure function of what was told, what is under way, and the time.
//!
//! A piece of work goes through steps: it waits, begins, has come a tenth further, is delayed, has failed, is done. Each
//! step is told once, so that a snapshot or a claim has a dozen events of a kind of work at the most. What needs
//! somebody's attention and lasts is told again after a while, as the same event.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use varve_proto::agent::{
    Activity,
    activity::{Kind, State},
};

use super::words;

/// Work that ends within this time is told of when it ends, and not on its way.
const SHORT: SignedDuration = SignedDuration::from_secs(10);

/// How long it takes until something that lasts is told again.
pub(super) const AGAIN: SignedDuration = SignedDuration::from_mins(15);

/// How long it is remembered what was told of something that nobody mentions any more: longer than a node takes to start
/// anew, and than what has ended is mentioned.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(30);

/// A piece of work, or something that is the matter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    kind: i32,
    volume: String,
    /// The snapshot's name, or what is the matter with an image.
    what: String,
}

/// What is told once of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// It waits for its turn.
    Waiting,
    /// It is under way.
    Begun,
    /// So many tenths of it are done: 1 to 9.
    Tenths(u8),
    /// It failed, and is tried again by itself.
    Delayed,
    /// It needs a person.
    Failed,
    /// It ended well.
    Done,
}

impl Step {
    /// Whether it is told again while it lasts.
    pub(super) fn lasts(self) -> bool {
        matches!(self, Self::Delayed | Self::Failed)
    }
}

/// What was told of one piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Last {
    state: State,
    /// Since when it is in that state, as far as it was looked at.
    since: Timestamp,
    seen: Timestamp,
    told: BTreeMap<Step, Timestamp>,
}

/// What was told, of everything that was mentioned of late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told(BTreeMap<Key, Last>);

/// What somebody is to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// A VolumeSnapshot.
    Snapshot {
        /// Its handle; empty where there is no snapshot yet.
        id: String,
        /// What it is called in CreateSnapshot.
        name: String,
    },
    /// A PersistentVolumeClaim.
    Claim(Volume),
}

impl Object {
    /// The id of the volume or snapshot behind it.
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Snapshot { id, .. } => id,
            Self::Claim(volume) => &volume.id,
        }
    }
}

/// A volume, by which its claim is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    /// Its handle.
    pub(super) id: String,
    /// What it is called in CreateVolume.
    pub(super) name: String,
    /// Namespace and name of the claim that it is made for, where that is told.
    pub(super) claim: Option<(String, String)>,
}

/// A condition of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) kind: &'static str,
    pub(super) holds: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Telling {
    key: Key,
    pub(super) step: Step,
    pub(super) object: Object,
    pub(super) warning: bool,
    /// One CamelCase word.
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) condition: Option<(Volume, Condition)>,
}

impl Telling {
    /// A warning about a snapshot that the nodes know nothing of.
    pub(super) fn of_snapshot(reason: &str, message: String) -> Self {
        Self {
            key: Key { kind: Kind::Unspecified.into(), volume: String::new(), what: String::new() },
            step: Step::Failed,
            object: Object::Snapshot { id: String::new(), name: String::new() },
            warning: true,
            reason: reason.to_owned(),
            message,
            condition: None,
        }
    }
}

impl Told {
    /// Takes back that something was told.
    pub(super) fn forget(&mut self, telling: &Telling) {
        if let Some(last) = self.0.get_mut(&telling.key) {
            last.told.remove(&telling.step);
        }
    }
}

/// Works out what is to be told, and what will have been told then.
pub(super) fn plan(told: &Told, activities: &[Activity], now: Timestamp) -> (Told, Vec<Telling>) {
    let mut next = told.clone();
    let mut tellings = Vec::new();
    for (key, activity) in furthest(activities) {
        let state = activity.state();
        let fresh = || Last { state, since: now, seen: now, told: BTreeMap::new() };
        let last = next.0.entry(key.clone()).or_insert_with(fresh);
        last.seen = now;
        if last.state != state {
            (last.state, last.since) = (state, now);
        }
        let Some(step) = due(last, activity, now) else { continue };
        last.told.insert(step, now);
        tellings.push(telling(key, step, activity));
    }
    next.0.retain(|_, last| now.duration_since(last.seen) < REMEMBERED);
    (next, tellings)
}

/// Picks of each piece of work what has come furthest: a volume that moved to another node may be known to both.
fn furthest(activities: &[Activity]) -> BTreeMap<Key, &Activity> {
    let rank = |activity: &Activity| match activity.state() {
        State::Unspecified => 0,
        State::Failed => 1,
        State::Delayed => 2,
        State::Waiting => 3,
        State::Running => 4,
        State::Done => 5,
    };
    let mut furthest: BTreeMap<Key, &Activity> = BTreeMap::new();
    for activity in activities {
        let what = match activity.kind() {
            Kind::Unspecified => continue,
            Kind::Offload => &activity.snapshot_name,
            Kind::Hydration => &activity.snapshot_id,
            Kind::Health => &activity.reason,
        };
        let key = Key { kind: activity.kind, volume: activity.volume_id.clone(), what: what.clone() };
        let known = furthest.entry(key).or_insert(activity);
        if rank(activity) > rank(known) {
            *known = activity;
        }
    }
    furthest
}

/// Which step is to be told now, if any.
fn due(last: &Last, activity: &Activity, now: Timestamp) -> Option<Step> {
    let long = now.duration_since(last.since) >= SHORT;
    let step = match last.state {
        State::Unspecified => return None,
        // A turn that comes soon is not worth a word.
        State::Waiting => long.then_some(Step::Waiting)?,
        State::Running => match words::tenths(activity).filter(|_| long) {
            Some(tenths @ 1..=9) => {
                let further = last.told.keys().all(|step| !matches!(step, Step::Tenths(told) if *told >= tenths));
                further.then_some(Step::Tenths(tenths))?
            }
            _ => Step::Begun,
        },
        State::Delayed => Step::Delayed,
        State::Failed => Step::Failed,
        State::Done => Step::Done,
    };
    let late = |at: &Timestamp| step.lasts() && now.duration_since(*at) >= AGAIN;
    last.told.get(&step).is_none_or(late).then_some(step)
}

fn telling(key: Key, step: Step, activity: &Activity) -> Telling {
    let volume = volume_of(activity);
    let (reason, message) = (words::reason(step, activity), words::message(step, activity));
    let condition = words::condition(step, activity).map(|(kind, holds)| {
        (volume.clone(), Condition { kind, holds, reason: reason.clone(), message: message.clone() })
    });
    let object = match activity.kind() {
        Kind::Offload => Object::Snapshot { id: activity.snapshot_id.clone(), name: activity.snapshot_name.clone() },
        Kind::Hydration | Kind::Health | Kind::Unspecified => Object::Claim(volume),
    };
    Telling { key, step, object, warning: step.lasts(), reason, message, condition }
}

fn volume_of(activity: &Activity) -> Volume {
    // What the provisioner adds (`--extra-create-metadata`).
    let of_claim = |what: &str| activity.parameters.get(&format!("csi.storage.k8s.io/pvc/{what}")).cloned();
    let claim = of_claim("namespace").zip(of_claim("name"));
    Volume { id: activity.volume_id.clone(), name: activity.volume_name.clone(), claim }
}

/// Every reason that there can be but for those that the health of images has.
#[cfg(test)]
pub(super) fn reasons() -> std::collections::BTreeSet<String> {
    let steps = [Step::Waiting, Step::Begun, Step::Tenths(1), Step::Delayed, Step::Failed, Step::Done];
    let kinds = [Kind::Offload, Kind::Hydration];
    let of = |kind: Kind| Activity { kind: kind.into(), ..Activity::default() };
    let all = kinds.into_iter().flat_map(|kind| steps.map(|step| (kind, step)));
    // A hydration does not wait for a turn.
    let all = all.filter(|(kind, step)| (*kind, *step) != (Kind::Hydration, Step::Waiting));
    all.map(|(kind, step)| words::reason(step, &of(kind))).collect()
}

#[cfg(test)]
mod tests;
