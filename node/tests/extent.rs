//! Extent maps against the bytes themselves, on both kinds of pool. Needs root.

mod fixtures;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, ErrorKind},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use fixtures::{BLOCK, GIB, MIB, TestPool, contents, open_direct, write_direct};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::fs::{FallocateFlags, fallocate};
use varve_node::{
    device::{Attached, Options},
    extent::{Allocated, Difference, ImageSource, ImageTarget, State, map},
    pool::{IMAGE, Kind},
    sys,
};
use varve_repository::block::{BlockRange, BlockSource, BlockTarget, Blocks, Change, ChangeSource};

macro_rules! on_both {
    ($($test:ident)*) => {
        mod xfs {
            $(#[test] fn $test() { super::$test(super::Kind::Xfs); })*
        }
        mod btrfs {
            $(#[test] fn $test() { super::$test(super::Kind::Btrfs); })*
        }
    };
}

on_both! {
    differences_are_what_was_written_and_nothing_else
    allocated_extents_are_what_was_written
    maps_of_many_extents_are_read_in_batches
    a_cut_that_grew_differs_in_what_was_written_beyond_its_base
    an_idle_volume_differs_in_nothing
    images_are_read_and_filled_from_several_threads
}

fn changes(source: &dyn ChangeSource, from: u64) -> Vec<Change> {
    source.changes(Blocks(from)).unwrap().collect::<io::Result<_>>().unwrap()
}

fn blocks(range: BlockRange) -> Range<usize> {
    usize::try_from(range.first.0).unwrap()..usize::try_from(range.end().0).unwrap()
}

fn bytes(range: BlockRange) -> Range<usize> {
    let blocks = blocks(range);
    blocks.start * 4096..blocks.end * 4096
}

/// Checks order, and that neighbours are joined.
fn assert_well_formed(changes: &[Change], capacity: u64) {
    for change in changes {
        assert!(!change.range().is_empty() && change.range().end().0 <= capacity, "{change:?}");
    }
    for pair in changes.windows(2) {
        let (a, b) = (pair[0].range(), pair[1].range());
        let same =
            matches!((pair[0], pair[1]), (Change::Data(_), Change::Data(_)) | (Change::Zero(_), Change::Zero(_)));
        assert!(a.end() < b.first || (a.end() == b.first && !same), "{pair:?}");
    }
}

/// Turns the base into the cut, as a repository would.
fn apply(base: &[u8], cut: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut image = base.to_vec();
    image.resize(cut.len(), 0);
    for change in changes {
        let range = bytes(change.range());
        match change {
            Change::Data(_) => image[range.clone()].copy_from_slice(&cut[range]),
            Change::Zero(_) => image[range].fill(0),
        }
    }
    image
}

const CAPACITY: u64 = 4096;

/// One random operation on a volume, through its device or beneath it; returns the blocks that it touched.
fn disturb(random: &mut StdRng, image: &File, device: &File) -> Range<u64> {
    let first = random.random_range(0..CAPACITY);
    let longest = if random.random_bool(0.8) { 8 } else { 300 };
    let count = random.random_range(1..=longest).min(CAPACITY - first);
    let (offset, length) = (first * BLOCK, count * BLOCK);
    match random.random_range(0..10) {
        0 => sys::block::discard(device, offset, length).unwrap(),
        1 => fallocate(image, FallocateFlags::KEEP_SIZE, offset, length).unwrap(),
        2 => {
            let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            fallocate(image, zero, offset, length).unwrap();
        }
        3 => {
            let mut data = vec![0; usize::try_from(length).unwrap()];
            random.fill_bytes(&mut data);
            image.write_all_at(&data, offset).unwrap();
        }
        _ => {
            let mut data = vec![0; usize::try_from(length).unwrap()];
            random.fill_bytes(&mut data);
            write_direct(device, &data, offset);
        }
    }
    first..first + count
}

fn differences_are_what_was_written_and_nothing_else(kind: Kind) {
    for seed in [1, 2, 3] {
        let mut random = StdRng::seed_from_u64(seed);
        let pool = TestPool::new(kind);
        let data = pool.volume("a", CAPACITY * BLOCK);
        let mut base = pool.cut(&data, "cut-0");
        for round in 1..=8 {
            let case = format!("{kind:?}, seed {seed}, round {round}");
            let attached = Attached::new(&data.join(IMAGE), Options::default()).unwrap();
            let device = open_direct(&attached.path()).unwrap();
            let image = File::options().read(true).write(true).open(data.join(IMAGE)).unwrap();
            let mut touched = BTreeSet::new();
            for _ in 0..random.random_range(0..60) {
                touched.extend(disturb(&mut random, &image, &device));
            }
            device.sync_all().unwrap();
            let cut = pool.cut(&data, &format!("cut-{round}"));
            drop((device, attached, image));
            let (before, after) = (contents(&base), contents(&cut));
            assert!(after == contents(&data), "{case}: the cut is not the volume");

            let difference = Difference::new(&base.join(IMAGE), &cut.join(IMAGE)).unwrap();
            let found = changes(&difference, 0);
            assert_well_formed(&found, CAPACITY);
            assert!(apply(&before, &after, &found) == after, "{case}: a change is missing");
            let reported: BTreeSet<u64> =
                found.iter().flat_map(|change| change.range().first.0..change.range().end().0).collect();
            let surplus: Vec<_> = reported.difference(&touched).collect();
            assert!(surplus.is_empty(), "{case}: reported and never touched: {surplus:?}");
            for change in &found {
                if let Change::Zero(range) = change {
                    assert!(after[bytes(*range)].iter().all(|byte| *byte == 0), "{case}: {range} is not zero");
                }
            }
            for from in [1, CAPACITY / 3, CAPACITY - 1, CAPACITY, CAPACITY + 9] {
                assert_eq!(changes(&difference, from), clipped(&found, from), "{case}, from {from}");
            }

            // And from nothing: what is not reported is zero.
            let allocated = changes(&Allocated::new(&cut.join(IMAGE)).unwrap(), 0);
            assert_well_formed(&allocated, CAPACITY);
            assert!(apply(&[], &after, &allocated) == after, "{case}: an allocated extent is missing");
            base = cut;
        }
    }
}

fn clipped(changes: &[Change], from: u64) -> Vec<Change> {
    let clip = |range: BlockRange| {
        let first = range.first.0.max(from);
        BlockRange::new(first, range.end().0 - first)
    };
    let rest = changes.iter().filter(|change| change.range().end().0 > from);
    rest.map(|change| match change {
        Change::Data(range) => Change::Data(clip(*range)),
        Change::Zero(range) => Change::Zero(clip(*range)),
    })
    .collect()
}

fn allocated_extents_are_what_was_written(kind: Kind) {
    let pool = TestPool::new(kind);
    let data = pool.volume("a", 100 * GIB);
    let image = open_direct(&data.join(IMAGE)).unwrap();
    write_direct(&image, &[1; 3 * 4096], 0);
    write_direct(&image, &[1; 4096], 99 * GIB);
    fallocate(&image, FallocateFlags::KEEP_SIZE, GIB, 10 * MIB).unwrap();
    write_direct(&image, &[1; 4096], GIB + MIB);
    let cut = pool.cut(&data, "s");
    let expected = [(0, 3), (262_144 + 256, 1), (99 * 262_144, 1)]
        .map(|(first, count)| Change::Data(BlockRange::new(first, count)));
    assert_eq!(changes(&Allocated::new(&cut.join(IMAGE)).unwrap(), 0), expected);
    let file = File::open(data.join(IMAGE)).unwrap();
    let mapped: Vec<_> = map(&file, BlockRange::new(262_144, 1000)).collect::<io::Result<_>>().unwrap();
    assert_eq!(mapped.iter().map(|mapped| mapped.range.count.0).sum::<u64>(), 1000);
    assert_eq!(mapped.iter().filter(|mapped| mapped.state != State::Unwritten).count(), 1);
}

fn maps_of_many_extents_are_read_in_batches(kind: Kind) {
    let pool = TestPool::new(kind);
    let count = 6000;
    let data = pool.volume("a", 4 * count * BLOCK);
    let image = open_direct(&data.join(IMAGE)).unwrap();
    for index in 0..count {
        write_direct(&image, &[1; 4096], 4 * index * BLOCK);
    }
    let base = pool.cut(&data, "base");
    assert_eq!(changes(&Allocated::new(&base.join(IMAGE)).unwrap(), 0).len(), usize::try_from(count).unwrap());
    // Every seventh is overwritten, every eleventh is punched, and one lies where there was nothing.
    let mut expected = Vec::new();
    for index in 0..count {
        let range = BlockRange::new(4 * index, 1);
        if index % 11 == 0 {
            fallocate(&image, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, range.first.bytes(), BLOCK)
                .unwrap();
            expected.push(Change::Zero(range));
        } else if index % 7 == 0 {
            write_direct(&image, &[2; 4096], range.first.bytes());
            expected.push(Change::Data(range));
        }
    }
    write_direct(&image, &[3; 4096], 4 * count * BLOCK - BLOCK);
    expected.push(Change::Data(BlockRange::new(4 * count - 1, 1)));
    let cut = pool.cut(&data, "cut");
    assert_eq!(changes(&Difference::new(&base.join(IMAGE), &cut.join(IMAGE)).unwrap(), 0), expected);
}

fn a_cut_that_grew_differs_in_what_was_written_beyond_its_base(kind: Kind) {
    let pool = TestPool::new(kind);
    let data = pool.volume("a", 100 * BLOCK);
    let image = open_direct(&data.join(IMAGE)).unwrap();
    write_direct(&image, &[1; 2 * 4096], 98 * BLOCK);
    let base = pool.cut(&data, "base");
    image.set_len(200 * BLOCK).unwrap();
    write_direct(&image, &[1; 4096], 150 * BLOCK);
    let cut = pool.cut(&data, "cut");
    let difference = Difference::new(&base.join(IMAGE), &cut.join(IMAGE)).unwrap();
    assert_eq!(changes(&difference, 0), [Change::Data(BlockRange::new(150, 1))]);
    assert_eq!(changes(&difference, 151), []);
}

fn an_idle_volume_differs_in_nothing(kind: Kind) {
    let pool = TestPool::new(kind);
    let data = pool.volume("a", 64 * MIB);
    let image = open_direct(&data.join(IMAGE)).unwrap();
    write_direct(&image, &vec![1; 1 << 20], 0);
    let base = pool.cut(&data, "base");
    let cut = pool.cut(&data, "cut");
    assert_eq!(changes(&Difference::new(&base.join(IMAGE), &cut.join(IMAGE)).unwrap(), 0), []);
}

fn images_are_read_and_filled_from_several_threads(kind: Kind) {
    let pool = TestPool::new(kind);
    let data = pool.volume("a", 64 * MIB);
    let target = ImageTarget::open(&data.join(IMAGE)).unwrap();
    let piece = 32 * 4096 + 4096;
    let pieces = 64 * MIB / u64::try_from(piece).unwrap();
    let content = |index: u64| -> Vec<u8> {
        let seed = usize::try_from(index).unwrap() * 7;
        (0..piece).map(|byte| u8::try_from((byte * 31 + seed) % 251).unwrap() + 1).collect()
    };
    let range = |index: u64| Blocks(index * 33);
    thread::scope(|scope| {
        for worker in 0..4 {
            let target = &target;
            scope.spawn(move || {
                for index in (worker..pieces).step_by(4) {
                    target.write(range(index), &content(index)).unwrap();
                }
            });
        }
    });
    target.sync().unwrap();
    let cut = pool.cut(&data, "s");
    let source = ImageSource::open(&cut.join(IMAGE)).unwrap();
    assert_eq!(source.capacity(), Blocks(16384));
    thread::scope(|scope| {
        for worker in 0..4_u8 {
            let source = &source;
            scope.spawn(move || {
                for index in (u64::from(worker)..pieces).step_by(4) {
                    // Never aligned in memory but by chance.
                    let start = usize::from(worker) + 1;
                    let mut room = vec![0; piece + start];
                    source.read(range(index), &mut room[start..]).unwrap();
                    assert!(room[start..] == content(index));
                }
            });
        }
    });
    let mut large = vec![0; 4 << 20];
    source.read(Blocks(1), &mut large).unwrap();
    assert!(large[..] == contents(&cut)[4096..4096 + (4 << 20)]);
    let mut block = [1; 4096];
    source.read(Blocks(16383), &mut block).unwrap();
    assert_eq!(block, [0; 4096]);
    assert_eq!(source.read(Blocks(16384), &mut block).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(source.read(Blocks(u64::MAX), &mut block).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(source.read(Blocks(0), &mut block[1..]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(target.write(Blocks(16384), &block).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(ImageTarget::open(&cut.join(IMAGE)).map(|_| ()).unwrap_err().kind(), refused(kind));
}

#[test]
fn a_balance_is_noticed_and_changes_no_answer() {
    let pool = TestPool::new(Kind::Btrfs);
    let data = pool.volume("a", 80 * MIB);
    let image = open_direct(&data.join(IMAGE)).unwrap();
    for index in 0..2000 {
        write_direct(&image, &[u8::try_from(index % 250).unwrap() + 1; 3 * 4096], index * 10 * BLOCK);
    }
    let base = pool.cut(&data, "base");
    for index in (0..2000).step_by(9) {
        write_direct(&image, &[0xee; 4096], index * 10 * BLOCK);
    }
    let cut = pool.cut(&data, "cut");
    let changed: Vec<BlockRange> = (0..2000).step_by(9).map(|index| BlockRange::new(index * 10, 1)).collect();
    let (before, after) = (contents(&base), contents(&cut));
    assert!(!pool.filesystem().moving().unwrap());
    let mut noticed = false;
    for _ in 0..3 {
        let mut balance = Balance::start(pool.pool().root());
        let mut ended = None;
        while ended.is_none() {
            ended = balance.0.try_wait().unwrap();
            noticed |= pool.filesystem().moving().unwrap();
            let difference = Difference::new(&base.join(IMAGE), &cut.join(IMAGE)).unwrap();
            match difference.changes(Blocks(0)).unwrap().collect::<io::Result<Vec<_>>>() {
                Ok(found) => {
                    assert!(changed.iter().all(|range| covered(&found, *range)), "a change is missing: {found:?}");
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::ResourceBusy),
            }
        }
        assert!(ended.unwrap().success());
    }
    assert!(contents(&base) == before && contents(&cut) == after);
    assert!(noticed, "three balances passed unnoticed");
    assert!(!pool.filesystem().moving().unwrap());
}

/// A full balance; it is waited for however the test ends, since nothing could be unmounted before.
struct Balance(Child);

impl Balance {
    fn start(root: &Path) -> Self {
        let mut command = Command::new("btrfs");
        command.args(["balance", "start", "--full-balance"]).arg(root);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Balance {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

fn covered(changes: &[Change], range: BlockRange) -> bool {
    let covers = |change: &&Change| change.range().first <= range.first && range.end() <= change.range().end();
    changes.iter().any(|change| covers(&change))
}

fn refused(kind: Kind) -> ErrorKind {
    match kind {
        Kind::Xfs => ErrorKind::PermissionDenied,
        Kind::Btrfs => ErrorKind::ReadOnlyFilesystem,
    }
}

#[test]
fn a_file_of_an_odd_length_is_no_image() {
    let folder = fixtures::folder();
    let path: &Path = &folder.path().join("odd");
    std::fs::write(path, [1; 5000]).unwrap();
    assert_eq!(ImageSource::open(path).map(|_| ()).unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(Allocated::new(path).map(|_| ()).unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(Difference::new(path, path).map(|_| ()).unwrap_err().kind(), ErrorKind::InvalidData);
}
