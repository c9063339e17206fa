//! The sweep: deleting what was found to be garbage.
//!
//! Packs and runs go first, since they free room; then intents and relocation records, which explain them. In whatever
//! order, each was unheld by itself.

use super::{
    plan::{Dead, Findings},
    report::{Kind, Report, Tally, listed},
};
use crate::{ErrorKind, Repository, Result, pack, repository::names, run};

/// Objects deleted with one request, where the store has such.
const BATCH: usize = 1000;

/// Deletes all garbage of a plan. What the store refuses to delete is counted and left.
///
/// # Errors
/// The store's.
pub(super) async fn sweep(repository: &Repository, findings: &Findings, report: &mut Report) -> Result<()> {
    let mut sweep = Sweep { repository, deleted: Tally::new(), report };
    let swept = async {
        sweep.delete(Kind::Pack, &findings.packs, |id| pack::key(*id)).await?;
        sweep.delete(Kind::Run, &findings.runs, |id| run::key(*id)).await?;
        sweep.delete(Kind::Intent, &findings.intents, |id| names::intent_key(*id)).await?;
        sweep.delete(Kind::Relocation, &findings.relocations, |id| names::relocation_key(*id)).await
    };
    swept.await?;
    sweep.report.deleted = listed(&sweep.deleted);
    Ok(())
}

struct Sweep<'a> {
    repository: &'a Repository,
    deleted: Tally,
    report: &'a mut Report,
}

impl Sweep<'_> {
    async fn delete<I>(&mut self, kind: Kind, dead: &[Dead<I>], key: impl Fn(&I) -> String) -> Result<()> {
        for batch in dead.chunks(BATCH) {
            let keys: Vec<String> = batch.iter().map(|(id, _, _)| key(id)).collect();
            let results = self.repository.store().delete_each(&keys).await;
            for ((_, bytes, reason), result) in batch.iter().zip(results) {
                match result {
                    Ok(()) => self.deleted.entry((kind, *reason)).or_default().add(*bytes),
                    Err(error) if error.kind() == ErrorKind::Denied => {
                        tracing::debug!(%error, "the store refuses to delete what is garbage");
                        self.report.locked.add(*bytes);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}
