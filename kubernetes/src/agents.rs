//! Which nodes have a pool, and where their agents listen: a pure function of nodes and endpoint slices.
//!
//! A node has a pool if it carries the driver's topology label, which the kubelet puts on a node when the driver registers
//! there and leaves when it goes, or if an agent's endpoint is on it. So a node whose agent is being replaced, or is down,
//! is still one that may hold something.
//!
//! An address is a hint and no more: who is behind it proves who it is (`varve_link`). So an agent that is not ready is taken
//! where there is none that is: a node whose repository does not answer is not ready, and is spoken to all the same.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// The port of the agents' Service that is the agent API, where there is more than one.
const PORT: &str = "agent";

/// One of the places where an agent of a node may be; the least is the best.
///
/// Of several on one node (a pod that takes over from another; addresses of both families) one that does not end is taken
/// before one that does, one that is ready before one that is not, IPv4 before IPv6, and then by address, so that the answer
/// stays the same while the slices do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    ends: bool,
    unready: bool,
    address: IpAddr,
    port: u16,
}

/// Tells of each node that has a pool where its agent listens, as `host:port`; `None` where there is no agent.
pub(crate) fn agents<S: Borrow<EndpointSlice>>(
    labelled: impl IntoIterator<Item = String>,
    slices: impl IntoIterator<Item = S>,
) -> BTreeMap<String, Option<String>> {
    let mut agents: BTreeMap<String, Option<Place>> = labelled.into_iter().map(|node| (node, None)).collect();
    for slice in slices {
        let slice = slice.borrow();
        let port = port(slice);
        for endpoint in &slice.endpoints {
            let Some(node) = &endpoint.node_name else { continue };
            let known = agents.entry(node.clone()).or_default();
            let found = address(endpoint).zip(port).map(|(address, port)| place(endpoint, address, port));
            *known = match (*known, found) {
                (Some(known), Some(found)) => Some(known.min(found)),
                (known, found) => known.or(found),
            };
        }
    }
    let text = |place: Place| SocketAddr::new(place.address, place.port).to_string();
    agents.into_iter().map(|(node, place)| (node, place.map(text))).collect()
}

/// The agent's port: the one of that name, or the only one.
fn port(slice: &EndpointSlice) -> Option<u16> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let named = ports.iter().find(|port| port.name.as_deref() == Some(PORT));
    let port = match ports {
        [only] => Some(only),
        _ => named,
    };
    port.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// No more than the first address means anything (EndpointSlice, `addresses`), and only addresses are dialled.
fn address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

/// An endpoint that says nothing of itself is ready and does not end (EndpointConditions).
fn place(endpoint: &Endpoint, address: IpAddr, port: u16) -> Place {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let ends = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    Place { ends, unready: !ready, address, port }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A slice, as the API has it.
    fn slice(family: &str, ports: Value, endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": "varve-agents-x7k2p", "namespace": "varve-system",
                "labels": { "kubernetes.io/service-name": "varve-agents" } },
            "addressType": family, "ports": ports, "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn ports() -> Value {
        json!([{ "name": "agent", "port": 7420, "protocol": "TCP" }])
    }

    fn endpoint(node: &str, address: &str, conditions: Value) -> Value {
        json!({ "nodeName": node, "addresses": [address], "conditions": conditions })
    }

    fn ready() -> Value {
        json!({ "ready": true, "serving": true, "terminating": false })
    }

    fn found(labelled: &[&str], slices: &[EndpointSlice]) -> Vec<(String, Option<String>)> {
        agents(labelled.iter().map(|node| (*node).to_owned()), slices).into_iter().collect()
    }

    fn one(node: &str, agent: Option<&str>) -> (String, Option<String>) {
        (node.to_owned(), agent.map(str::to_owned))
    }

    #[test]
    fn agents_have_addresses_whether_they_are_ready_or_not() {
        let slices = [slice(
            "IPv4",
            ports(),
            json!([
                endpoint("b", "10.0.0.2", ready()),
                endpoint("a", "10.0.0.1", json!({ "ready": false })),
                endpoint("c", "10.0.0.3", json!({})),
                endpoint("d", "10.0.0.4", json!({ "ready": true, "terminating": true })),
            ]),
        )];
        let expected =
            ["a", "b", "c", "d"].into_iter().zip(1..).map(|(node, n)| one(node, Some(&format!("10.0.0.{n}:7420"))));
        assert_eq!(found(&[], &slices), expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_node_whose_agent_is_gone_is_still_a_node() {
        let slices = [slice("IPv4", ports(), json!([endpoint("b", "10.0.0.2", ready())]))];
        assert_eq!(found(&["a", "b"], &slices), [one("a", None), one("b", Some("10.0.0.2:7420"))]);
        assert_eq!(found(&["a"], &[]), [one("a", None)]);
    }

    #[test]
    fn of_several_pods_the_one_is_taken_that_stays_and_then_the_one_that_is_ready() {
        let of = |address: &str, ready: bool, ends: bool| {
            let conditions = json!({ "ready": ready, "serving": ready, "terminating": ends });
            slice("IPv4", ports(), json!([endpoint("a", address, conditions)]))
        };
        for (left, right) in [
            (of("10.0.0.1", false, true), of("10.0.0.9", true, false)),
            (of("10.0.0.1", true, true), of("10.0.0.9", false, false)),
            (of("10.0.0.1", false, false), of("10.0.0.9", true, false)),
        ] {
            assert_eq!(found(&[], &[left.clone(), right.clone()]), [one("a", Some("10.0.0.9:7420"))]);
            assert_eq!(found(&[], &[right, left.clone()]), [one("a", Some("10.0.0.9:7420"))]);
            assert_eq!(found(&[], &[left]), [one("a", Some("10.0.0.1:7420"))]);
        }
    }

    #[test]
    fn of_both_families_ipv4_is_taken_whatever_the_order() {
        let four = slice("IPv4", ports(), json!([endpoint("a", "10.0.0.1", ready())]));
        let six = slice("IPv6", ports(), json!([endpoint("a", "fd00::1", ready())]));
        assert_eq!(found(&[], &[six.clone(), four.clone()]), [one("a", Some("10.0.0.1:7420"))]);
        assert_eq!(found(&[], &[four, six.clone()]), [one("a", Some("10.0.0.1:7420"))]);
        assert_eq!(found(&[], &[six]), [one("a", Some("[fd00::1]:7420"))]);
    }

    #[test]
    fn the_port_is_the_agent_s_or_the_only_one() {
        let at = |ports: Value| found(&[], &[slice("IPv4", ports, json!([endpoint("a", "10.0.0.1", ready())]))]);
        let two = json!([{ "name": "metrics", "port": 9090 }, { "name": "agent", "port": 1234 }]);
        assert_eq!(at(two), [one("a", Some("10.0.0.1:1234"))]);
        assert_eq!(at(json!([{ "port": 1234 }])), [one("a", Some("10.0.0.1:1234"))]);
        for none in [
            json!([]),
            json!([{ "name": "agent" }]),
            json!([{ "name": "agent", "port": 70000 }]),
            json!([{ "name": "x", "port": 1 }, { "name": "y", "port": 2 }]),
        ] {
            assert_eq!(at(none), [one("a", None)]);
        }
    }

    #[test]
    fn what_is_on_no_node_or_has_no_address_is_not_dialled() {
        let endpoints = json!([
            { "addresses": ["10.0.0.1"], "conditions": {} },
            { "nodeName": "a", "addresses": [], "conditions": {} },
            { "nodeName": "b", "addresses": ["b.example"], "conditions": {} },
        ]);
        assert_eq!(found(&[], &[slice("FQDN", ports(), endpoints)]), [one("a", None), one("b", None)]);
    }
}
