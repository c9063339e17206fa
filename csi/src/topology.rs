//! Topology: a volume is reachable from the one node that holds its image, and says so.

use varve_proto::csi;

/// The key whose value is a node's name (CSI, `Topology`).
pub const NODE: &str = "topology.varve.io/node";

/// Returns the topology of what one node alone can reach.
#[must_use]
pub fn of(node: &str) -> csi::Topology {
    csi::Topology { segments: [(NODE.to_owned(), node.to_owned())].into() }
}
