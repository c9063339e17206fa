//! Looking for what is scanned among what pinned snapshots hold thereabouts.
//!
//! As the scan moves through the image, the snapshots that the offload pins are walked along with it, a little ahead, and
//! the chunks that they refer to are entered in the [index](super::dedup). So content that is where it was, or has moved a
//! little, is found however large the volume is.
//!
//! # Crash consistency
//! Only chunks that extents of the pinned runs name are entered. What else lies in their packs may be garbage: a
//! collector that repacks them leaves it behind.
//!
//! # Invariants
//! Requests are proportional to what is scanned: a table or a step of a walk costs one of an allowance that grows by four
//! for each mebibyte. What is not looked up is at worst stored once more.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, future::join_all, stream};

use crate::{
    Error, Repository, Result,
    block::{BlockRange, Blocks},
    id::{ChunkId, SnapshotId},
    mutation::Mutation,
    pack::{PackReference, TableCache},
    record::snapshot::Root,
    run::{Place, Segment, View},
};

/// How far snapshots are walked ahead of the scan, and how far behind it they are taken up after a gap: 64 MiB.
const NEAR: Blocks = Blocks(1 << 14);

/// Snapshots are walked on when the scan has come this close to where they were walked to.
const STEP: Blocks = Blocks(NEAR.0 / 2);

/// Requests that are allowed before anything is scanned.
const FIRST_REQUESTS: u64 = 64;

/// Blocks that must be scanned for each further request.
const BLOCKS_A_REQUEST: u64 = 64;

/// Tables read at once.
const READS: usize = 8;

/// A chunk that may be referred to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) id: ChunkId,
    pub(super) pack: PackReference,
    pub(super) ordinal: u32,
}

/// The snapshots that an offload looks into.
pub(super) struct Comparison {
    repository: Repository,
    walks: Vec<Walk>,
    tables: TableCache,
    /// Up to where they were walked.
    reached: Blocks,
    /// Blocks that were looked for.
    scanned: u64,
    /// What of the allowance is spent.
    requests: u64,
}

/// One of them.
struct Walk {
    snapshot: SnapshotId,
    view: View,
    ahead: Option<Segment>,
    done: bool,
    /// Whether the offload is to fail where the snapshot turns out to be damaged; otherwise it goes without it.
    required: bool,
}

/// A chunk that an extent of a walk names.
struct Named {
    pack: PackReference,
    ordinal: u32,
    required: bool,
}

impl Comparison {
    /// Looks into no snapshot yet.
    pub(super) fn new(repository: &Repository) -> Self {
        Self {
            repository: repository.clone(),
            walks: Vec::new(),
            tables: TableCache::default(),
            reached: Blocks::ZERO,
            scanned: 0,
            requests: 0,
        }
    }

    /// Looks into another snapshot from now on. Where content is in several, the one added first counts.
    pub(super) fn add(&mut self, root: &Root, required: bool) {
        let everything = BlockRange { first: Blocks::ZERO, count: Blocks(u64::MAX) };
        self.walks.push(Walk {
            snapshot: root.description.id,
            view: View::of(&self.repository, &root.runs, everything),
            ahead: None,
            done: false,
            required,
        });
    }

    /// Returns the chunks near `range` that were not returned before; `blocks` of the image are being looked for.
    ///
    /// # Errors
    /// `Corrupt` naming the run or pack of a snapshot that is required, or the store's.
    pub(super) async fn advance(&mut self, range: BlockRange, blocks: u64) -> Result<Vec<Candidate>> {
        self.scanned = self.scanned.saturating_add(blocks);
        if self.walks.is_empty() || range.end() + STEP <= self.reached {
            return Ok(Vec::new());
        }
        if !self.afford(self.walks.len() as u64) {
            return Ok(Vec::new());
        }
        let (from, until) = (Blocks(range.first.0.saturating_sub(NEAR.0)), range.end() + NEAR);
        self.reached = until;
        let walked = join_all(self.walks.iter_mut().map(|walk| walk.advance(from, until))).await;
        self.walks.retain(|walk| !walk.done);
        let mut named = Vec::new();
        for walked in walked {
            named.extend(walked?);
        }
        self.candidates(named).await
    }

    /// Finds out what chunks those are that were named.
    async fn candidates(&mut self, named: Vec<Named>) -> Result<Vec<Candidate>> {
        let mut order: Vec<(PackReference, bool)> = Vec::new();
        let mut ordinals: HashMap<PackReference, HashSet<u32>> = HashMap::new();
        for Named { pack, ordinal, required } in named {
            let of_pack = ordinals.entry(pack).or_insert_with(|| {
                order.push((pack, required));
                HashSet::new()
            });
            of_pack.insert(ordinal);
        }
        // In the order in which they were met, so that nothing depends on how a map is laid out.
        order.retain(|(pack, _)| self.tables.find(pack).is_some() || self.afford(1));
        let (repository, tables) = (&self.repository, &self.tables);
        let read = |(pack, required)| async move { (pack, required, tables.table(repository, &pack).await) };
        let mut read = stream::iter(order).map(read).buffered(READS);
        let everything = self.repository.seams().broken(Mutation::DeadChunksReused);
        let mut candidates = Vec::new();
        while let Some((pack, required, table)) = read.next().await {
            let table = match table {
                Ok(table) => table,
                Err(error @ Error::Corrupt { .. }) if !required => {
                    tracing::warn!(%error, "nothing of a damaged pack is referred to");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let named = &ordinals[&pack];
            let entries = table.entries.iter().zip(0..).filter(|(_, ordinal)| everything || named.contains(ordinal));
            candidates.extend(entries.map(|(entry, ordinal)| Candidate { id: entry.id, pack, ordinal }));
        }
        Ok(candidates)
    }

    /// Takes requests from the allowance, if it has as many left.
    fn afford(&mut self, requests: u64) -> bool {
        let allowed = FIRST_REQUESTS + self.scanned / BLOCKS_A_REQUEST;
        let affords = self.requests + requests <= allowed;
        if affords {
            self.requests += requests;
        }
        affords
    }
}

impl Walk {
    /// Returns what extents between two positions name, as far as they were not walked before.
    async fn advance(&mut self, from: Blocks, until: Blocks) -> Result<Vec<Named>> {
        match self.walk(from, until).await {
            Err(error @ Error::Corrupt { .. }) if !self.required => {
                tracing::warn!(snapshot = %self.snapshot, %error, "nothing of a damaged snapshot is referred to");
                self.done = true;
                Ok(Vec::new())
            }
            walked => walked,
        }
    }

    async fn walk(&mut self, from: Blocks, until: Blocks) -> Result<Vec<Named>> {
        let mut named: Vec<Named> = Vec::new();
        self.view.skip_to(from);
        loop {
            let segment = match self.ahead.take() {
                Some(segment) => Some(segment),
                None => self.view.next().await?,
            };
            let Some(segment) = segment else {
                self.done = true;
                return Ok(named);
            };
            if segment.range.first >= until {
                self.ahead = Some(segment);
                return Ok(named);
            }
            if let Place::Chunk(chunk) = segment.place {
                let again = named.last().is_some_and(|last| (last.pack, last.ordinal) == (chunk.pack, chunk.ordinal));
                if !again && segment.range.end() > from {
                    named.push(Named { pack: chunk.pack, ordinal: chunk.ordinal, required: self.required });
                }
            }
        }
    }
}
