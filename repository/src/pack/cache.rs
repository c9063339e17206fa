//! Tables read lately, so that a pack that is met again costs no second read.
//!
//! # Concurrency
//! Shared between tasks. Two that miss the same table at once both read it; that is rare and harmless.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{PackReference, Table, read_table};
use crate::{Repository, Result};

/// Most entries kept, in chunks over all tables: about 6 MiB.
const CAPACITY: usize = 1 << 17;

/// Keeps the tables that were used last, within a bound on what they hold in all.
#[derive(Default)]
pub(crate) struct TableCache(Mutex<State>);

#[derive(Default)]
struct State {
    tables: HashMap<PackReference, Kept>,
    chunks: usize,
    clock: u64,
}

struct Kept {
    table: Arc<Table>,
    used: u64,
}

impl TableCache {
    /// Returns the verified table of a pack, from the store if need be.
    ///
    /// # Errors
    /// Those of [`read_table`].
    pub(crate) async fn table(&self, repository: &Repository, reference: &PackReference) -> Result<Arc<Table>> {
        if let Some(table) = self.find(reference) {
            return Ok(table);
        }
        let table = Arc::new(read_table(repository, reference).await?);
        self.keep(*reference, Arc::clone(&table));
        Ok(table)
    }

    /// Returns a table that was kept.
    pub(crate) fn find(&self, reference: &PackReference) -> Option<Arc<Table>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let clock = state.clock;
        let kept = state.tables.get_mut(reference)?;
        kept.used = clock;
        Some(Arc::clone(&kept.table))
    }

    /// Keeps a table that was verified.
    pub(super) fn keep(&self, reference: PackReference, table: Arc<Table>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.clock += 1;
        state.chunks += table.entries.len();
        if let Some(replaced) = state.tables.insert(reference, Kept { table, used: state.clock }) {
            state.chunks -= replaced.table.entries.len();
        }
        // The scan for the oldest is linear; it runs once a table read from the store, and there are few tables.
        while state.chunks > CAPACITY && state.tables.len() > 1 {
            let Some(oldest) = state.tables.iter().min_by_key(|(_, kept)| kept.used).map(|(oldest, _)| *oldest) else {
                return;
            };
            if let Some(dropped) = state.tables.remove(&oldest) {
                state.chunks -= dropped.table.entries.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{ChunkId, PackId},
        pack::{TableEntry, chunk::Codec},
    };

    fn reference(number: u8) -> PackReference {
        PackReference { id: PackId::from_bytes([number; 16]), object_bytes: 9, table_offset: 8, table_hash: [0; 32] }
    }

    #[test]
    fn the_table_used_longest_ago_goes_first() {
        let entry = TableEntry { id: ChunkId::from_bytes([0; 32]), offset: 0, stored: 0, blocks: 1, codec: Codec::Raw };
        let table = Arc::new(Table { entries: vec![entry; CAPACITY / 2] });
        let cache = TableCache::default();
        cache.keep(reference(1), Arc::clone(&table));
        cache.keep(reference(2), Arc::clone(&table));
        assert!(cache.find(&reference(1)).is_some());
        cache.keep(reference(3), table);
        assert!(cache.find(&reference(2)).is_none());
        assert!(cache.find(&reference(1)).is_some());
        assert!(cache.find(&reference(3)).is_some());
    }
}
