//! Which node is chosen, and what is answered when none can be.

use tonic::Code;
use varve_proto::csi;

use super::*;
use crate::topology;

const GIB: u64 = 1 << 30;

fn pool(node: &str, provisionable: u64) -> (String, GetPoolResponse) {
    let pool = GetPoolResponse {
        node_id: node.to_owned(),
        capacity_bytes: 100 * GIB,
        free_bytes: 100 * GIB,
        provisionable_bytes: provisionable,
        largest_volume_bytes: 100 * GIB,
        filesystem: "xfs".to_owned(),
        ailments: Vec::new(),
        max_volumes: 0,
    };
    (node.to_owned(), pool)
}

fn survey(pools: Vec<(String, GetPoolResponse)>) -> Survey<GetPoolResponse> {
    Survey { answers: pools, silent: Vec::new() }
}

fn requirement(requisite: &[&str], preferred: &[&str]) -> Requirement {
    let list = |nodes: &[&str]| nodes.iter().map(|node| topology::of(node)).collect();
    let message = csi::TopologyRequirement { requisite: list(requisite), preferred: list(preferred) };
    Requirement::parse("accessibility_requirements", Some(&message)).unwrap()
}

fn choice(names: &[&str]) -> Choice {
    let mut names = names.iter().map(|name| (*name).to_owned());
    Choice { best: names.next().unwrap(), others: names.collect() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_most_room_wins_where_nothing_is_preferred() {
    let pools = survey(vec![pool("a", 2 * GIB), pool("b", 9 * GIB), pool("c", GIB / 2)]);
    let demand = Demand { bytes: GIB, ..Demand::default() };
    assert_eq!(demand.choose(&pools, true).unwrap(), choice(&["b", "a"]));
}

#[test]
fn preferences_lead_in_their_order_and_the_source_s_node_comes_next() {
    let pools = survey(vec![pool("a", 2 * GIB), pool("b", 9 * GIB), pool("c", 5 * GIB), pool("d", 3 * GIB)]);
    let demand = Demand {
        bytes: GIB,
        requirement: requirement(&[], &["d", "a"]),
        near: Some("c".to_owned()),
        ..Demand::default()
    };
    assert_eq!(demand.choose(&pools, true).unwrap(), choice(&["d", "a", "c", "b"]));
}

#[test]
fn a_pool_that_is_not_accessible_takes_nothing() {
    let mut sick = pool("a", 9 * GIB);
    sick.1.ailments.push(Ailment {
        severity: ailment::Severity::Inaccessible.into(),
        reason: "PoolGone".to_owned(),
        message: String::new(),
    });
    let mut slow = pool("b", 2 * GIB);
    slow.1.ailments.push(Ailment { severity: ailment::Severity::Degraded.into(), ..Ailment::default() });
    let demand = Demand { bytes: GIB, ..Demand::default() };
    assert_eq!(demand.choose(&survey(vec![sick, slow]), true).unwrap(), choice(&["b"]));
}

#[test]
fn a_full_pool_is_exhausted_and_an_impossible_size_out_of_range() {
    let pools = survey(vec![pool("a", GIB)]);
    let demand = |bytes| Demand { bytes, ..Demand::default() };
    let full = demand(2 * GIB).choose(&pools, true).unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(full.message().contains("a: 1073741824 bytes"), "{}", full.message());
    assert_eq!(demand(101 * GIB).choose(&pools, true).unwrap_err().code(), Code::OutOfRange);
    // Another node might be larger, and the scheduler is to try it.
    assert_eq!(demand(101 * GIB).choose(&pools, false).unwrap_err().code(), Code::ResourceExhausted);
}

#[test]
fn a_silent_node_leaves_it_open() {
    let pools = Survey {
        answers: vec![pool("a", 0)],
        silent: vec![("b".to_owned(), Status::unavailable("node \"b\" cannot be reached"))],
    };
    let error = Demand { bytes: GIB, ..Demand::default() }.choose(&pools, true).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("\"b\""), "{}", error.message());
}

#[test]
fn topology_and_source_restrict_the_nodes() {
    let all = names(&["a", "b", "c"]);
    let demand = Demand { requirement: requirement(&["b", "c"], &[]), ..Demand::default() };
    assert_eq!(demand.allowed(&all).unwrap(), names(&["b", "c"]));
    let bound = Demand { bound_to: Some("c".to_owned()), ..demand.clone() };
    assert_eq!(bound.allowed(&all).unwrap(), names(&["c"]));
    let excluded = Demand { bound_to: Some("a".to_owned()), ..demand };
    assert_eq!(excluded.allowed(&all).unwrap_err().code(), Code::ResourceExhausted);
    let absent = Demand { requirement: requirement(&["z"], &[]), ..Demand::default() };
    let error = absent.allowed(&all).unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("there are a, b, c"), "{}", error.message());
    let lost = Demand { bound_to: Some("gone".to_owned()), ..Demand::default() };
    assert_eq!(lost.allowed(&all).unwrap_err().code(), Code::Unavailable);
}
