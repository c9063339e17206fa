//! What is written to a device, from a moment on: told by the kernel's tracepoint of completed requests.
//!
//! An image is cloned before its writers are held, and what they wrote meanwhile is cloned once more when they are. The
//! kernel can be asked where it was written without walking the whole image.
//!
//! # Invariants
//! What [`Written::end`] returns, together with what [`Written::take`] returned before, has every block that was changed
//! through the device since [`Written::begin`] returned, or `end` fails. A write that reached the image is told by a record
//! when its request completes, thus after the image has it: who takes records and then clones what they name has either the
//! write in the clone, or its record ahead. That none is missing is checked twice: each processor's hits are counted apart
//! from their records, and the device's own counters of completed requests must not have gone further than the records.
//!
//! # Concurrency
//! A write that is in flight at [`Written::end`] would be told later: it fails. Its caller holds writers.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    ops::Range,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::LoopDevice;
use crate::sys::trace::Hits;

/// The tracepoint, below the folder of tracefs.
const TRACEPOINT: &str = "events/block/block_rq_complete";
/// Where tracefs is, where somebody has mounted it.
const TRACEFS: &str = "/sys/kernel/tracing";
/// Room for records, for each processor, in pages: some 3,000 requests between two [`Written::drain`]s.
const PAGES: usize = 64;
/// Most ranges that are held; with more, it is simpler to clone all.
const MOST: usize = 1 << 16;
/// A sector, in bytes, whatever the device's own are.
const SECTOR: u64 = 512;
/// What ranges are rounded to, in bytes: images are cloned by blocks.
const BLOCK: u64 = 4096;

/// What is written to a device.
#[derive(Debug)]
pub(crate) struct Written {
    device: LoopDevice,
    hits: Vec<Hits>,
    layout: Layout,
    /// Records taken, of whatever requests.
    records: u64,
    /// Those of requests that change the device.
    changes: u64,
    /// The device's own count of such requests at the begin.
    before: u64,
    ranges: Vec<Range<u64>>,
    full: bool,
}

impl Written {
    /// Begins to watch a device.
    ///
    /// # Errors
    /// The system's: where the kernel has no such tracepoint, or the process may not use it.
    pub(crate) fn begin(device: LoopDevice) -> io::Result<Self> {
        let tracepoint = Tracepoint::find()?;
        let number = fs::metadata(device.path())?.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        // As the kernel holds device numbers: 20 bits are the minor's.
        let filter = CString::new(format!("dev == {}", (u64::from(major) << 20) | u64::from(minor)))?;
        let hits = processors()?
            .into_iter()
            .map(|processor| Hits::new(tracepoint.id, processor, &filter, PAGES))
            .collect::<io::Result<Vec<_>>>()?;
        for one in &hits {
            one.start()?;
        }
        // Only now: what completed before there were records is not to be missed among them.
        let before = Counters::read(device)?.changes;
        let layout = tracepoint.layout;
        Ok(Self { device, hits, layout, records: 0, changes: 0, before, ranges: Vec::new(), full: false })
    }

    /// Takes records out of the kernel's rings, which have room for some moments.
    ///
    /// # Errors
    /// The system's; `InvalidData` where a record makes no sense.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        let (layout, ranges, full) = (self.layout, &mut self.ranges, &mut self.full);
        let (mut malformed, mut changes) = (false, 0);
        for one in &mut self.hits {
            self.records += one.take(|record| match layout.read(record) {
                Some(Request::Reads) => {}
                Some(Request::Changes(range)) => {
                    changes += 1;
                    note(ranges, full, range);
                }
                None => malformed = true,
            })?;
        }
        self.changes += changes;
        if malformed {
            return Err(io::Error::new(ErrorKind::InvalidData, "a record of a completed request makes no sense"));
        }
        Ok(())
    }

    /// Tells what was written since it was last asked, in bytes: ascending, apart from one another, in whole blocks.
    ///
    /// # Errors
    /// As [`drain`](Self::drain); `StorageFull` where that is more than is held.
    pub(crate) fn take(&mut self) -> io::Result<Vec<Range<u64>>> {
        self.drain()?;
        if self.full {
            return Err(io::Error::new(ErrorKind::StorageFull, "more was written than is kept in mind"));
        }
        let mut ranges = std::mem::take(&mut self.ranges);
        merge(&mut ranges);
        Ok(ranges)
    }

    /// Tells the rest, once writers are held, and that nothing is missing.
    ///
    /// # Errors
    /// As [`take`](Self::take); `Other` where something may be missing.
    pub(crate) fn end(&mut self) -> io::Result<Vec<Range<u64>>> {
        let ranges = self.take()?;
        let hits = self.hits.iter().map(Hits::count).sum::<io::Result<u64>>()?;
        let now = Counters::read(self.device)?;
        if now.in_flight {
            return Err(io::Error::other("writes are in flight"));
        }
        if hits != self.records || now.changes.wrapping_sub(self.before) > self.changes {
            return Err(io::Error::other(format!(
                "{hits} requests completed and {} were recorded; {} wrote, and {} of them were recorded",
                self.records,
                now.changes.wrapping_sub(self.before),
                self.changes
            )));
        }
        Ok(ranges)
    }
}

/// Adds a range, joining it to the others where there are many.
fn note(ranges: &mut Vec<Range<u64>>, full: &mut bool, range: Range<u64>) {
    if range.is_empty() || *full {
        return;
    }
    if ranges.len() == MOST {
        merge(ranges);
        // Half of it, lest it be sorted for every other range.
        if ranges.len() > MOST / 2 {
            *full = true;
            ranges.clear();
            return;
        }
    }
    ranges.push(range);
}

/// Sorts ranges and joins those that touch.
fn merge(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touch = next.start <= last.end;
        if touch {
            last.end = last.end.max(next.end);
        }
        touch
    });
}

/// A completed request.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Reads,
    /// Anything else, with the bytes that it may have changed, in whole blocks.
    Changes(Range<u64>),
}

/// Where the fields of a record are: offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    sector: usize,
    sectors: usize,
    kind: usize,
}

impl Layout {
    /// Reads a tracepoint's `format`.
    fn parse(text: &str) -> Option<Self> {
        let offset = |name: &str, size: &str| {
            let line = text.lines().find(|line| {
                line.trim_start().starts_with("field:")
                    && line.split(';').next().is_some_and(|field| field.ends_with(name))
            })?;
            let value = |key: &str| line.split(';').find_map(|part| part.trim().strip_prefix(key));
            (size.is_empty() || value("size:")? == size).then(|| value("offset:")?.parse().ok())?
        };
        Some(Self {
            sector: offset("sector_t sector", "8")?,
            sectors: offset(" nr_sector", "4")?,
            kind: ["rwbs[8]", "rwbs[10]", "rwbs[9]"].iter().find_map(|name| offset(&format!("char {name}"), ""))?,
        })
    }

    fn read(self, record: &[u8]) -> Option<Request> {
        let sector = u64::from_ne_bytes(record.get(self.sector..)?.get(..8)?.try_into().ok()?);
        let sectors = u32::from_ne_bytes(record.get(self.sectors..)?.get(..4)?.try_into().ok()?);
        // `blk_fill_rwbs`: an F in front for what flushes first, then the operation: R for a read.
        let reads = matches!(record.get(self.kind..)?.get(..2)?, [b'R', _] | [b'F', b'R']);
        if reads {
            return Some(Request::Reads);
        }
        if sectors == 0 {
            // A flush: it writes nothing, and its place is none.
            return Some(Request::Changes(0..0));
        }
        let start = sector.checked_mul(SECTOR)?;
        let end = start.checked_add(u64::from(sectors) * SECTOR)?;
        Some(Request::Changes(start / BLOCK * BLOCK..end.checked_next_multiple_of(BLOCK)?))
    }
}

/// The tracepoint of completed requests.
struct Tracepoint {
    id: u64,
    layout: Layout,
}

impl Tracepoint {
    /// Looks it up in tracefs: where that is mounted, else in a mount that nobody else sees.
    fn find() -> io::Result<Self> {
        let folder = Path::new(TRACEFS).join(TRACEPOINT);
        let read = |name: &str| fs::read_to_string(folder.join(name));
        let (id, format) = match read("id") {
            Ok(id) => (id, read("format")?),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let root = own_tracefs()?;
                let read = |name: &str| -> io::Result<String> {
                    let path = Path::new(TRACEPOINT).join(name);
                    let file = openat(&root, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
                    let mut text = String::new();
                    File::from(file).read_to_string(&mut text)?;
                    Ok(text)
                };
                (read("id")?, read("format")?)
            }
            Err(error) => return Err(error),
        };
        let unknown = || io::Error::new(ErrorKind::Unsupported, "the tracepoint of completed requests is another");
        let id = id.trim().parse().map_err(|_| unknown())?;
        Ok(Self { id, layout: Layout::parse(&format).ok_or_else(unknown)? })
    }
}

/// Mounts tracefs nowhere: it is there for as long as the descriptor is.
fn own_tracefs() -> io::Result<OwnedFd> {
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}

/// What a device counts itself, see Documentation/block/stat.rst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    /// Completed writes and discards.
    changes: u64,
    /// Whether some are under way.
    in_flight: bool,
}

impl Counters {
    fn read(device: LoopDevice) -> io::Result<Self> {
        let name = device.path();
        let name = name.file_name().ok_or(ErrorKind::InvalidInput)?;
        let folder = Path::new("/sys/block").join(name);
        if fs::read_to_string(folder.join("queue/iostats"))?.trim() != "1" {
            return Err(io::Error::new(ErrorKind::Unsupported, "the device does not count its requests"));
        }
        let text = fs::read_to_string(folder.join("stat"))?;
        // Reads, then writes.
        let in_flight = fs::read_to_string(folder.join("inflight"))?.split_whitespace().nth(1) != Some("0");
        Self::parse(&text, in_flight).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a device's stat"))
    }

    fn parse(stat: &str, in_flight: bool) -> Option<Self> {
        let fields: Vec<u64> = stat.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let (writes, discards) = (fields.get(4)?, fields.get(11)?);
        Some(Self { changes: writes.wrapping_add(*discards), in_flight })
    }
}

/// Lists the processors that are there, as in `0-3,6`.
fn processors() -> io::Result<Vec<i32>> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online")?;
    parse_processors(text.trim()).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the list of processors"))
}

fn parse_processors(text: &str) -> Option<Vec<i32>> {
    let mut processors = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        processors.extend(first.parse::<i32>().ok()?..=last.parse().ok()?);
    }
    Some(processors)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: block_rq_complete\nID: 2107\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:sector_t sector;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:unsigned int nr_sector;\toffset:24;\tsize:4;\tsigned:0;\n\
        \tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;\n\n\
        print fmt: \"%d,%d %s\", field:char rwbs[10]\n";

    fn record(sector: u64, sectors: u32, kind: &[u8]) -> Vec<u8> {
        let mut record = vec![0; 48];
        record[16..24].copy_from_slice(&sector.to_ne_bytes());
        record[24..28].copy_from_slice(&sectors.to_ne_bytes());
        record[34..34 + kind.len()].copy_from_slice(kind);
        record
    }

    #[test]
    fn a_record_is_read_as_its_format_tells() {
        let layout = Layout::parse(FORMAT).unwrap();
        assert_eq!(layout, Layout { sector: 16, sectors: 24, kind: 34 });
        let read = |record: &[u8]| layout.read(record);
        assert_eq!(read(&record(8, 8, b"WS")), Some(Request::Changes(4096..8192)));
        assert_eq!(read(&record(9, 8, b"FWFS")), Some(Request::Changes(4096..12288)));
        assert_eq!(read(&record(0, 1 << 21, b"D")), Some(Request::Changes(0..1 << 30)));
        assert_eq!(read(&record(u64::MAX, 0, b"FF")), Some(Request::Changes(0..0)));
        assert_eq!(read(&record(8, 8, b"RA")), Some(Request::Reads));
        assert_eq!(read(&record(8, 8, b"R")), Some(Request::Reads));
        assert_eq!(read(&record(u64::MAX, 8, b"W")), None);
        assert_eq!(read(&record(8, 8, b"W")[..35]), None);
        assert_eq!(Layout::parse("format:\n"), None);
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut ranges = vec![8192..12288, 0..4096, 4096..8192, 40960..45056, 40960..49152];
        merge(&mut ranges);
        assert_eq!(ranges, [0..12288, 40960..49152]);
    }

    #[test]
    fn too_many_ranges_are_given_up() {
        let (mut ranges, mut full) = (Vec::new(), false);
        for number in 0..MOST as u64 + 1 {
            note(&mut ranges, &mut full, number * 8192..number * 8192 + 4096);
        }
        assert!(full && ranges.is_empty());
    }

    #[test]
    fn counters_and_processors_are_parsed() {
        let counters = Counters::parse("1 0 8 0 20 3 160 9 0 4 9 5 0 40 0 7 1\n", false);
        assert_eq!(counters, Some(Counters { changes: 25, in_flight: false }));
        assert_eq!(Counters::parse("1 2 3", false), None);
        assert_eq!(parse_processors("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_processors(""), None);
    }
}
