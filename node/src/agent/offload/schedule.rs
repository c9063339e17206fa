//! Whose turn it is to offload: weighted fair queueing of volumes by the bytes that they move, with turns that end early.
//!
//! A volume that is to be offloaded asks for a *turn* and says how much it expects to move. At most so many turns run at
//! once. Each volume has a position on one virtual line, which moves on by bytes divided by the volume's weight. What is
//! to be moved is dealt with in *packets* of at most [`PACKET`] bytes; a packet begins at the volume's position, or at the
//! line's [front](Schedule::front) where that is further on, so that nobody saves up turns by asking for none. The next
//! turn goes to the volume whose packet would end first. So a few megabytes go before what is left of a terabyte, and
//! volumes that always have more to move share by their weights.
//!
//! A turn whose packet would end after that of somebody who waits *yields*: its offload stops behind what it has stored and
//! asks anew. It yields no sooner than after a shortest turn, nor before nine times what it took to get going, so that taking up
//! offloads again costs a tenth of the time at the most. Where a turn ended before anything was stored, the shortest turn
//! is twice as long the next time: what was read then has to be read again.
//!
//! While somebody hydrates there is one turn at a time (those that run already go on), and all turns together read in one
//! quarter of each second only: a pod waits for the hydration and nobody waits for a backup, but one that stood still
//! would let cuts pile up.
//!
//! # Invariants
//! No I/O, no clock, nothing shared: what is decided follows from what was asked. While a volume *i* waits, another volume
//! *j* moves no more than 2 packets, and 2 more for each time that its weight is that of *i*, and what it moves in the
//! shortest turn. Nobody is starved.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Most bytes that a volume moves before others are looked at.
pub(super) const PACKET: u64 = 1 << 30;

/// The most often that it is doubled, to nearly three hours.
const DOUBLINGS: u32 = 11;

/// What a turn counts as moving at the least: it takes requests to the store, however little there is to send.
const LEAST: u64 = 4 << 20;

/// How many times the time that it took to get going a turn lasts at the least.
const TIMES_GETTING_GOING: u32 = 9;

/// While somebody hydrates, images are read for offloads in the first `OPEN` of each `PERIOD`.
const PERIOD: Duration = Duration::from_secs(1);
const OPEN: Duration = Duration::from_millis(250);

/// The weight of a volume whose parameters name none.
pub(super) const USUAL_WEIGHT: u8 = 10;

/// A place on the virtual line: bytes divided by weight, with 20 bits behind the point.
type Place = u128;

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// The share of the volume beside that of others: 1 to 100.
    pub(super) weight: u8,
    /// Bytes that are to be moved, as far as that is known.
    pub(super) bytes: u64,
    /// Turns in a row that ended before anything was stored.
    pub(super) fruitless: u32,
}

/// How many there are of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Offloads that have their turn.
    pub running: usize,
    /// Offloads that wait for it.
    pub waiting: usize,
    /// Hydrations under way.
    pub hydrating: usize,
}

/// Who runs and who waits. A volume `K` does one of them, or neither.
#[derive(Debug)]
pub(super) struct Schedule<K> {
    slots: usize,
    /// How long a turn lasts at the least before it yields.
    shortest: Duration,
    hydrating: usize,
    /// The furthest place at which a packet has begun.
    front: Place,
    /// Where the packets of those who have ended ended, as far as that is beyond the front.
    places: BTreeMap<K, Place>,
    waiting: BTreeMap<K, Waiting>,
    running: BTreeMap<K, Running>,
    asked: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    start: Place,
    end: Place,
    weight: u8,
    packet: u64,
    shortest: Duration,
    /// Counts up: among equals, whoever asked first goes first.
    asked: u64,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    start: Place,
    end: Place,
    weight: u8,
    packet: u64,
    /// Bytes moved of the packet.
    moved: u64,
    shortest: Duration,
    since: Instant,
    /// When it had begun to move anything.
    going: Option<Instant>,
    yields: bool,
}

fn distance(bytes: u64, weight: u8) -> Place {
    (Place::from(bytes.max(LEAST)) << 20) / Place::from(weight.max(1))
}

impl<K: Copy + Ord> Schedule<K> {
    /// At most `slots` have their turn at once, at least one; none yields before it has lasted for `shortest`.
    pub(super) fn new(slots: usize, shortest: Duration) -> Self {
        Self {
            slots: slots.max(1),
            shortest,
            hydrating: 0,
            front: 0,
            places: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            asked: 0,
        }
    }

    /// Enters a volume that neither waits nor runs among those that wait.
    pub(super) fn ask(&mut self, volume: K, demand: Demand) {
        let start = self.places.get(&volume).map_or(self.front, |place| self.front.max(*place));
        let packet = demand.bytes.clamp(LEAST, PACKET);
        let end = start + distance(packet, demand.weight);
        let shortest = self.shortest.saturating_mul(1 << demand.fruitless.min(DOUBLINGS));
        self.asked += 1;
        let asked = self.asked;
        self.waiting.insert(volume, Waiting { start, end, weight: demand.weight, packet, shortest, asked });
    }

    /// Forgets that a volume waits.
    pub(super) fn withdraw(&mut self, volume: K) {
        self.waiting.remove(&volume);
    }

    /// Gives the next turn, if there is one to give.
    pub(super) fn grant(&mut self, now: Instant) -> Option<K> {
        if self.running.len() >= self.at_once() {
            return None;
        }
        let (volume, next) = self.waiting.iter().min_by_key(|(_, waiting)| (waiting.end, waiting.asked))?;
        let (volume, Waiting { start, end, weight, packet, shortest, .. }) = (*volume, *next);
        self.waiting.remove(&volume);
        self.front = self.front.max(start);
        let running =
            Running { start, end, weight, packet, moved: 0, shortest, since: now, going: None, yields: false };
        self.running.insert(volume, running);
        Some(volume)
    }

    /// Counts what a volume is about to move; tells whether it is to yield instead. Once told, it is told again.
    pub(super) fn advance(&mut self, volume: K, bytes: u64, now: Instant) -> bool {
        let at_once = self.at_once();
        let Some(running) = self.running.get_mut(&volume) else { return false };
        let going = *running.going.get_or_insert(now);
        let getting_going = going.saturating_duration_since(running.since);
        let long_enough = running.shortest.max(getting_going.saturating_mul(TIMES_GETTING_GOING));
        if now.saturating_duration_since(running.since) >= long_enough && !running.yields {
            let end = running.end;
            let yielding = self.running.values().filter(|running| running.yields).count();
            let ahead = self.waiting.values().filter(|waiting| waiting.end < end).count();
            // Nor where its slot would go to nobody.
            if ahead > yielding && self.running.len() - yielding <= at_once {
                self.yield_turn(volume);
            }
        }
        let Some(running) = self.running.get_mut(&volume) else { return false };
        if running.yields {
            return true;
        }
        running.moved = running.moved.saturating_add(bytes);
        while running.moved > running.packet {
            // The next packet begins where any would that is asked for now.
            running.moved -= running.packet;
            running.start = self.front.max(running.start + distance(running.packet, running.weight));
            running.packet = PACKET;
            running.end = running.start + distance(PACKET, running.weight);
            self.front = running.start;
        }
        false
    }

    /// Has a volume yield that has its turn, whoever waits.
    pub(super) fn yield_turn(&mut self, volume: K) {
        if let Some(running) = self.running.get_mut(&volume) {
            running.yields = true;
        }
    }

    /// Takes a volume's turn back.
    pub(super) fn end(&mut self, volume: K) {
        let Some(running) = self.running.remove(&volume) else { return };
        self.places.insert(volume, running.start + distance(running.moved, running.weight));
        let front = self.front;
        self.places.retain(|_, place| *place > front);
    }

    /// Counts somebody who hydrates.
    pub(super) fn hydration_begins(&mut self) {
        self.hydrating += 1;
    }

    /// Counts him no more.
    pub(super) fn hydration_ends(&mut self) {
        self.hydrating = self.hydrating.saturating_sub(1);
    }

    /// How long whoever is to read waits first, at a time since any fixed moment.
    pub(super) fn rest(&self, since: Duration) -> Option<Duration> {
        if self.hydrating == 0 {
            return None;
        }
        let within = Duration::from_nanos(u64::try_from(since.as_nanos() % PERIOD.as_nanos()).unwrap_or(0));
        (within >= OPEN).then(|| PERIOD - within)
    }

    /// How many there are of each.
    pub(super) fn standing(&self) -> Standing {
        Standing { running: self.running.len(), waiting: self.waiting.len(), hydrating: self.hydrating }
    }

    fn at_once(&self) -> usize {
        if self.hydrating > 0 { 1 } else { self.slots }
    }
}

#[cfg(test)]
mod tests;
