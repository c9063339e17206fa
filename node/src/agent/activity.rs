//! What is under way and what needs a person, for whoever tells those whom it concerns; with what ended of late, so that
//! somebody who asks now and then misses nothing.
//!
//! Offloads are read off the cuts, health off the images. What nothing else remembers is kept here, in memory and bounded:
//! hydrations that are under way, why offloads failed, and what has ended.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use varve_csi::{status::chain, trouble::Trouble};
use varve_proto::agent::{
    Activity,
    activity::{Kind, State},
};
use varve_repository::{
    id::{SnapshotId, VolumeId},
    progress::Progress,
    record::snapshot::Root,
};

use super::{Agent, Error, Result, image::Wanted};
use crate::cut::{self, Cut, Status};

/// How long what has ended is told of.
const KEPT: Duration = Duration::from_secs(600);

/// Most that have ended and are told of.
const MOST_KEPT: usize = 256;

/// Most that are listed.
const MOST_LISTED: usize = 1000;

/// Longest message, in bytes.
const LONGEST_MESSAGE: usize = 500;

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Activities(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    hydrations: BTreeMap<VolumeId, (Activity, Progress)>,
    /// Why offloads failed last.
    troubles: HashMap<SnapshotId, Trouble>,
    ended: VecDeque<(Instant, Activity)>,
}

/// A hydration that is listed until it is [ended](Self::end) or dropped.
pub(super) struct Hydration {
    agent: Agent,
    volume: VolumeId,
    began: Instant,
    /// How far it has come.
    pub(super) progress: Progress,
}

impl Activities {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers why a cut's offload failed.
    pub(super) fn troubled(&self, id: SnapshotId, error: &Error) {
        self.lock().troubles.insert(id, trouble(error));
    }

    /// Forgets what is remembered of a cut that is gone.
    pub(super) fn forget(&self, id: SnapshotId) {
        self.lock().troubles.remove(&id);
    }

    /// Remembers that a cut is in the repository, and what that took.
    pub(super) fn offloaded(&self, root: &Root, took: Duration) {
        let description = &root.description;
        let changed = root.statistics.changed_bytes;
        let activity = Activity {
            volume_id: description.volume.to_string(),
            volume_name: description.volume_name.clone(),
            snapshot_id: description.id.to_string(),
            snapshot_name: description.name.clone(),
            total_bytes: changed,
            done_bytes: changed,
            moved_bytes: root.statistics.uploaded_bytes,
            took_millis: millis(took),
            ..of(Kind::Offload, State::Done)
        };
        let mut remembered = self.lock();
        remembered.troubles.remove(&description.id);
        remembered.end(activity);
    }
}

impl Remembered {
    fn end(&mut self, activity: Activity) {
        let now = Instant::now();
        self.ended.retain(|(at, other)| now.duration_since(*at) < KEPT && !is_same(other, &activity));
        if self.ended.len() == MOST_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back((now, activity));
    }
}

impl Hydration {
    /// Lists the filling of a volume from a snapshot of the repository.
    pub(super) fn begin(agent: &Agent, wanted: &Wanted, source: SnapshotId) -> Self {
        let progress = Progress::within(agent.stages());
        let activity = Activity {
            volume_id: wanted.id.to_string(),
            volume_name: wanted.name.clone(),
            snapshot_id: source.to_string(),
            parameters: wanted.parameters.clone().into_iter().collect(),
            ..of(Kind::Hydration, State::Running)
        };
        let mut remembered = agent.0.activities.lock();
        remembered.ended.retain(|(_, ended)| !is_same(ended, &activity));
        remembered.hydrations.insert(wanted.id, (activity, progress.clone()));
        drop(remembered);
        Self { agent: agent.clone(), volume: wanted.id, began: Instant::now(), progress }
    }

    /// Remembers how it ended. One that was interrupted is nobody's concern.
    pub(super) fn end(self, outcome: &Result<()>) {
        let mut remembered = self.agent.0.activities.lock();
        let Some((activity, progress)) = remembered.hydrations.remove(&self.volume) else { return };
        let reading = progress.read();
        let counted = Activity { total_bytes: reading.total, done_bytes: reading.done, ..activity };
        let ended = match outcome {
            Ok(()) => Activity {
                state: State::Done.into(),
                moved_bytes: reading.moved,
                took_millis: millis(self.began.elapsed()),
                ..counted
            },
            Err(Error::Stopping | Error::Cancelled(_)) => return,
            Err(error) => {
                // Whoever asked for the volume asks again where the failure may pass.
                let passes = matches!(error, Error::Repository(error) if error.is_transient());
                let state = if passes { State::Delayed } else { State::Failed };
                let trouble = trouble(error);
                Activity { state: state.into(), ..described(counted, Some(trouble), &chain(error)) }
            }
        };
        remembered.end(ended);
    }
}

impl Drop for Hydration {
    fn drop(&mut self) {
        self.agent.0.activities.lock().hydrations.remove(&self.volume);
    }
}

impl Agent {
    /// Lists what is under way, what needs a person and what has ended of late, the most urgent first; blocks.
    pub(super) fn activities(&self) -> Vec<Activity> {
        let mut listed: Vec<_> = self.cuts().list().iter().filter_map(|cut| self.offload_of(cut)).collect();
        for volume in self.volumes().list() {
            let record = volume.record();
            listed.extend(self.image_ailments(&volume).into_iter().map(|ailment| Activity {
                volume_id: record.id.to_string(),
                volume_name: record.name.clone(),
                reason: ailment.reason.to_owned(),
                message: bounded(&ailment.message),
                ..of(Kind::Health, State::Failed)
            }));
        }
        let now = Instant::now();
        let remembered = self.0.activities.lock();
        listed.extend(remembered.hydrations.values().map(|(activity, progress)| {
            let reading = progress.read();
            Activity { total_bytes: reading.total, done_bytes: reading.done, ..activity.clone() }
        }));
        let late = remembered.ended.iter().filter(|(at, _)| now.duration_since(*at) < KEPT);
        listed.extend(late.map(|(_, activity)| activity.clone()));
        drop(remembered);
        listed.sort_by_key(|activity| urgency(activity.state()));
        listed.truncate(MOST_LISTED);
        listed
    }

    /// What there is to tell of a cut's offload.
    fn offload_of(&self, cut: &Cut) -> Option<Activity> {
        let record = cut.record();
        if matches!(record.state, cut::State::Base | cut::State::NodeOnly) {
            return None;
        }
        let status = cut.status().borrow().clone();
        let (state, message) = match status {
            Status::Pending { message } if message.is_empty() => (State::Waiting, message),
            Status::Pending { message } => (State::Delayed, message),
            Status::Offloading => (State::Running, String::new()),
            Status::Failed { message } => (State::Failed, message),
            Status::Ready | Status::Removed => return None,
        };
        let (description, progress) = (record.description, cut.progress().read());
        let activity = Activity {
            volume_id: description.volume.to_string(),
            volume_name: description.volume_name,
            snapshot_id: description.id.to_string(),
            snapshot_name: description.name,
            total_bytes: progress.total,
            done_bytes: progress.done,
            ..of(Kind::Offload, state)
        };
        Some(match state {
            // Its message says what happened and what to do.
            State::Failed if matches!(record.state, cut::State::GivenUp { .. }) => {
                Activity { reason: "PoolFull".to_owned(), message: bounded(&message), ..activity }
            }
            State::Delayed | State::Failed => {
                let trouble = self.0.activities.lock().troubles.get(&cut.id()).copied();
                described(activity, trouble, &message)
            }
            State::Unspecified | State::Waiting | State::Running | State::Done => activity,
        })
    }
}

fn of(kind: Kind, state: State) -> Activity {
    Activity { kind: kind.into(), state: state.into(), ..Activity::default() }
}

/// Tells whether two are about the same piece of work.
fn is_same(one: &Activity, other: &Activity) -> bool {
    let about = |activity: &Activity| (activity.kind, activity.volume_id.clone(), activity.snapshot_id.clone());
    about(one) == about(other)
}

/// Says what is the matter, in the words for users and in the system's.
fn described(activity: Activity, trouble: Option<Trouble>, message: &str) -> Activity {
    let Some(Trouble { reason, what, advice }) = trouble else {
        return Activity { message: bounded(message), ..activity };
    };
    let message = bounded(&format!("{what}: {message}"));
    Activity { reason: reason.to_owned(), message, advice: advice.to_owned(), ..activity }
}

fn trouble(error: &Error) -> Trouble {
    match error {
        Error::Repository(error) => Trouble::of(error.kind()),
        Error::System { .. } => Trouble::of(varve_repository::ErrorKind::Local),
        _ => Trouble::DRIVER,
    }
}

fn bounded(message: &str) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message.to_owned();
    }
    format!("{}…", &message[..message.floor_char_boundary(LONGEST_MESSAGE - '…'.len_utf8())])
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn urgency(state: State) -> u8 {
    match state {
        State::Failed => 0,
        State::Delayed => 1,
        State::Running => 2,
        State::Done => 3,
        State::Waiting | State::Unspecified => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(volume: usize) -> Activity {
        Activity { volume_id: volume.to_string(), ..of(Kind::Hydration, State::Done) }
    }

    #[test]
    fn invariant_8_what_has_ended_is_bounded_and_each_is_told_as_it_ended_last() {
        let mut remembered = Remembered::default();
        for volume in 0..MOST_KEPT + 10 {
            remembered.end(done(volume));
        }
        assert_eq!(remembered.ended.len(), MOST_KEPT);
        assert_eq!(remembered.ended.front().map(|(_, one)| one.volume_id.as_str()), Some("10"));
        let again = Activity { state: State::Failed.into(), ..done(20) };
        remembered.end(again.clone());
        assert_eq!(remembered.ended.len(), MOST_KEPT);
        let of_twenty: Vec<_> = remembered.ended.iter().filter(|(_, one)| one.volume_id == "20").collect();
        assert!(matches!(of_twenty[..], [(_, one)] if *one == again), "{of_twenty:?}");
    }

    #[test]
    fn a_message_is_bounded_and_says_what_is_the_matter_first() {
        let activity = described(of(Kind::Offload, State::Delayed), Some(Trouble::DRIVER), &"ä".repeat(400));
        assert!(activity.message.starts_with("the driver failed: ä") && activity.message.ends_with('…'));
        assert!(activity.message.len() <= LONGEST_MESSAGE, "{}", activity.message.len());
        assert_eq!(
            (activity.reason.as_str(), activity.advice.as_str()),
            (Trouble::DRIVER.reason, Trouble::DRIVER.advice)
        );
        let unknown = described(of(Kind::Offload, State::Failed), None, "no room");
        assert_eq!((unknown.reason.as_str(), unknown.message.as_str()), ("", "no room"));
    }
}
