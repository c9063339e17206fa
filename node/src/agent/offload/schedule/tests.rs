//! The promises: who goes first, what is shared how, and that nobody is starved, whatever is asked.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

const TURN: Duration = Duration::from_secs(5);

/// Longer than any turn has to be.
const LATER: Duration = Duration::from_secs(60);

/// A schedule whose turns move bytes as fast as they are told to.
struct Node {
    schedule: Schedule<u8>,
    now: Instant,
}

impl Node {
    fn new(slots: usize) -> Self {
        Self { schedule: Schedule::new(slots, TURN), now: Instant::now() }
    }

    fn ask(&mut self, volume: u8, weight: u8, bytes: u64) {
        self.schedule.ask(volume, Demand { weight, bytes, fruitless: 0 });
    }

    fn grant(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.schedule.grant(self.now)).collect()
    }

    /// Moves bytes in reads of 4 MiB, each long after the one before; tells whether it came to yield.
    fn moves(&mut self, volume: u8, bytes: u64) -> bool {
        (0..bytes.div_ceil(4 * MIB)).any(|_| {
            let yields = self.schedule.advance(volume, 4 * MIB, self.now);
            self.now += LATER;
            yields
        })
    }
}

#[test]
fn among_equals_whoever_asked_first_goes_first() {
    let mut node = Node::new(2);
    (0..5).for_each(|volume| node.ask(volume, USUAL_WEIGHT, 100 * MIB));
    assert_eq!(node.grant(), [0, 1]);
    assert_eq!(node.schedule.standing(), Standing { running: 2, waiting: 3, hydrating: 0 });
    node.schedule.end(1);
    assert_eq!(node.grant(), [2]);
    // Who had a turn waits for those who had none.
    node.ask(1, USUAL_WEIGHT, 100 * MIB);
    node.schedule.end(0);
    assert_eq!(node.grant(), [3]);
}

#[test]
fn a_small_one_goes_before_large_ones_that_wait_already() {
    let mut node = Node::new(1);
    node.ask(0, USUAL_WEIGHT, 1 << 40);
    assert_eq!(node.grant(), [0]);
    node.ask(1, USUAL_WEIGHT, 1 << 40);
    node.ask(2, USUAL_WEIGHT, MIB);
    node.schedule.end(0);
    assert_eq!(node.grant(), [2]);
}

#[test]
fn a_large_one_yields_to_a_small_one_after_the_shortest_turn_and_goes_on_behind_it() {
    let mut node = Node::new(1);
    node.ask(0, USUAL_WEIGHT, 1 << 40);
    node.grant();
    let began = node.now;
    assert!(!node.schedule.advance(0, MIB, began));
    node.ask(1, USUAL_WEIGHT, MIB);
    assert!(!node.schedule.advance(0, MIB, began + TURN - Duration::from_millis(1)), "no sooner");
    assert!(node.schedule.advance(0, MIB, began + TURN));
    assert!(node.schedule.advance(0, MIB, began + TURN), "until it has ended");
    node.schedule.end(0);
    node.ask(0, USUAL_WEIGHT, 1 << 40);
    assert_eq!(node.grant(), [1]);
    node.schedule.end(1);
    assert_eq!(node.grant(), [0]);
}

#[test]
fn getting_going_takes_a_tenth_of_the_time_at_the_most() {
    let mut node = Node::new(1);
    node.ask(0, USUAL_WEIGHT, 1 << 40);
    node.grant();
    node.ask(1, USUAL_WEIGHT, MIB);
    let began = node.now;
    let going = Duration::from_secs(10);
    assert!(!node.schedule.advance(0, MIB, began + going));
    assert!(!node.schedule.advance(0, MIB, began + going * 9 - Duration::from_millis(1)));
    assert!(node.schedule.advance(0, MIB, began + going * 9));
}

#[test]
fn turns_that_came_to_nothing_grow_longer() {
    for (fruitless, shortest) in [(0, TURN), (1, TURN * 2), (5, TURN * 32), (u32::MAX, TURN * 2048)] {
        let mut node = Node::new(1);
        node.schedule.ask(0, Demand { weight: USUAL_WEIGHT, bytes: 1 << 40, fruitless });
        node.grant();
        node.ask(1, USUAL_WEIGHT, MIB);
        let began = node.now;
        assert!(!node.schedule.advance(0, MIB, began));
        assert!(!node.schedule.advance(0, MIB, began + shortest - Duration::from_millis(1)));
        assert!(node.schedule.advance(0, MIB, began + shortest));
    }
}

#[test]
fn nobody_yields_to_as_large_a_one_within_a_packet_or_to_nobody() {
    let mut node = Node::new(1);
    node.ask(0, USUAL_WEIGHT, PACKET);
    node.grant();
    assert!(!node.moves(0, PACKET / 2));
    node.ask(1, USUAL_WEIGHT, 1 << 40);
    assert!(!node.moves(0, PACKET / 2));
    assert!(node.moves(0, 8 * MIB), "a packet is over, and the other one's is to come");
}

#[test]
fn one_that_waits_has_one_yield_and_no_more() {
    let mut node = Node::new(3);
    (0..3).for_each(|volume| node.ask(volume, USUAL_WEIGHT, 1 << 40));
    node.grant();
    (0..3).for_each(|volume| assert!(!node.moves(volume, 4 * MIB)));
    node.ask(3, USUAL_WEIGHT, MIB);
    let yielding: Vec<u8> = (0..3).filter(|volume| node.moves(*volume, 4 * MIB)).collect();
    assert_eq!(yielding, [0]);
}

#[test]
fn whoever_asked_for_little_and_moves_much_is_no_longer_taken_for_small() {
    let mut node = Node::new(1);
    node.ask(0, USUAL_WEIGHT, MIB);
    node.grant();
    assert!(!node.moves(0, 64 * MIB));
    node.ask(1, USUAL_WEIGHT, 64 * MIB);
    assert!(node.moves(0, 4 * MIB));
}

#[test]
fn while_somebody_hydrates_there_is_one_turn_at_a_time_and_a_quarter_of_the_reads() {
    let mut node = Node::new(3);
    (0..4).for_each(|volume| node.ask(volume, USUAL_WEIGHT, MIB));
    assert_eq!(node.schedule.rest(Duration::from_millis(700)), None);
    node.schedule.hydration_begins();
    node.schedule.hydration_begins();
    assert_eq!(node.grant(), [0]);
    node.schedule.end(0);
    assert_eq!(node.grant(), [1]);
    node.schedule.hydration_ends();
    assert_eq!(node.grant(), [0; 0]);
    let open = (0..100_000_u64).map(Duration::from_millis).filter(|at| node.schedule.rest(*at).is_none()).count();
    assert_eq!(open, 25_000);
    let at = Duration::from_millis(5300);
    assert_eq!(at + node.schedule.rest(at).unwrap(), Duration::from_secs(6), "until the next second");
    node.schedule.hydration_ends();
    assert_eq!(node.schedule.rest(at), None);
    assert_eq!(node.grant(), [2, 3]);
}

#[test]
fn those_that_run_when_a_hydration_begins_go_on_and_yield_to_nobody_who_could_not_run() {
    let mut node = Node::new(2);
    (0..2).for_each(|volume| node.ask(volume, USUAL_WEIGHT, 1 << 40));
    node.grant();
    node.schedule.hydration_begins();
    node.ask(2, USUAL_WEIGHT, MIB);
    assert!(!node.moves(0, 64 * MIB), "its slot is gone already");
    node.schedule.end(1);
    assert!(node.moves(0, 4 * MIB));
}

#[test]
fn who_gives_up_waiting_is_not_granted() {
    let mut node = Node::new(1);
    (0..3).for_each(|volume| node.ask(volume, USUAL_WEIGHT, MIB));
    node.grant();
    node.schedule.withdraw(1);
    node.schedule.end(0);
    assert_eq!(node.grant(), [2]);
    assert!(!node.schedule.advance(1, MIB, node.now));
    node.schedule.end(1);
    assert_eq!(node.schedule.standing(), Standing { running: 1, waiting: 0, hydrating: 0 });
}

#[test]
fn nothing_is_remembered_of_those_the_front_has_passed() {
    let mut node = Node::new(1);
    for volume in 0..200 {
        node.ask(volume, USUAL_WEIGHT, MIB);
        node.grant();
        node.schedule.end(volume);
    }
    node.ask(0, 1, 1 << 40);
    node.grant();
    node.moves(0, 8 * PACKET);
    node.schedule.end(0);
    assert!(node.schedule.places.len() <= 1, "{:?}", node.schedule.places);
}

/// A volume as it behaves: how much it moves each time, how it tells, and how long it rests in between.
#[derive(Clone, Debug)]
struct Volume {
    weight: u8,
    jobs: Vec<(u64, u64)>,
    rest: usize,
}

fn volume() -> impl Strategy<Value = Volume> {
    let bytes = || prop_oneof![0..4 * MIB, 0..256 * MIB, 0..40 * PACKET];
    // What is said and what is moved need not agree.
    let jobs = prop::collection::vec((bytes(), bytes()), 1..6);
    (1..=100_u8, jobs, 0..50_usize).prop_map(|(weight, jobs, rest)| Volume { weight, jobs, rest })
}

/// Most bytes moved between two looks at whose turn it is.
const STEP: u64 = 32 * MIB;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The bound of the module's documentation, with reads of 32 MiB that each last longer than the shortest turn.
    #[test]
    fn nobody_is_starved(
        volumes in prop::collection::vec(volume(), 1..8), slots in 1..4_usize, seed: u64,
    ) {
        let mut node = Node::new(slots);
        let mut random = seed;
        let mut left = vec![0; volumes.len()];
        let mut next_job = vec![0; volumes.len()];
        let mut resting: Vec<usize> = volumes.iter().map(|volume| volume.rest).collect();
        let mut waiting = vec![false; volumes.len()];
        let mut running = vec![false; volumes.len()];
        // What each other one has moved since a volume asked.
        let mut meanwhile = vec![vec![0_u64; volumes.len()]; volumes.len()];
        for _ in 0..6000 {
            for (n, volume) in volumes.iter().enumerate() {
                if running[n] || waiting[n] {
                    continue;
                }
                if resting[n] > 0 {
                    resting[n] -= 1;
                    continue;
                }
                let mut said = left[n];
                if left[n] == 0 {
                    (left[n], said) = volume.jobs[next_job[n] % volume.jobs.len()];
                    next_job[n] += 1;
                }
                node.ask(u8::try_from(n).unwrap(), volume.weight, said);
                waiting[n] = true;
                meanwhile[n].fill(0);
            }
            for n in node.grant() {
                let n = usize::from(n);
                prop_assert!(waiting[n] && !running[n]);
                (waiting[n], running[n]) = (false, true);
            }
            let at_work: Vec<usize> = (0..volumes.len()).filter(|n| running[*n]).collect();
            prop_assert!(at_work.len() <= slots);
            prop_assert!(at_work.len() == slots || !waiting.contains(&true), "a slot is free and somebody waits");
            node.now += LATER;
            if at_work.is_empty() {
                continue;
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let n = at_work[usize::try_from(random >> 33).unwrap() % at_work.len()];
            let key = u8::try_from(n).unwrap();
            let step = STEP.min(left[n]);
            let yields = node.schedule.advance(key, step, node.now);
            if !yields {
                left[n] -= step;
                for (other, meanwhile) in meanwhile.iter_mut().enumerate().filter(|(other, _)| waiting[*other]) {
                    meanwhile[n] += step;
                    let mine = u64::from(volumes[n].weight);
                    let share = 2 * (PACKET + STEP) * mine / u64::from(volumes[other].weight);
                    let bound = 2 * (PACKET + STEP) + share;
                    prop_assert!(meanwhile[n] <= bound, "{other} waits while {n} moves {} of {bound}", meanwhile[n]);
                }
            }
            if yields || left[n] == 0 {
                node.schedule.end(key);
                running[n] = false;
                resting[n] = if left[n] == 0 { volumes[n].rest } else { 0 };
            }
        }
    }

    /// Volumes that always have more to move share by their weights, whatever they say.
    #[test]
    fn shares_follow_from_weights(
        weights in prop::collection::vec(1..=100_u8, 2..6), said in 0..4 * PACKET,
    ) {
        let mut node = Node::new(1);
        let mut moved = vec![0_u64; weights.len()];
        for (key, weight) in (0..).zip(&weights) {
            node.ask(key, *weight, said);
        }
        let heaviest = u64::from(*weights.iter().max().unwrap());
        let mut current = node.grant()[0];
        while moved.iter().sum::<u64>() < 100 * PACKET * weights.len() as u64 {
            if node.schedule.advance(current, STEP, node.now) {
                node.schedule.end(current);
                node.ask(current, weights[usize::from(current)], said);
                current = node.grant()[0];
            } else {
                moved[usize::from(current)] += STEP;
            }
            node.now += LATER;
        }
        let places: Vec<u64> = moved.iter().zip(&weights).map(|(moved, weight)| moved / u64::from(*weight)).collect();
        let (least, most) = (places.iter().min().unwrap(), places.iter().max().unwrap());
        let slowest = u64::from(*weights.iter().min().unwrap());
        prop_assert!(most - least <= 2 * (PACKET + STEP) / slowest, "{places:?} by {heaviest}");
    }
}
