//! Topology requirements: where a volume is asked to be reachable from.

use std::collections::BTreeMap;

use tonic::Status;
use varve_csi::status;
use varve_proto::csi;

pub use varve_csi::topology::{NODE, of};

/// A validated `TopologyRequirement`. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requirement {
    requisite: Vec<Segments>,
    preferred: Vec<Segments>,
}

/// One entry of a requirement: every segment has to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segments(BTreeMap<String, String>);

impl Requirement {
    /// Validates a requirement; an absent one asks for nothing.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where it is there and empty (CSI, `TopologyRequirement`).
    pub(crate) fn parse(field: &str, requirement: Option<&csi::TopologyRequirement>) -> Result<Self, Status> {
        let Some(requirement) = requirement else { return Ok(Self::default()) };
        if requirement.requisite.is_empty() && requirement.preferred.is_empty() {
            return Err(status::invalid(field, "empty", "at least one topology in requisite or preferred"));
        }
        let entries = |list: &[csi::Topology]| list.iter().map(Segments::of).collect();
        Ok(Self { requisite: entries(&requirement.requisite), preferred: entries(&requirement.preferred) })
    }

    /// Takes the one topology of a `GetCapacityRequest`; an absent one asks for nothing.
    pub(crate) fn within(topology: Option<&csi::Topology>) -> Self {
        Self { requisite: topology.into_iter().map(Segments::of).collect(), preferred: Vec::new() }
    }

    /// Tells whether what this node alone can reach meets the requirement.
    pub(crate) fn admits(&self, node: &str) -> bool {
        self.requisite.is_empty() || self.requisite.iter().any(|segments| segments.hold_for(node))
    }

    /// Tells how much the node is preferred: the position in the list of preferences, `None` where it is in none.
    pub(crate) fn preference(&self, node: &str) -> Option<usize> {
        self.preferred.iter().position(|segments| segments.hold_for(node))
    }

    /// The nodes asked for, for messages.
    pub(crate) fn describe(&self) -> String {
        let texts: Vec<String> = self.requisite.iter().map(|segments| format!("{:?}", segments.0)).collect();
        texts.join(" or ")
    }
}

impl Segments {
    fn of(topology: &csi::Topology) -> Self {
        Self(topology.segments.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Keys are case-insensitive (CSI, `Topology`); a key that no node has holds for none.
    fn hold_for(&self, node: &str) -> bool {
        self.0.iter().all(|(key, value)| key.eq_ignore_ascii_case(NODE) && value == node)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn requirement(requisite: &[&str], preferred: &[&str]) -> Requirement {
        let list = |nodes: &[&str]| nodes.iter().map(|node| of(node)).collect();
        let message = csi::TopologyRequirement { requisite: list(requisite), preferred: list(preferred) };
        Requirement::parse("accessibility_requirements", Some(&message)).unwrap()
    }

    #[test]
    fn requisite_nodes_are_admitted_and_no_others() {
        let requirement = requirement(&["a", "b"], &[]);
        assert!(requirement.admits("a") && requirement.admits("b"));
        assert!(!requirement.admits("c"));
    }

    #[test]
    fn preferences_alone_exclude_nobody_and_rank_in_order() {
        let requirement = requirement(&[], &["b", "a"]);
        assert!(requirement.admits("c"));
        assert_eq!(requirement.preference("b"), Some(0));
        assert_eq!(requirement.preference("a"), Some(1));
        assert_eq!(requirement.preference("c"), None);
    }

    #[test]
    fn keys_ignore_case_and_unknown_keys_hold_nowhere() {
        let with = |key: &str| csi::Topology { segments: [(key.to_owned(), "a".to_owned())].into_iter().collect() };
        assert!(Requirement::within(Some(&with("Topology.Varve.io/Node"))).admits("a"));
        assert!(!Requirement::within(Some(&with("topology.kubernetes.io/zone"))).admits("a"));
        assert!(Requirement::within(None).admits("a"));
    }

    #[test]
    fn an_empty_requirement_is_refused() {
        let error = Requirement::parse("accessibility_requirements", Some(&csi::TopologyRequirement::default()));
        assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
    }
}
