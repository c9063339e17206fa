//! One cut's way into the repository: attempts, until one of them settles it.

use std::{fs, os::unix::fs::MetadataExt as _, sync::Arc, time::Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use varve_csi::status::chain;
use varve_repository::{
    ErrorKind,
    block::ChangeSource,
    offload::Request,
    record::{snapshot::Root, volume::OffloadParameters},
};

use super::{
    Agent, Error, Result,
    against::{Chosen, Trust},
    backoff::Backoff,
    paced::{Paced, TurnOver},
    schedule::{Demand, PACKET, USUAL_WEIGHT},
    turns::Turn,
};
use crate::{
    cut::{Cut, Record, State, Status, keep},
    extent::{Allocated, Difference, ImageSource},
    observe::Outcome,
};

/// How often a failure that may need a person is tried again.
const ATTEMPTS: u32 = 3;

/// What a snapshot is taken to change where that is not known yet, in bytes.
const USUAL_CHANGE: u64 = 64 << 20;

/// How often another base is chosen at once: more often than bases are deleted, but no more than that.
const AGAIN: u32 = 8;

/// What an attempt that did not succeed calls for.
enum Verdict {
    /// Another attempt after a pause.
    Retry,
    /// A few more attempts, and then a person.
    RetryBriefly,
    /// A person.
    Fail,
    /// The snapshot was deleted: so is the cut.
    Remove,
    /// Another attempt at once, which relies on less.
    Distrust(Trust),
    /// Another attempt at once: the base went away meanwhile.
    Again,
    /// Another attempt at the next turn.
    NextTurn,
    /// The end, for this process.
    Leave,
}

impl Verdict {
    /// What the attempt was, for those who count: `None` where nothing went wrong.
    fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Retry | Self::RetryBriefly | Self::Distrust(_) => Some(Outcome::Retried),
            Self::Fail => Some(Outcome::Failed),
            Self::Remove | Self::Again | Self::NextTurn | Self::Leave => None,
        }
    }
}

impl Agent {
    /// Works on a cut until it is offloaded, has failed, or is to go; or until the agent stops.
    pub(super) async fn see_through(&self, cut: &Cut) {
        let Some(_lease) = cut.lease().await else { return };
        let mut backoff = Backoff::default();
        let mut trust = Trust::default();
        let mut again = 0;
        let (mut turns, mut fruitless) = (0, 0);
        loop {
            let demand = Demand { fruitless, ..self.demand(cut, turns).await };
            turns += 1;
            let turn = tokio::select! {
                turn = self.0.offloads.turns.take(cut.record().description.volume, demand) => turn,
                () = self.0.stop.cancelled() => return,
                () = cut.removal().cancelled() => return,
            };
            let started = Instant::now();
            // In a task of its own, so that even a panic becomes a failure that somebody sees.
            let attempt = {
                let (agent, cut, turn) = (self.clone(), cut.clone(), Arc::clone(&turn));
                self.0.tasks.spawn(async move { agent.attempt(&cut, trust, turn).await }.in_current_span())
            };
            let outcome = attempt.await.unwrap_or_else(|error| Err(Error::Panicked(error.to_string())));
            let error = match outcome {
                Ok(root) => {
                    turn.end();
                    self.succeeded(cut, &root, started).await;
                    return;
                }
                Err(error) => error,
            };
            turn.end();
            let message = chain(&error);
            self.0.activities.troubled(cut.id(), &error);
            let verdict = self.judge(cut, &error, &backoff, trust);
            if let Some(outcome) = verdict.outcome() {
                self.observer().offloaded(outcome, started.elapsed());
            }
            match verdict {
                Verdict::Leave => return,
                Verdict::NextTurn => {
                    tracing::debug!("the offload goes on at its next turn");
                    fruitless = if cut.progress().read().moved > 0 { 0 } else { fruitless + 1 };
                    cut.set_status(Status::Pending { message: String::new() });
                }
                Verdict::Again if again < AGAIN => {
                    again += 1;
                    tracing::info!(reason = message, "the base went away or parameters changed: beginning again");
                }
                Verdict::Distrust(less) => {
                    tracing::error!(reason = message, "everything allocated is read: {}", less.reason());
                    trust = less;
                }
                Verdict::Remove => {
                    tracing::info!(reason = message, "the snapshot was deleted while it was offloaded");
                    self.remove_when_free(cut);
                    return;
                }
                Verdict::Fail => {
                    if let Err(error) = self.fail(cut, message.clone()).await {
                        tracing::error!(error = chain(&error), "the failure cannot be recorded");
                        // Without it the lane would take the cut up again at once.
                        cut.set_status(Status::Failed { message });
                    }
                    return;
                }
                Verdict::Again | Verdict::Retry | Verdict::RetryBriefly => {
                    let random = u32::from_le_bytes(self.repository().seams().random());
                    let pause = backoff.next(random);
                    tracing::warn!(?pause, reason = message, "the offload is tried again after a pause");
                    cut.set_status(Status::Pending { message });
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.0.stop.cancelled() => return,
                        () = cut.removal().cancelled() => return,
                    }
                }
            }
        }
    }

    /// Decides what a failure calls for.
    fn judge(&self, cut: &Cut, error: &Error, backoff: &Backoff, trust: Trust) -> Verdict {
        if self.0.stop.is_cancelled() || cut.removal().is_cancelled() {
            return Verdict::Leave;
        }
        let verdict = match error {
            Error::Repository(error) if TurnOver::caused(error) => Verdict::NextTurn,
            Error::Repository(varve_repository::Error::Interrupted | varve_repository::Error::BaseGone { .. }) => {
                Verdict::Again
            }
            Error::Repository(varve_repository::Error::Tracking { .. }) if trust == Trust::ExtentMaps => {
                Verdict::Distrust(Trust::Content)
            }
            Error::Repository(error) => match error.kind() {
                // A damaged snapshot is no ground to build on, and no reason to have no new one.
                ErrorKind::Corrupt if trust != Trust::Nothing => Verdict::Distrust(Trust::Nothing),
                ErrorKind::Unavailable => Verdict::Retry,
                ErrorKind::Cancelled => Verdict::Remove,
                ErrorKind::Denied | ErrorKind::Full | ErrorKind::Local | ErrorKind::Conflict | ErrorKind::NotFound => {
                    Verdict::RetryBriefly
                }
                ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::WrongKey | ErrorKind::Corrupt => Verdict::Fail,
            },
            Error::Panicked(_) => Verdict::Fail,
            _ => Verdict::RetryBriefly,
        };
        match verdict {
            Verdict::RetryBriefly if backoff.failures() + 1 >= ATTEMPTS => Verdict::Fail,
            verdict => verdict,
        }
    }

    /// Offloads the cut once.
    async fn attempt(&self, cut: &Cut, trust: Trust, turn: Arc<Turn>) -> Result<Root> {
        let record = cut.record();
        let moving = self.block(|agent| {
            agent.pool().filesystem().moving().map_err(Error::system("asking what moves in", agent.pool().root()))
        });
        // While blocks move, equal addresses prove nothing.
        let trust = if moving.await? { trust.max(Trust::Content) } else { trust };
        let chosen = tokio::select! {
            chosen = self.choose(&record, trust) => chosen?,
            () = self.0.stop.cancelled() => return Err(Error::Stopping),
        };
        let cancel = self.0.stop.child_token();
        let request = self.request(cut, &record, &chosen, Arc::clone(&turn), cancel.clone()).await?;
        tracing::debug!(against = ?chosen.against, "offloading");
        cut.set_status(Status::Offloading);
        let work = self.repository().offload_to_commit(request);
        tokio::pin!(work);
        let base_goes = async {
            match &chosen.base {
                Some((base, _)) => base.removal().cancelled().await,
                None => std::future::pending().await,
            }
        };
        let committed = tokio::select! {
            committed = &mut work => committed,
            () = cut.removal().cancelled() => {
                cancel.cancel();
                // Awaited to its end: until then it may read the images.
                work.await
            }
            () = base_goes => {
                cancel.cancel();
                work.await
            }
            () = turn.interrupted() => {
                cancel.cancel();
                work.await
            }
        };
        let (root, leftover) = committed?;
        // Nobody waits for it but the agent's end.
        self.0.tasks.spawn(leftover.clear());
        Ok(root)
    }

    async fn request(
        &self,
        cut: &Cut,
        record: &Record,
        chosen: &Chosen,
        turn: Arc<Turn>,
        cancel: CancellationToken,
    ) -> Result<Request> {
        let image = cut.image();
        let parameters = self.parameters(record);
        let reads = self.0.offloads.reads.within(parameters.io_bandwidth);
        let (runtime, interrupted) = (Handle::current(), cancel.clone());
        let base = chosen.base.as_ref().map(|(base, _)| base.image());
        let (changes, source) = self
            .block(move |_| {
                let opened = |error| Error::system("opening", &image)(error);
                let changes: Arc<dyn ChangeSource> = match base {
                    Some(base) => Arc::new(Difference::new(&base, &image).map_err(opened)?),
                    None => Arc::new(Allocated::new(&image).map_err(opened)?),
                };
                let source = ImageSource::open(&image).map_err(opened)?;
                Ok((changes, Arc::new(Paced { source, turn, reads, cancel: interrupted, runtime })))
            })
            .await?;
        Ok(Request {
            description: record.description.clone(),
            against: chosen.against,
            changes,
            source,
            journal: Some(cut.journal()),
            parameters,
            progress: cut.restart_progress(self.stages()),
            cancel,
        })
    }

    /// What the cut's offload is to move, as far as that is known at its so-manieth turn.
    async fn demand(&self, cut: &Cut, turns: u32) -> Demand {
        let record = cut.record();
        let weight = self.parameters(&record).weight.unwrap_or(USUAL_WEIGHT);
        let progress = cut.progress().read();
        let lineage = (record.description.volume, record.description.incarnation);
        let bytes = if progress.total > progress.done {
            progress.total - progress.done
        } else if turns > 0 {
            // It was taken for smaller than it is.
            PACKET
        } else if keep::base(&self.cuts().list(), lineage, record.origin).is_some() {
            USUAL_CHANGE
        } else {
            let image = cut.image();
            let allocated = self.block(move |_| Ok(fs::metadata(image).map_or(0, |found| found.blocks()))).await;
            allocated.map_or(PACKET, |blocks| blocks.saturating_mul(512))
        };
        Demand { weight, bytes, fruitless: 0 }
    }

    /// The volume's parameters as they are now, or as they were at the cut where the volume is gone.
    fn parameters(&self, record: &Record) -> OffloadParameters {
        self.volumes()
            .get(&record.description.volume)
            .map(|volume| volume.record())
            .filter(|volume| volume.incarnation == record.description.incarnation)
            .map_or(record.offload, |volume| volume.offload)
    }

    /// Makes the cut the base of the next, and lets go of the one before.
    async fn succeeded(&self, cut: &Cut, root: &Root, started: Instant) {
        let statistics = &root.statistics;
        self.observer().offloaded(Outcome::Done, started.elapsed());
        self.0.activities.offloaded(root, started.elapsed());
        tracing::info!(
            method = ?root.method, base = ?root.base,
            changed = statistics.changed_bytes, read = statistics.read_bytes, stored = statistics.stored_bytes,
            uploaded = statistics.uploaded_bytes, ms = started.elapsed().as_millis(), "offloaded"
        );
        if let Err(error) = self.settle(cut, State::Base).await {
            // The root stands, so the next start finds out; until then it is only no base.
            tracing::error!(error = chain(&error), "the offload's end cannot be recorded");
            cut.set_status(Status::Ready);
        }
        // In a task of its own: this one holds a lease on the cut, which may be superseded itself.
        let agent = self.clone();
        self.0.tasks.spawn(async move { agent.shed().await });
    }

    /// Removes the cut once this lane has let go of it.
    fn remove_when_free(&self, cut: &Cut) {
        // At once, so that the lane does not take it up again.
        cut.removal().cancel();
        let (agent, cut) = (self.clone(), cut.clone());
        self.0.tasks.spawn(async move {
            if let Err(error) = agent.remove_cut(&cut).await {
                tracing::error!(error = chain(&error), "a deleted snapshot's cut stays for now");
            }
        });
    }
}
