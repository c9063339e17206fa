//! The driver in a real Kubernetes cluster of two nodes, with the stock sidecars: what users do with `kubectl`, done.
//!
//! `make cluster-test` starts the cluster, runs this, and takes the cluster down. Everything that is said to the cluster is
//! said through `kubectl`, as a user would say it. Cases run one after another, since some of them take a node away; each
//! has a namespace of its own. After each case its namespace is deleted, and nothing of it may be left: no volume in the
//! repository, nothing in the pools, no loop device. What a case that failed has made stays, to be looked into.
//!
//! It is a program of its own, since all cases share one installation, and since `cargo test` is not to start clusters.

mod bad_input;
mod certificate;
mod crashes;
mod dr;
mod driver;
mod events;
mod examples;
mod kubectl;
mod metadata;
mod node_lost;
mod scale;
mod scene;
mod snapshots;
mod volumes;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use self::{driver::Driver, scene::Scene};

/// One thing that is tried, in a namespace of its own.
type Case = fn(&Scene<'_>);

/// What is tried, in this order.
const CASES: &[(&str, Case)] = &[
    ("a_snapshot_is_restored_on_the_other_node", snapshots::is_restored_on_the_other_node),
    ("a_claim_is_cloned", snapshots::claim_is_cloned),
    ("a_raw_device_is_restored", snapshots::raw_device_is_restored),
    ("a_group_is_restored_as_of_one_instant", snapshots::group_is_restored),
    ("a_source_goes_while_its_snapshot_is_on_its_way", snapshots::source_goes_while_its_snapshot_is_on_its_way),
    ("changed_blocks_are_those_that_changed", metadata::changed_blocks),
    ("a_claim_grows_in_use", volumes::grows_in_use),
    ("files_belong_to_the_pods_group", volumes::files_belong_to_the_pods_group),
    ("one_pod_alone_has_a_claim_of_one_pod", volumes::one_pod_alone),
    ("a_pod_brings_its_own_claim", volumes::pod_brings_its_own_claim),
    ("attributes_change_in_use", volumes::attributes_change_in_use),
    ("what_does_not_fit_on_a_node_goes_to_the_other", volumes::goes_where_there_is_room),
    ("bad_parameters_are_told_of_on_the_claim", bad_input::parameters_of_a_class),
    ("bad_sources_are_told_of_on_the_claim", bad_input::sources_of_a_claim),
    ("a_secret_of_a_class_is_told_of_on_the_claim", bad_input::secret_of_a_class),
    ("a_wrong_key_is_told_of_on_the_pod", bad_input::wrong_key),
    ("a_clone_elsewhere_is_told_of_on_the_claim", bad_input::clone_elsewhere),
    ("a_claim_in_use_is_not_deleted", bad_input::deletion_in_use),
    ("a_foreign_handle_is_told_of_on_the_snapshot", bad_input::foreign_handle),
    ("a_class_of_another_driver_is_told_of_on_the_snapshot", bad_input::foreign_class),
    ("the_plugin_tells_how_things_stand", dr::plugin_tells),
    ("a_snapshot_is_restored_in_another_namespace", dr::restored_elsewhere),
    ("lost_objects_are_imported_from_the_repository", dr::lost_objects_are_imported),
    ("the_example_of_a_snapshot_works", examples::manual_snapshot),
    ("the_example_of_a_group_works", examples::group),
    ("the_example_of_nightly_snapshots_keeps_seven", examples::nightly),
    ("the_example_of_a_pipeline_fails_when_it_must", examples::pipeline),
    ("a_node_is_drained", node_lost::node_is_drained),
    ("many_at_once", scale::many_at_once),
    ("a_restored_claim_says_that_it_was_hydrated", events::restore_is_told_of),
    ("a_snapshot_says_that_the_store_does_not_answer", events::silent_store_is_told_of),
    ("killed_processes_come_back_and_lose_nothing", node_lost::processes_are_killed),
    ("everything_converges_whatever_is_killed", crashes::converge),
    ("snapshots_outlive_claim_and_node", node_lost::snapshots_outlive_claim_and_node),
    ("a_second_cluster_restores_everything", dr::second_cluster_restores_everything),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let driver = Driver::install();
    let (mut passed, mut failed) = (0, 0);
    for &(name, case) in CASES {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let scene = Scene::new(&driver, name);
            case(&scene);
            scene.end();
        }));
        let seconds = begun.elapsed().as_secs_f64();
        if outcome.is_ok() {
            passed += 1;
            println!("test {name} ... ok ({seconds:.1} s)");
        } else {
            failed += 1;
            println!("test {name} ... FAILED ({seconds:.1} s)");
            driver.tell();
        }
    }
    // After all that was killed, lost and deleted.
    println!("{}", driver.varve(&["repository", "check", "--level", "content"]));
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
