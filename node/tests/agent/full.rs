//! Pools that run full under load: no write fails, nothing that was acknowledged is lost, and what is said to be in the
//! repository is.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use tokio::sync::watch;
use tonic::Code;
use varve_node::{
    pool::Kind,
    watermark::{Mark, Marks},
};
use varve_proto::agent as proto;
use varve_repository::{SnapshotState, record::snapshot::Method};

use crate::{
    fixture::{LONG, MIB, Mounted, Node, Site, fails_with, write},
    gate::Position,
    on_both_pools,
};

on_both_pools!(
    no_write_fails_for_a_snapshots_sake,
    a_cut_that_cannot_get_away_goes_before_a_write_fails,
    where_space_is_scarce_snapshots_are_refused_until_it_is_back,
);

/// What is written at once, in bytes.
const UNIT: usize = 64 << 10;

/// How much of a volume is written to: with one base of it that is overwritten throughout, two volumes fill their pool.
const FILE: u64 = 260 * MIB;
const VOLUME: u64 = 320 * MIB;
const UNITS: u64 = FILE / UNIT as u64;

/// Wide apart, for a pool as small as this.
const MARKS: Marks = Marks { shed_bases_below: Mark::Share(0.25), refuse_snapshots_below: Mark::Share(0.15) };

/// Which unit each write was to, in their order.
type Log = Arc<Mutex<Vec<u64>>>;

fn direct(path: &Path) -> File {
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("an int");
    File::options().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path).expect("opened")
}

/// A buffer that direct I/O takes.
fn aligned() -> (Vec<u8>, std::ops::Range<usize>) {
    let room = vec![0; UNIT + 4096];
    let start = room.as_ptr().align_offset(4096);
    (room, start..start + UNIT)
}

/// What a write leaves in its unit.
fn fill(buffer: &mut [u8], number: u64) {
    for (at, word) in (0_u64..).zip(buffer.chunks_exact_mut(8)) {
        word.copy_from_slice(&(number << 16 | at).to_le_bytes());
    }
}

/// Writes whole units in random order, one at a time, until it is told to end; its result is what failed.
struct Writer {
    log: Log,
    written: watch::Receiver<u64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Writer {
    fn start(folder: &Path, seed: u64) -> Self {
        let path = folder.join("data");
        let (sender, written) = watch::channel(0);
        let (log, ends) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (log, ends) = (Arc::clone(&log), Arc::clone(&ends));
            std::thread::spawn(move || {
                let file = direct(&path);
                let (mut room, range) = aligned();
                let buffer = &mut room[range];
                let mut state = seed;
                for number in 0.. {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    // All of it once, and then anywhere.
                    let unit = if number < UNITS { number } else { (state >> 33) % UNITS };
                    log.lock().expect("no holder panics").push(unit);
                    fill(buffer, number);
                    file.write_all_at(buffer, unit * UNIT as u64)?;
                    sender.send_replace(number + 1);
                }
                Ok(())
            })
        };
        Self { log, written, ends, thread: Some(thread) }
    }

    /// How many writes are acknowledged.
    fn acknowledged(&self) -> u64 {
        *self.written.borrow()
    }

    /// How many writes were begun.
    fn begun(&self) -> u64 {
        self.log.lock().expect("no holder panics").len() as u64
    }

    /// Waits for more writes; where one failed there will be no more.
    async fn writes(&self, more: u64) {
        let wanted = self.acknowledged() + more;
        let mut written = self.written.clone();
        written.wait_for(|written| *written >= wanted).await.expect("no write fails");
    }

    /// Ends it and checks that every write succeeded.
    fn end(mut self) -> Log {
        self.ends.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("no panic").expect("no write fails");
        Arc::clone(&self.log)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the units hold after a number of writes.
fn state_after(log: &Log, writes: u64) -> BTreeMap<u64, u64> {
    let log = log.lock().expect("no holder panics");
    log.iter().copied().zip(0..writes).collect()
}

/// Reads which write each unit is of, and checks that it is that write's alone.
fn read(folder: &Path) -> BTreeMap<u64, u64> {
    let file = direct(&folder.join("data"));
    let (mut room, range) = aligned();
    let buffer = &mut room[range];
    let mut expected = vec![0; UNIT];
    let length = file.metadata().expect("measured").len();
    let units = (0..length / UNIT as u64).map(|unit| {
        file.read_exact_at(buffer, unit * UNIT as u64).expect("read");
        let number = u64::from_le_bytes(buffer[..8].try_into().expect("eight bytes")) >> 16;
        fill(&mut expected, number);
        assert!(buffer == expected, "unit {unit} is of one write");
        (unit, number)
    });
    units.collect()
}

/// One snapshot that was answered, and the writes between which it was taken.
struct Taken {
    name: String,
    volume: usize,
    after: u64,
    before: u64,
}

async fn staged(site: &Site, node: &Node, name: &str) -> (Mounted, PathBuf) {
    node.create(site.wanted(name, VOLUME)).await.expect("made");
    let mounted = node.stage(site.volume(name));
    let folder = mounted.target.clone();
    (mounted, folder)
}

async fn small(kind: Kind) -> Site {
    let mut site = Site::new(kind).await;
    site.marks = MARKS;
    site
}

async fn no_write_fails_for_a_snapshots_sake(kind: Kind) {
    const ROUNDS: usize = 12;
    let site = small(kind).await;
    let node = site.node("a").await;
    let volumes = ["one", "two"];
    let mut writers = Vec::new();
    for (seed, volume) in (1..).zip(volumes) {
        let (mounted, folder) = staged(&site, &node, volume).await;
        writers.push((Writer::start(&folder, seed), mounted, folder));
    }
    for (writer, ..) in &writers {
        writer.writes(UNITS).await;
    }
    let (mut taken, mut refused) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let volume = round % volumes.len();
        let (writer, ..) = &writers[volume];
        let name = format!("s{round}");
        let after = writer.acknowledged();
        match node.cut(site.wanted_cuts(&[(&name, volumes[volume])], 0)).await {
            Ok(_) => taken.push(Taken { name, volume, after, before: writer.begun() }),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                refused += 1;
            }
        }
        writer.writes(UNITS / 5).await;
    }
    // What is still on its way gets there, or is given up.
    for snapshot in &taken {
        node.settled(site.snapshot(&snapshot.name)).await;
    }
    let mut logs = Vec::new();
    for (writer, mounted, folder) in writers {
        let log = writer.end();
        assert_eq!(read(&folder), state_after(&log, u64::MAX), "nothing that was acknowledged is lost");
        drop(mounted);
        logs.push(log);
    }
    node.stop().await;

    let (mut ready, mut compared) = (Vec::new(), 0);
    for snapshot in &taken {
        if let Ok(SnapshotState::Committed(root)) = site.repository.snapshot(site.snapshot(&snapshot.name)).await {
            compared += usize::from(root.method == Method::Compared);
            ready.push(snapshot);
        }
    }
    println!("{} cuts, {refused} refused, {} ready, {compared} of them without a base", taken.len(), ready.len());
    assert!(ready.len() >= ROUNDS / 4, "snapshots are taken all the same");
    assert!(compared > 0, "a base went");
    let other = site.node("b").await;
    let step = ready.len().div_ceil(2);
    for snapshot in ready.iter().rev().step_by(step) {
        other.create(site.wanted_from("restored", VOLUME, &snapshot.name)).await.expect("restored");
        let mounted = other.stage(site.volume("restored"));
        let found = read(&mounted.target);
        let newest = found.values().max().map_or(0, |number| number + 1);
        assert!((snapshot.after..=snapshot.before).contains(&newest), "it is of an instant during the call");
        assert_eq!(found, state_after(&logs[snapshot.volume], newest), "and of that instant throughout");
        drop(mounted);
        other.delete(site.volume("restored")).await.expect("deleted");
    }
}

async fn a_cut_that_cannot_get_away_goes_before_a_write_fails(kind: Kind) {
    let (mut site, gate) = Site::gated(kind).await;
    site.marks = MARKS;
    let node = site.node("a").await;
    let (one, folder) = staged(&site, &node, "one").await;
    let (other, other_folder) = staged(&site, &node, "two").await;
    let writer = Writer::start(&folder, 1);
    writer.writes(UNITS).await;
    let second = Writer::start(&other_folder, 2);
    second.writes(UNITS).await;
    gate.set(Position::Shut);
    let cuts = node.cut(site.wanted_cuts(&[("s1", "one"), ("s2", "two")], 0)).await.expect("cut");
    assert!(cuts.iter().all(|cut| cut.state() != proto::cut::State::Ready), "{cuts:?}");
    gate.somebody_waits().await;
    // Nearly every unit is overwritten.
    tokio::join!(writer.writes(3 * UNITS), second.writes(3 * UNITS));
    for (writer, folder) in [(writer, &folder), (second, &other_folder)] {
        let log = writer.end();
        assert_eq!(read(folder), state_after(&log, u64::MAX), "nothing that was acknowledged is lost");
    }

    let given_up: Vec<_> =
        node.cuts().await.into_iter().filter(|cut| cut.state() == proto::cut::State::Failed).collect();
    assert!(!given_up.is_empty(), "at least one had to go");
    assert!(given_up.iter().all(|cut| cut.message.contains("the pool ran full")), "{given_up:?}");
    drop((one, other));
    node.stop().await;

    // It is not taken again under its name, which would be another instant; also not after a restart.
    gate.set(Position::Open);
    let node = site.node("a").await;
    let again = node.cut(site.wanted_cuts(&[("s1", "one"), ("s2", "two")], LONG)).await.expect("answered");
    for cut in &given_up {
        let same = again.iter().find(|again| again.snapshot_id == cut.snapshot_id).expect("it is still told");
        assert_eq!((same.state(), same.created_at), (proto::cut::State::Failed, cut.created_at));
        let id = cut.snapshot_id.parse().expect("an id");
        assert!(!node.agent.cuts().get(&id).expect("here").image().exists());
        site.repository.delete_snapshot(id, "deleted").await.expect("deleted");
        node.delete_cut(id).await.expect("deleted");
        assert!(node.agent.cuts().get(&id).is_none());
    }
    node.delete(site.volume("two")).await.expect("deleted");
    node.back_up(site.wanted_cuts(&[("s3", "one")], 0)).await;
}

async fn where_space_is_scarce_snapshots_are_refused_until_it_is_back(kind: Kind) {
    let site = Site::new(kind).await;
    let node = site.node("a").await;
    for name in ["one", "two"] {
        node.create(site.wanted(name, 64 * MIB)).await.expect("made");
        write(&node.volume(site.volume(name)).image(), 0, 1, MIB);
    }
    node.back_up(site.wanted_cuts(&[("s1", "one")], 0)).await;
    let pool = node.pool().await;
    assert!(pool.ailments.is_empty() && pool.provisionable_bytes > 0, "{pool:?}");
    let filler = File::create(node.agent.pool().root().join("filler")).expect("created");
    let bytes = pool.free_bytes - pool.capacity_bytes / 40;
    fallocate(&filler, FallocateFlags::empty(), 0, bytes).expect("allocated");
    filler.sync_all().expect("synced");

    let alone = node.cut(site.wanted_cuts(&[("s2", "one")], 0)).await;
    let status = fails_with(alone, Code::ResourceExhausted);
    assert!(status.message().contains("grow the pool"), "{status:?}");
    let group = site.wanted_cuts(&[("s3", "one"), ("s4", "two")], 0);
    fails_with(node.cut(group.clone()).await, Code::ResourceExhausted);
    fails_with(node.create(site.wanted("three", 64 * MIB)).await, Code::ResourceExhausted);
    let full = node.pool().await;
    assert_eq!((full.provisionable_bytes, full.largest_volume_bytes), (0, 0));
    assert_eq!(full.ailments.first().map(|ailment| ailment.reason.as_str()), Some("PoolNearlyFull"), "{full:?}");
    // What is there is told all the same.
    let known = node.cut(site.wanted_cuts(&[("s1", "one")], 0)).await.expect("it is in the repository");
    assert_eq!(known[0].state(), proto::cut::State::Ready);
    node.create(site.wanted("two", 64 * MIB)).await.expect("it is there");

    filler.set_len(0).expect("emptied");
    filler.sync_all().expect("synced");
    node.back_up(site.wanted_cuts(&[("s2", "one")], 0)).await;
    node.back_up(group).await;
    node.create(site.wanted("three", 64 * MIB)).await.expect("made");
    assert!(node.pool().await.ailments.is_empty());
}
