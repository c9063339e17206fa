//! Rounds of kill -9: of the controller, the node, the sidecars and the S3 server, in the middle of what users do.
//!
//! What is killed, when, and in the middle of what follows from a seed: `VARVE_SEED=7 VARVE_ROUNDS=100` chooses another, and
//! how many rounds. Nobody helps afterwards: each step has to come to its end by itself.

use std::{env, thread::sleep, time::Duration};

use crate::{
    driver::NODES,
    kubectl::run_cluster,
    scene::{Claim, Pod, Scene},
};

/// What can be killed.
const VICTIMS: [&str; 6] = ["controller", "node", "csi-provisioner", "csi-snapshotter", "csi-resizer", "store"];

/// What goes on meanwhile, in this order, again and again.
const STEPS: [Step; 5] = [Step::Create, Step::Snapshot, Step::Restore, Step::Grow, Step::Delete];

/// The longest time between the begin of a step and the kill, in milliseconds.
const LATEST: u64 = 1500;

#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    Snapshot,
    Restore,
    Grow,
    Delete,
}

/// Numbers that follow from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (number ^ (number >> 31)) % bound
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        let index = usize::try_from(self.below(choices.len() as u64)).expect("less than what a slice holds");
        choices[index]
    }
}

fn number_of(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

/// Goes through the steps with a kill in the middle of each.
pub(crate) fn converge(scene: &Scene<'_>) {
    let (seed, rounds) = (number_of("VARVE_SEED", 1), number_of("VARVE_ROUNDS", 30));
    let mut numbers = Numbers(seed);
    let mut written = String::new();
    for round in 0..rounds {
        let cycle = round / STEPS.len() as u64;
        let step = STEPS[usize::try_from(round).expect("few rounds") % STEPS.len()];
        let (victim, delay) = (numbers.one_of(&VICTIMS), numbers.below(LATEST));
        println!("seed {seed} round {round}: {step:?}, {victim} killed after {delay} ms");
        let names = Names::of(cycle);
        begin(scene, step, &names);
        sleep(Duration::from_millis(delay));
        kill(scene, victim);
        end(scene, step, &names, &mut written);
    }
    scene.driver.wait();
}

/// The objects of one time through all steps.
struct Names {
    claim: String,
    snapshot: String,
    restored: String,
    /// The node that the volume is on, and the other one.
    nodes: [&'static str; 2],
}

impl Names {
    fn of(cycle: u64) -> Self {
        let name = |what: &str| format!("{what}-{cycle}");
        let [one, other] = NODES;
        let nodes = if cycle.is_multiple_of(2) { [one, other] } else { [other, one] };
        Self { claim: name("data"), snapshot: name("snapshot"), restored: name("restored"), nodes }
    }
}

fn begin(scene: &Scene<'_>, step: Step, names: &Names) {
    let kubectl = &scene.kubectl;
    let Names { claim, snapshot, restored, nodes } = names;
    let xfs = Claim { class: "varve-xfs", ..Claim::default() };
    match step {
        Step::Create => {
            scene.claim(claim, &xfs);
            kubectl.apply(&Pod { node: Some(nodes[0]), claim: Some(claim), ..Pod::default() }.object(claim));
        }
        Step::Snapshot => scene.begin_snapshot(snapshot, claim),
        Step::Restore => {
            scene.claim(restored, &Claim { source: Some(("VolumeSnapshot", snapshot)), ..xfs });
            kubectl.apply(&Pod { node: Some(nodes[1]), claim: Some(restored), ..Pod::default() }.object(restored));
        }
        Step::Grow => {
            let patch = r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#;
            kubectl.run(["patch", "pvc", claim, "--patch", patch]);
        }
        Step::Delete => {
            for name in [claim, restored] {
                kubectl.run(["delete", "pod", name, "--wait=false"]);
                kubectl.run(["delete", "pvc", name, "--wait=false"]);
            }
            kubectl.run(["delete", "volumesnapshot", snapshot, "--wait=false"]);
        }
    }
}

fn end(scene: &Scene<'_>, step: Step, names: &Names, written: &mut String) {
    let kubectl = &scene.kubectl;
    let Names { claim, snapshot, restored, .. } = names;
    match step {
        Step::Create => {
            kubectl.wait_for_condition(&format!("pod/{claim}"), "Ready");
            *written = scene.write(claim, claim);
        }
        Step::Snapshot => kubectl.wait_for_field(&format!("volumesnapshot/{snapshot}"), ".status.readyToUse", "true"),
        Step::Restore => {
            kubectl.wait_for_condition(&format!("pod/{restored}"), "Ready");
            assert_eq!(&scene.read(restored), written);
        }
        Step::Grow => {
            kubectl.wait_for_field(&format!("pvc/{claim}"), ".status.capacity.storage", "2Gi");
            assert_eq!(&scene.read(claim), written);
        }
        Step::Delete => {
            for object in [format!("pvc/{claim}"), format!("pvc/{restored}"), format!("volumesnapshot/{snapshot}")] {
                kubectl.wait_until_gone(&object);
            }
        }
    }
}

fn kill(scene: &Scene<'_>, victim: &str) {
    if victim == "store" {
        scene.driver.restart_store();
        return;
    }
    for node in NODES {
        run_cluster(&["kill", node, victim]);
    }
}
