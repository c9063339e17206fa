//! What is under way in the cluster and what needs a person, for whoever tells users of it.
//!
//! The nodes know of offloads, hydrations and images. A snapshot that was not even cut, because the store did not answer, is
//! remembered here for a while: nothing depends on it, and a controller that starts anew learns it from the next call.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tonic::{Code, Status};
use tracing::debug;
use varve_csi::{status::chain, trouble::Trouble};
use varve_proto::agent::{
    Activity,
    activity::{Kind, State},
};
use varve_repository::{Error, id::VolumeId};

use crate::{Controller, nodes};

/// How long a snapshot that nobody asks for any more is told of. Whoever wants one asks again within half a minute or so.
const REMEMBERED: Duration = Duration::from_secs(120);

/// Most snapshots that are remembered.
const MOST: usize = 256;

/// Snapshots that could not be begun, as where the store did not answer, by name.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<String, (Instant, Activity)>>);

/// Why a snapshot is not begun yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delay {
    reason: &'static str,
    message: String,
    advice: &'static str,
}

impl Delay {
    /// The store did not answer, or refused.
    pub(crate) fn of_store(error: &Error) -> Self {
        let Trouble { reason, what, advice } = Trouble::of(error.kind());
        Self { reason, message: format!("{what}: {}", chain(error)), advice }
    }

    /// The node said so; `None` where the answer is to be read by the caller alone.
    pub(crate) fn of_node(status: &Status) -> Option<Self> {
        let may_pass = matches!(status.code(), Code::Unavailable | Code::PermissionDenied | Code::ResourceExhausted);
        let advice = "it is tried again by itself";
        may_pass.then(|| Self { reason: "", message: status.message().to_owned(), advice })
    }
}

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Activity)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers why a snapshot was not begun.
    pub(crate) fn note(&self, name: &str, volume: VolumeId, delay: Delay) {
        let activity = Activity {
            kind: Kind::Offload.into(),
            // Whoever asked asks again, whatever it was.
            state: State::Delayed.into(),
            volume_id: volume.to_string(),
            snapshot_name: name.to_owned(),
            reason: delay.reason.to_owned(),
            message: format!("no snapshot is taken yet: {}", delay.message),
            advice: delay.advice.to_owned(),
            ..Activity::default()
        };
        let now = Instant::now();
        let mut refusals = self.lock();
        refusals.retain(|_, (at, _)| now.duration_since(*at) < REMEMBERED);
        if refusals.len() < MOST || refusals.contains_key(name) {
            refusals.insert(name.to_owned(), (now, activity));
        }
    }

    /// Forgets a snapshot that got further.
    pub(crate) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    fn list(&self) -> Vec<Activity> {
        let now = Instant::now();
        let refusals = self.lock();
        let late = refusals.values().filter(|(at, _)| now.duration_since(*at) < REMEMBERED);
        late.map(|(_, activity)| activity.clone()).collect()
    }
}

impl Controller {
    /// Lists what is under way on the nodes and what needs a person, with what ended in the last minutes. What is on a node
    /// that does not answer is left out.
    ///
    /// # Errors
    /// `Unlisted`.
    pub async fn activities(&self) -> Result<Vec<Activity>, nodes::Error> {
        let names = self.fleet().names().await?;
        let survey = self.fleet().ask(names, |agent| async move { agent.activities().await }).await;
        for (node, status) in &survey.silent {
            debug!(node, reason = status.message(), "a node does not tell what is under way");
        }
        let mut activities = self.refusals().list();
        activities.extend(survey.answers.into_iter().flat_map(|(_, activities)| activities));
        Ok(activities)
    }
}

#[cfg(test)]
mod tests {
    use varve_repository::{ErrorKind, store::Cause};

    use super::*;
    use crate::testing::{Bench, Fault, Method};

    fn unanswered() -> Error {
        Error::Store {
            operation: "reading",
            object: "volumes/vol".into(),
            kind: ErrorKind::Unavailable,
            source: Cause::new("Connection refused"),
        }
    }

    #[test]
    fn invariant_8_refusals_are_bounded() {
        let refusals = Refusals::default();
        let volume = VolumeId::from_bytes([1; 16]);
        for snapshot in 0..MOST + 10 {
            refusals.note(&format!("{snapshot:05}"), volume, Delay::of_store(&unanswered()));
        }
        assert_eq!(refusals.list().len(), MOST);
        // One that is remembered stays so.
        refusals.note("00001", volume, Delay::of_store(&unanswered()));
        refusals.forget("00000");
        refusals.note("new", volume, Delay::of_store(&unanswered()));
        assert_eq!(refusals.list().len(), MOST);
        assert!(refusals.lock().contains_key("new"));
    }

    #[tokio::test]
    async fn what_the_nodes_tell_is_told_and_a_node_that_is_silent_is_left_out() {
        let bench = Bench::new(&["a", "b", "c"]).await;
        let of = |volume: &str| Activity { volume_id: volume.to_owned(), ..Activity::default() };
        for node in ["a", "b", "c"] {
            bench.agent(node).set_activities(vec![of(node)]);
        }
        bench.set_reachable("b", false);
        assert_eq!(bench.controller.activities().await.unwrap(), [of("a"), of("c")]);
    }

    #[tokio::test]
    async fn a_snapshot_that_the_store_keeps_from_being_begun_is_told_of_until_it_is() {
        let bench = Bench::new(&["a"]).await;
        let volume = bench.volume("one").await;
        bench.store.refuse(true);
        bench.snapshot("snapshot-1", &volume).await.unwrap_err();
        let told = bench.controller.activities().await.unwrap();
        assert!(matches!(&told[..], [one] if one.snapshot_name == "snapshot-1"), "{told:?}");
        assert_eq!((told[0].kind(), told[0].state()), (Kind::Offload, State::Delayed));
        assert_eq!((told[0].volume_id.as_str(), told[0].reason.as_str()), (volume.as_str(), "RepositoryAccessDenied"));
        assert!(told[0].message.contains("the store refuses"), "{told:?}");
        bench.store.refuse(false);
        bench.snapshot("snapshot-1", &volume).await.unwrap();
        assert_eq!(bench.controller.activities().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_snapshot_that_the_node_does_not_take_yet_is_told_of_as_well_and_a_verdict_is_not() {
        let bench = Bench::new(&["a"]).await;
        let volume = bench.volume("one").await;
        bench.agent("a").fail(Method::CreateCuts, Fault::Verdict(Code::FailedPrecondition));
        bench.snapshot("snapshot-1", &volume).await.unwrap_err();
        assert_eq!(bench.controller.activities().await.unwrap(), []);
        bench.agent("a").fail(Method::CreateCuts, Fault::Verdict(Code::ResourceExhausted));
        bench.snapshot("snapshot-1", &volume).await.unwrap_err();
        let told = bench.controller.activities().await.unwrap();
        assert!(matches!(&told[..], [one] if one.message.contains("is told to fail")), "{told:?}");
        bench.snapshot("snapshot-1", &volume).await.unwrap();
        assert_eq!(bench.controller.activities().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_snapshot_that_waits_for_its_volume_s_node_is_told_of() {
        let bench = Bench::new(&["a"]).await;
        let volume = bench.volume("one").await;
        bench.set_reachable("a", false);
        bench.snapshot("snapshot-1", &volume).await.unwrap_err();
        let told = bench.controller.activities().await.unwrap();
        assert!(matches!(&told[..], [one] if one.message.contains("node \"a\" cannot be reached")), "{told:?}");
        bench.set_reachable("a", true);
        bench.snapshot("snapshot-1", &volume).await.unwrap();
        assert_eq!(bench.controller.activities().await.unwrap(), []);
    }

    #[test]
    fn a_store_that_does_not_answer_is_called_so() {
        let delay = Delay::of_store(&unanswered());
        assert_eq!(delay.reason, "RepositoryUnreachable");
        assert!(delay.message.starts_with("the store does not answer: reading volumes/vol failed"), "{delay:?}");
        assert!(delay.message.ends_with("Connection refused") && delay.advice.contains("tried again"), "{delay:?}");
    }
}
