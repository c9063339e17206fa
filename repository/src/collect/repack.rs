//! Repacking: what is alive of packs that are mostly dead is copied together, and readers are sent on.
//!
//! ```text
//! add     packs/Q is put; relocated/P names Q           for some hundred MiB
//! prove   repacking is still our own                    once for all of them
//! prune   packs/P is deleted, or the target before Q is taken out of relocated/P
//! ```
//!
//! # Crash consistency
//! Until the proof nothing is taken away, so that whatever was added can be left where it is: P has its chunks still, and the
//! next collection takes P up again. After it Q stays for as long as P is referred to.
//!
//! # Concurrency
//! Another collector may take `repacking` over at any moment, and then what was added before the proof may vanish. A record
//! is replaced only if it is still as it was read, so that the proven target is always in it.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};

use super::{
    copy::{self, Copied, Filled, Filling, is_damage},
    plan::{Findings, Unit},
    report::{Amount, Repacked, Unreadable},
    scan::reason,
};
use crate::{
    Error, ErrorKind, Repository, Result, Versioned,
    id::{PackId, UploadId},
    mutation::Mutation,
    pack,
    progress::Progress,
    record::relocation::{Relocation, Target},
    repository::names,
    work::Worker,
};

/// Packs filled for one proof: what is free again only after it.
const PACKS: usize = 8;

/// Records written at once.
const WRITES: usize = 8;

/// How often a record is looked at again that others change.
const ROUNDS: usize = 8;

/// Why a repacking ended that had lost `repacking` to another.
const TAKEN_OVER: &str = "another collector, or a repair, has taken over";

/// Why a repacking ended that found no room.
pub(super) const FULL: &str = "the store is full";

/// What a repacking works with.
pub(super) struct Repacking<'a> {
    pub(super) repository: &'a Repository,
    pub(super) findings: &'a Findings,
    /// What protects that which is put until a record names it.
    pub(super) upload: UploadId,
    /// Whether it did so since before the scan: then no target that the scan did not see can have been proven since.
    pub(super) since_scan: bool,
    pub(super) progress: &'a Progress,
    pub(super) repacked: Repacked,
    pub(super) locked: Amount,
    /// How many records name each target still.
    named: BTreeMap<PackId, usize>,
    added: Vec<Added>,
    filled: usize,
}

/// A pack whose record names a new target.
struct Added {
    reference: pack::PackReference,
    target: Target,
    /// The record, where it was there before.
    record: Option<Versioned<Relocation>>,
}

impl<'a> Repacking<'a> {
    /// Starts one.
    pub(super) fn new(
        repository: &'a Repository,
        findings: &'a Findings,
        upload: UploadId,
        since_scan: bool,
        progress: &'a Progress,
    ) -> Self {
        Self {
            repository,
            findings,
            upload,
            since_scan,
            progress,
            repacked: Repacked::default(),
            locked: Amount::default(),
            named: findings.named.clone(),
            added: Vec::new(),
            filled: 0,
        }
    }

    /// Repacks everything that the plan says, or as much as there is room for.
    ///
    /// # Errors
    /// The store's, but for its being full.
    pub(super) async fn run(&mut self) -> Result<()> {
        let worker = Worker::new(self.repository.seams().work);
        self.progress.add_total(self.findings.units.iter().map(|unit| unit.live_bytes).sum());
        let mut filling = Filling::new(self.repository, self.upload);
        for unit in &self.findings.units {
            let Some(marks) = self.findings.reach.marks(unit.reference.id) else { continue };
            let copied = match copy::read(self.repository, &worker, unit, marks.ordinals().collect()).await {
                Ok(copied) => copied,
                Err(error) if is_damage(&error) => {
                    self.skip(unit.reference.id, &error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.progress.add_done(unit.live_bytes);
            if !filling.has_room(&copied) {
                let full = std::mem::replace(&mut filling, Filling::new(self.repository, self.upload));
                self.put(full).await?;
                if self.repacked.stopped.is_some() {
                    return Ok(());
                }
            }
            filling.take(copied);
        }
        self.put(filling).await?;
        self.prove_and_prune().await
    }

    fn skip(&mut self, pack: PackId, error: &Error) {
        let object = match error {
            Error::Corrupt { object, .. } => object.clone(),
            _ => pack::key(pack),
        };
        self.repacked.skipped.push(Unreadable { object, reason: reason(error) });
    }

    /// Puts a pack and names it in the records of those whose chunks it has.
    async fn put(&mut self, filling: Filling) -> Result<()> {
        let Some(Filled { reference, bytes, moves }) = filling.finish() else { return Ok(()) };
        let length = bytes.len() as u64;
        self.repository.upload_bandwidth().acquire(length).await;
        let mut put = self.repository.store().put_new(&reference.key(), bytes.clone()).await;
        if matches!(&put, Err(error) if error.kind() == ErrorKind::Full) && !self.added.is_empty() {
            // What was copied before makes room once it is pruned.
            self.prove_and_prune().await?;
            put = self.repository.store().put_new(&reference.key(), bytes).await;
        }
        match put {
            Err(error) if error.kind() == ErrorKind::Full => {
                self.repacked.stopped.get_or_insert_with(|| FULL.into());
                return Ok(());
            }
            put => put?,
        }
        self.progress.add_moved(length);
        self.repacked.into.add(length);
        self.filled += 1;
        if self.repository.seams().broken(Mutation::DeletesBeforeRelocation) {
            self.repository
                .store()
                .delete_many(moves.iter().map(|(copied, _)| copied.reference.key()).collect())
                .await?;
        }
        let repository = self.repository;
        let mut adding = stream::iter(moves)
            .map(async |(copied, target)| {
                let Copied { reference, table, known, .. } = copied;
                let added = repository.add_target(reference.id, &table, target.clone(), known).await;
                (reference, target, added)
            })
            .buffered(WRITES);
        let mut failed = None;
        while let Some((reference, target, added)) = adding.next().await {
            match added {
                Ok(record) => self.added.push(Added { reference, target, record }),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        drop(adding);
        match failed {
            Some(error) if error.kind() == ErrorKind::Full => {
                self.prove_and_prune().await?;
                self.repacked.stopped.get_or_insert_with(|| FULL.into());
                Ok(())
            }
            Some(error) => Err(error),
            None if self.filled == PACKS => self.prove_and_prune().await,
            None => Ok(()),
        }
    }

    /// Lets the old places go, if the new ones are proven.
    async fn prove_and_prune(&mut self) -> Result<()> {
        self.filled = 0;
        let added = std::mem::take(&mut self.added);
        if added.is_empty() || self.repacked.stopped.is_some() {
            return Ok(());
        }
        if !self.repository.proves_repacking(self.upload).await? {
            self.repacked.stopped = Some(TAKEN_OVER.into());
            return Ok(());
        }
        self.repacked.packs += added.len() as u64;
        let in_place: Vec<&Added> = added.iter().filter(|added| self.is_in_place(added)).collect();
        let locked =
            self.delete(in_place.iter().map(|added| (added.reference.id, added.reference.object_bytes)).collect());
        let locked = locked.await?;

        let mut unnamed = Vec::new();
        for added in &added {
            let stays = locked.contains(&added.reference.id);
            if added.record.is_some() || stays {
                unnamed.extend(self.prove_in_record(added).await?);
            }
        }
        let mut free = Vec::new();
        for target in unnamed {
            let names = self.named.get_mut(&target.id);
            // One that the scan did not see is somebody's who came later, and who may not have lost yet.
            let Some(names) = names else { continue };
            *names = names.saturating_sub(1);
            if *names == 0 && self.since_scan && self.findings.reach.marks(target.id).is_none() {
                free.push((target.id, target.object_bytes));
            }
        }
        self.delete(free).await?;
        Ok(())
    }

    fn is_in_place(&self, added: &Added) -> bool {
        let unit = self.findings.units.iter().find(|unit| unit.reference.id == added.reference.id);
        unit.is_some_and(|unit: &Unit| unit.in_place)
    }

    /// Makes the record name the new target alone; returns those that it named beside it.
    async fn prove_in_record(&self, added: &Added) -> Result<Vec<pack::PackReference>> {
        let pack = added.reference.id;
        let mut record = added.record.clone();
        for _ in 0..ROUNDS {
            let standing = match record.take() {
                Some(standing) => standing,
                None => match self.repository.relocation(pack).await? {
                    Some(standing) => standing,
                    // Nobody refers to the pack any more.
                    None => return Ok(Vec::new()),
                },
            };
            let is_ours = |target: &&Target| target.reference() == added.target.reference();
            if !standing.value.targets.iter().any(|target| is_ours(&target)) {
                // Another has proven its own since, and taken ours out.
                return Ok(Vec::new());
            }
            let others = standing.value.targets.iter().filter(|target| !is_ours(target));
            let others = others.filter_map(|target| target.reference().ok()).collect();
            let mut proven = added.target.clone();
            proven.proven = true;
            let relocation = Relocation { targets: vec![proven], ..standing.value.clone() };
            match self.repository.replace_relocation(&standing, relocation).await {
                Ok(_) => return Ok(others),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { object: names::relocation_key(pack) })
    }

    /// Deletes packs, and returns those that the store refuses to delete.
    async fn delete(&mut self, packs: Vec<(PackId, u32)>) -> Result<Vec<PackId>> {
        let mut locked = Vec::new();
        let keys: Vec<String> = packs.iter().map(|(id, _)| pack::key(*id)).collect();
        if keys.is_empty() {
            return Ok(locked);
        }
        let results = self.repository.store().delete_each(&keys).await;
        for ((id, bytes), result) in packs.into_iter().zip(results) {
            match result {
                Ok(()) => self.repacked.freed.add(bytes.into()),
                Err(error) if error.kind() == ErrorKind::Denied => {
                    self.locked.add(bytes.into());
                    locked.push(id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(locked)
    }
}
