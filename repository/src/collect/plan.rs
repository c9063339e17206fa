//! The plan: what of everything listed nobody holds, and which packs are worth repacking.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Options,
    reach::Reach,
    report::{Amount, Held, Kind, Plan, Reason, Repack, Tally, UndecidedAttempt, UndecidedIntent, Unreadable, listed},
    runs::HeldRuns,
    scan::{KnownRelocation, ROUNDS, Scan, Standings, reason},
};
use crate::{
    Repository, Result,
    id::{PackId, RunId, SnapshotId, UploadId},
    mutation::Mutation,
    pack::{self, PackReference},
    progress::Progress,
    record::{intent::Intent, snapshot::Root},
    repository::names,
};

/// An object that is garbage: its id, its bytes, and why.
pub(super) type Dead<I> = (I, u64, Reason);

/// A pack that runs refer to, to be repacked.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// How runs refer to it.
    pub(super) reference: PackReference,
    /// Whether it is at its own key.
    pub(super) in_place: bool,
    /// Targets that its record names already.
    pub(super) targets: Vec<PackReference>,
    pub(super) utilisation: u8,
    pub(super) live_bytes: u64,
}

/// Everything that a collection acts upon.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) plan: Plan,
    pub(super) packs: Vec<Dead<PackId>>,
    pub(super) runs: Vec<Dead<RunId>>,
    pub(super) intents: Vec<Dead<SnapshotId>>,
    pub(super) relocations: Vec<Dead<PackId>>,
    pub(super) units: Vec<Unit>,
    /// What is alive of the packs in `units`, and of all others that are referred to.
    pub(super) reach: Reach,
    /// How many records of packs that are held name each target.
    pub(super) named: BTreeMap<PackId, usize>,
}

/// What is known of who holds what, while the plan is made.
struct Holders {
    roots: BTreeMap<SnapshotId, Arc<Root>>,
    /// Snapshots of which there is a root or a tombstone.
    decided: BTreeSet<SnapshotId>,
    /// The attempts of snapshots that are not decided, and who repacks.
    uploads: BTreeSet<UploadId>,
    /// The attempts of snapshots that are decided, as far as their intents stand; and those that wrote roots that stand.
    ended: BTreeSet<UploadId>,
    committed: BTreeSet<UploadId>,
    runs: HeldRuns,
    unreadable: Vec<Unreadable>,
}

impl Findings {
    /// Scans, marks and decides; `own` is the upload under which the collection itself repacks.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn of(
        repository: &Repository,
        options: &Options,
        own: Option<UploadId>,
        progress: &Progress,
    ) -> Result<Self> {
        let mut scan = Scan::of(repository).await?;
        let pins_count = !repository.seams().broken(Mutation::PinsIgnored);
        let mut holders = Holders::of(&scan, pins_count, HeldRuns::default());
        let mut reach = Reach::default();
        let mut missing = BTreeSet::new();
        let mut rounds = 1;
        let found = loop {
            let found = holders.runs.read(repository, &holders.roots, &mut reach, progress).await?;
            if !scan.settled || found.missing.is_subset(&missing) {
                break found;
            }
            if rounds == ROUNDS {
                scan.settled = false;
                break found;
            }
            tracing::debug!(rounds, "runs were deleted during the scan, or before it: looking again");
            rounds += 1;
            missing.extend(found.missing);
            scan = scan.again(repository).await?;
            holders = Holders::of(&scan, pins_count, holders.runs);
        };
        // Whatever holds a root's, an intent's or a repacker's place and cannot be read might hold any pack and any run.
        let runs_known = holders.unreadable.is_empty() && scan.settled;
        let read = found.known;
        holders.unreadable.extend(found.damages);

        let mut findings = Self { reach, ..Self::default() };
        findings.plan.unsettled = !scan.settled;
        findings.find_intents(&scan, &holders);
        let named = findings.find_named(&scan.relocations, &mut holders);
        let packs_known = runs_known && read && named;
        findings.find_runs(&scan, &holders, runs_known);
        findings.find_packs(&scan, &holders, packs_known);
        if packs_known && options.repack {
            findings.find_units(&scan, &holders, options);
        }
        findings.describe(&scan, holders, own);
        Ok(findings)
    }

    /// Finds the intents of snapshots that are decided. That takes nothing but what stands at their keys.
    fn find_intents(&mut self, scan: &Scan, holders: &Holders) {
        let decided = scan.intents.iter().filter(|(snapshot, _, _)| holders.decided.contains(snapshot));
        self.intents = decided.map(|(snapshot, bytes, _)| (*snapshot, *bytes, Reason::Decided)).collect();
    }

    /// Counts who names which target; tells whether all that matters could be read.
    fn find_named(&mut self, relocations: &[KnownRelocation], holders: &mut Holders) -> bool {
        let mut damages = Vec::new();
        for relocation in relocations.iter().filter(|relocation| holders.holds(&self.reach, relocation.pack)) {
            match &relocation.targets {
                Ok(targets) => targets.iter().for_each(|target| *self.named.entry(target.pack.id).or_default() += 1),
                Err(error) => {
                    damages.push(Unreadable { object: names::relocation_key(relocation.pack), reason: reason(error) });
                }
            }
        }
        let known = damages.is_empty();
        holders.unreadable.extend(damages);
        known
    }

    fn find_runs(&mut self, scan: &Scan, holders: &Holders, known: bool) {
        for (run, bytes) in &scan.listing.runs {
            if holders.runs.contains(*run) || holders.uploads.contains(&run.upload()) {
                self.plan.kept.runs.add(*bytes);
            } else if known {
                self.runs.push((*run, *bytes, holders.why(run.upload())));
            } else {
                self.plan.kept.runs.add(*bytes);
            }
        }
    }

    fn find_packs(&mut self, scan: &Scan, holders: &Holders, known: bool) {
        let repacked = repacked(&scan.relocations);
        for (pack, bytes) in &scan.listing.packs {
            let held = holders.holds(&self.reach, *pack);
            let dead = if held && repacked.contains(pack) {
                Some(Reason::Repacked)
            } else if held || self.named.contains_key(pack) {
                None
            } else {
                Some(holders.why(pack.upload()))
            };
            match dead.filter(|_| known) {
                Some(reason) => self.packs.push((*pack, *bytes, reason)),
                None => self.plan.kept.packs.add(*bytes),
            }
        }
        for (pack, bytes) in &scan.listing.relocations {
            if known && !holders.holds(&self.reach, *pack) {
                self.relocations.push((*pack, *bytes, Reason::Stale));
            } else {
                self.plan.kept.relocations.add(*bytes);
            }
        }
    }

    /// Finds what is worth repacking: what little is alive of, and what an earlier repacking left half done.
    fn find_units(&mut self, scan: &Scan, holders: &Holders, options: &Options) {
        let is_listed = |pack: PackId| scan.listing.packs.binary_search_by_key(&pack, |(id, _)| *id).is_ok();
        let repacked = repacked(&scan.relocations);
        let mut units: Vec<Unit> = Vec::new();
        // Chunks alive in each target, of all packs that are in it.
        let mut alive: BTreeMap<PackId, usize> = BTreeMap::new();
        for marks in self.reach.packs() {
            let id = marks.reference.id;
            let (Some(live), false) = (marks.live(), holders.uploads.contains(&id.upload())) else { continue };
            let relocation = scan.relocations.binary_search_by_key(&id, |relocation| relocation.pack).ok();
            let targets = relocation.and_then(|found| scan.relocations[found].targets.as_ref().ok());
            let targets: Vec<PackReference> =
                targets.map_or_else(Vec::new, |targets| targets.iter().map(|target| target.pack).collect());
            if targets.iter().any(|target| holders.uploads.contains(&target.id.upload())) {
                // Somebody is at it.
                continue;
            }
            let in_place = is_listed(id) && !repacked.contains(&id);
            if let (false, [target]) = (in_place, &targets[..]) {
                *alive.entry(target.id).or_default() += live;
            } else if !in_place && targets.is_empty() {
                // It is missing, which is for a check to say.
                continue;
            }
            let utilisation = percent(live, marks.chunks());
            let live_bytes = marks.live_bytes();
            units.push(Unit { reference: marks.reference, in_place, targets, utilisation, live_bytes });
        }
        for unit in &mut units {
            if let (false, [target]) = (unit.in_place, &unit.targets[..]) {
                let live = alive.get(&target.id).copied().unwrap_or(0);
                unit.utilisation = percent(live, pack::chunk_count(target).unwrap_or(live));
            }
        }
        units.retain(|unit| unit.is_half_done() || unit.utilisation < options.threshold.min(100));
        units.sort_by_key(|unit| (!unit.is_half_done(), unit.utilisation, unit.at(), unit.reference.id));
        let mut bytes = 0_u64;
        units.retain(|unit| {
            bytes = bytes.saturating_add(unit.live_bytes);
            bytes <= options.repack_bytes
        });
        self.units = units;
    }

    /// Writes down what people are told.
    fn describe(&mut self, scan: &Scan, holders: Holders, own: Option<UploadId>) {
        let mut tally = Tally::new();
        let mut count = |kind, bytes: u64, reason| tally.entry((kind, reason)).or_default().add(bytes);
        self.packs.iter().for_each(|(_, bytes, reason)| count(Kind::Pack, *bytes, *reason));
        self.runs.iter().for_each(|(_, bytes, reason)| count(Kind::Run, *bytes, *reason));
        self.intents.iter().for_each(|(_, bytes, reason)| count(Kind::Intent, *bytes, *reason));
        self.relocations.iter().for_each(|(_, bytes, reason)| count(Kind::Relocation, *bytes, *reason));
        self.plan.garbage = listed(&tally);
        self.plan.repack = self.units.iter().map(Unit::describe).collect();
        self.plan.kept.snapshots = holders.roots.len() as u64;
        self.plan.kept.live_bytes = self.reach.packs().map(super::reach::Marks::live_bytes).sum();

        let mut held: BTreeMap<UploadId, Amount> = BTreeMap::new();
        let packs = scan.listing.packs.iter().map(|(id, bytes)| (id.upload(), bytes));
        let runs = scan.listing.runs.iter().map(|(id, bytes)| (id.upload(), bytes));
        for (upload, bytes) in packs.chain(runs).filter(|(upload, _)| holders.uploads.contains(upload)) {
            held.entry(upload).or_default().add(*bytes);
        }
        let undecided = scan.intents.iter().filter(|(snapshot, _, _)| !holders.decided.contains(snapshot));
        let undecided = undecided.filter_map(|(_, _, intent)| intent.as_ref().ok());
        self.plan.undecided = undecided.map(|intent| describe_intent(intent, &held)).collect();
        let repacking = scan.repacking.as_ref().ok().and_then(|repacking| repacking.last());
        let repacking = repacking.filter(|repacking| Some(repacking.upload) != own);
        self.plan.repacking = repacking.map(|repacking| Held {
            upload: repacking.upload,
            node: repacking.node.clone(),
            started_at: repacking.started_at,
            held: held.get(&repacking.upload).copied().unwrap_or_default(),
        });
        self.plan.unreadable = holders.unreadable;
    }
}

impl Holders {
    /// Gathers them; `runs` are those that an earlier scan found held, which are kept too.
    fn of(scan: &Scan, pins_count: bool, runs: HeldRuns) -> Self {
        let mut holders = Self {
            roots: BTreeMap::new(),
            decided: BTreeSet::new(),
            uploads: BTreeSet::new(),
            ended: BTreeSet::new(),
            committed: BTreeSet::new(),
            runs,
            unreadable: Vec::new(),
        };
        holders.take_roots(&scan.earlier, &scan.later);
        for (snapshot, _, intent) in &scan.intents {
            match intent {
                _ if holders.decided.contains(snapshot) => {
                    let attempts = intent.iter().flat_map(|intent| &intent.attempts);
                    holders.ended.extend(attempts.map(|attempt| attempt.upload));
                }
                Ok(intent) => {
                    for attempt in &intent.attempts {
                        holders.uploads.insert(attempt.upload);
                        let pins = attempt.pins.iter().filter(|_| pins_count);
                        pins.for_each(|pin| holders.runs.hold(&pin.runs, None));
                    }
                }
                Err(error) => {
                    holders.unreadable.push(Unreadable { object: names::intent_key(*snapshot), reason: reason(error) });
                }
            }
        }
        match &scan.repacking {
            Ok(repacking) => holders.uploads.extend(repacking.iter().map(|repacking| repacking.upload)),
            Err(error) => {
                holders.unreadable.push(Unreadable { object: names::REPACKING.to_owned(), reason: reason(error) });
            }
        }
        holders
    }

    /// Takes what was a root at the first reading, and what is one at the second.
    fn take_roots(&mut self, earlier: &Standings, later: &Standings) {
        for (id, standing) in later {
            match standing {
                Ok(root) => {
                    self.decided.insert(*id);
                    if let Some(root) = root {
                        self.runs.hold(&root.runs, Some(*id));
                        self.runs.hold(&root.pending, None);
                        self.committed.insert(root.upload);
                        self.roots.insert(*id, Arc::clone(root));
                    }
                }
                Err(error) => {
                    self.unreadable.push(Unreadable { object: names::snapshot_key(*id), reason: reason(error) });
                }
            }
        }
        for (id, standing) in earlier {
            match standing {
                Ok(Some(root)) => {
                    self.runs.hold(&root.runs, None);
                    self.runs.hold(&root.pending, None);
                }
                // One that was read since had been damaged on the way, or was repaired.
                Err(error) if !self.roots.contains_key(id) => {
                    let object = names::snapshot_key(*id);
                    if !self.unreadable.iter().any(|unreadable| unreadable.object == object) {
                        self.unreadable.push(Unreadable { object, reason: reason(error) });
                    }
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Tells whether a root, an intent or a repacker holds a pack.
    fn holds(&self, reach: &Reach, pack: PackId) -> bool {
        reach.marks(pack).is_some() || self.uploads.contains(&pack.upload())
    }

    /// Says why what nobody holds is garbage.
    fn why(&self, upload: UploadId) -> Reason {
        if self.committed.contains(&upload) {
            Reason::Superseded
        } else if self.ended.contains(&upload) {
            Reason::Abandoned
        } else {
            Reason::Unreferenced
        }
    }
}

impl Unit {
    /// Tells whether an earlier repacking of it came to no end: there is more than one place where its chunks may be.
    fn is_half_done(&self) -> bool {
        self.targets.len() + usize::from(self.in_place) > 1
    }

    /// The pack that its chunks are in.
    fn at(&self) -> PackId {
        match self.targets.first() {
            Some(target) if !self.in_place => target.id,
            _ => self.reference.id,
        }
    }

    fn describe(&self) -> Repack {
        Repack { pack: self.reference.id, at: self.at(), utilisation: self.utilisation, live_bytes: self.live_bytes }
    }
}

/// The packs of which a proven target has all that is alive.
fn repacked(relocations: &[KnownRelocation]) -> BTreeSet<PackId> {
    let proven = relocations.iter().filter(|relocation| {
        relocation.targets.as_ref().is_ok_and(|targets| targets.iter().any(|target| target.proven))
    });
    proven.map(|relocation| relocation.pack).collect()
}

fn percent(part: usize, whole: usize) -> u8 {
    let percent = part.saturating_mul(100).checked_div(whole).unwrap_or(100);
    u8::try_from(percent).unwrap_or(100).min(100)
}

fn describe_intent(intent: &Intent, held: &BTreeMap<UploadId, Amount>) -> UndecidedIntent {
    let mut all = Amount::default();
    intent.attempts.iter().filter_map(|attempt| held.get(&attempt.upload)).for_each(|amount| all += *amount);
    let attempts = intent.attempts.iter().map(|attempt| UndecidedAttempt {
        upload: attempt.upload,
        node: attempt.node.clone(),
        started_at: attempt.started_at,
    });
    UndecidedIntent { snapshot: intent.snapshot, volume: intent.volume, attempts: attempts.collect(), held: all }
}
