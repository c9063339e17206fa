//! A workload that writes while a snapshot is made: an append-only log whose records prove what was in it, and when.
//!
//! Record `n` holds its number and a hash, so a restored log shows how many records it has and that they are the first
//! ones, unbroken. How many there must be is known: no fewer than were synced before the snapshot was asked for, no
//! more than were written when it was answered.

use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

/// Bytes of one record.
const RECORD: usize = 512;
/// Records between two syncs.
const SYNC_EVERY: u64 = 32;
/// The writer's rest between two records.
const REST: Duration = Duration::from_millis(1);

/// What a writer has done so far, readable while it runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    started: AtomicU64,
    synced: AtomicU64,
    longest_nanos: AtomicU64,
}

impl Ledger {
    /// Records whose writing has begun: no more can be in the log.
    pub(super) fn started(&self) -> u64 {
        self.0.started.load(Ordering::SeqCst)
    }

    /// Records known to be durable: no fewer can be in the log.
    pub(super) fn synced(&self) -> u64 {
        self.0.synced.load(Ordering::SeqCst)
    }

    /// The longest that one write or sync took since this was last asked.
    pub(super) fn take_longest(&self) -> Duration {
        Duration::from_nanos(self.0.longest_nanos.swap(0, Ordering::SeqCst))
    }

    fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.longest_nanos.fetch_max(nanos, Ordering::SeqCst);
        result
    }
}

/// Appends to the file at `path`, which is there, until told to stop; then syncs once more.
///
/// # Errors
/// The system's.
pub(super) fn write(path: &Path, ledger: &Ledger, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut file =
        fs::OpenOptions::new().append(true).open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut number = 0;
    while !stop.is_cancelled() {
        let bytes = record(number);
        number += 1;
        ledger.0.started.store(number, Ordering::SeqCst);
        ledger.time(|| file.write_all(&bytes)).context("appending to the log")?;
        if number.is_multiple_of(SYNC_EVERY) {
            ledger.time(|| file.sync_data()).context("syncing the log")?;
            ledger.0.synced.store(number, Ordering::SeqCst);
        }
        thread::sleep(REST);
    }
    file.sync_data().context("syncing the log")
}

/// Checks a restored log; returns how many records it has.
///
/// # Errors
/// That a record is torn, out of order or not what was written, or that there are too few or too many.
pub(super) fn verify(path: &Path, at_least: u64, at_most: u64) -> anyhow::Result<u64> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let (records, torn) = bytes.as_chunks::<RECORD>();
    if !torn.is_empty() {
        bail!("the log ends within a record: {} bytes of {RECORD}", torn.len());
    }
    let mut count = 0;
    for found in records {
        if *found != record(count) {
            bail!("record {count} of the log is not what was written");
        }
        count += 1;
    }
    if count < at_least || count > at_most {
        bail!("the log has {count} records: expected {at_least} to {at_most}");
    }
    Ok(count)
}

/// The record of that number: the number, filler and a hash of both.
fn record(number: u64) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let (body, hash) = bytes.split_at_mut(RECORD - blake3::OUT_LEN);
    body[..8].copy_from_slice(&number.to_le_bytes());
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut body[8..]);
    hash.copy_from_slice(blake3::hash(body).as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_verified_and_a_broken_one_is_found() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("log");
        fs::File::create(&path).expect("a file can be made");
        let (ledger, stop) = (Ledger::default(), CancellationToken::new());
        let writer = {
            let (path, ledger, stop) = (path.clone(), ledger.clone(), stop.clone());
            thread::spawn(move || write(&path, &ledger, &stop))
        };
        while ledger.synced() < SYNC_EVERY {
            thread::yield_now();
        }
        stop.cancel();
        writer.join().expect("it does not panic").expect("the log can be written");
        let written = ledger.started();
        assert_eq!(verify(&path, ledger.synced(), written).expect("the log is whole"), written);
        assert!(ledger.take_longest() > Duration::ZERO);

        let error = verify(&path, written + 1, written + 2).expect_err("there are too few").to_string();
        assert!(error.contains(&format!("has {written} records")), "{error}");
        let mut bytes = fs::read(&path).expect("the log can be read");
        bytes[RECORD + 100] ^= 1;
        fs::write(&path, &bytes).expect("the log can be written");
        assert!(verify(&path, 0, written).expect_err("a bit is flipped").to_string().contains("record 1"));
        fs::write(&path, &bytes[..RECORD - 1]).expect("the log can be written");
        assert!(verify(&path, 0, written).expect_err("a record is torn").to_string().contains("within a record"));
    }
}
