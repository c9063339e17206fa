//! What ten gateways with the same state take together, beside what one takes.
//!
//! Each has the same image of state, and one window in a hundred of its own, and all are offloaded as new volumes are, told
//! of nothing to compare them with. Everything in the bucket counts: packs, runs and records.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context;
use varve_repository::{
    block::{BlockSource, Blocks, Change, ChangeSource},
    offload::Against,
};

use crate::{
    Arguments, estate,
    image::{Mixed, WINDOW_BLOCKS, WINDOW_BYTES, fill_mixed},
    observed::Observed,
    report::{Bound, Figure, Report},
};

const GATEWAYS: u64 = 10;

/// One window in so many is a gateway's own.
const OWN: u64 = 100;

/// Measures it.
pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let bytes: u64 = if arguments.quick { 32 << 20 } else { 128 << 20 };
    report.say(&format!("deduplication: ten gateways with {} MiB of state each", bytes >> 20));
    let store = Arc::new(Observed::new(Duration::ZERO));
    let repository = estate::init(store.store()).await?;
    // What a repository has before anything is in it, its reserve among it, is no gateway's.
    let empty = store.bytes("").await?;
    let mut one = 0;
    for gateway in 0..GATEWAYS {
        let state = State { shared: Mixed { seed: 5, windows: bytes / WINDOW_BYTES as u64 }, gateway };
        let name = format!("gateway-{gateway}");
        let request = estate::request(&repository, &name, &name, Arc::new(state), Against::Nothing);
        repository.offload(request).await.context("offloading a gateway's state")?;
        if gateway == 0 {
            one = store.bytes("").await? - empty;
        }
    }
    let ten = store.bytes("").await? - empty;
    report.add(Figure::new("deduplication.one", one as f64 / f64::from(1 << 20), "MiB", Bound::Shown));
    report.add(Figure::new("deduplication.ten", ten as f64 / f64::from(1 << 20), "MiB", Bound::Shown));
    report.add(Figure::new("deduplication.ten_of_one", ten as f64 / one as f64, "x", Bound::AtMost(1.25)));
    Ok(())
}

/// One gateway's state.
#[derive(Clone, Copy, Debug)]
struct State {
    shared: Mixed,
    gateway: u64,
}

impl BlockSource for State {
    fn capacity(&self) -> Blocks {
        self.shared.capacity()
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        self.shared.read(first, buffer)?;
        let mut own = vec![0; WINDOW_BYTES];
        for (block, number) in buffer.chunks_mut(4096).zip(first.0..) {
            let window = number / WINDOW_BLOCKS;
            if window % OWN == OWN / 2 {
                fill_mixed(1000 + self.gateway, window, &mut own);
                let skip = usize::try_from(number % WINDOW_BLOCKS * 4096).map_err(io::Error::other)?;
                block.copy_from_slice(&own[skip..skip + block.len()]);
            }
        }
        Ok(())
    }
}

impl ChangeSource for State {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        self.shared.changes(from)
    }
}
