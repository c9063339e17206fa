//! Provisioning and snapshots: the CSI Controller, GroupController and SnapshotMetadata services.
//!
//! The controller keeps nothing. What exists is in the repository's records and on the nodes; every call reads both and
//! decides by them, so a controller may be killed, restarted or replaced between any two instructions.
//!
//! ```text
//! service     the gRPC services: each call is delegated, nothing is decided here
//! volume/     create, delete, publish, expand, modify, list, validate, capacity, health
//! snapshot/   create, delete, list; what a snapshot is while it is a cut and once it is a root
//! group/      group snapshots: several volumes at one instant
//! metadata/   which blocks snapshots hold, and which differ between two
//! placement   which node gets a new volume
//! topology, presentation, parameters, deadline      what requests say, parsed before any I/O
//! activity    what is under way in the cluster, for those who tell users
//! catalog     the repository's records        fleet, agent, nodes      the nodes and what they are asked for
//! ```
//!
//! # Concurrency
//! Calls on one volume, one snapshot or one group are serialised: the second is told `ABORTED`. This holds inside one
//! process; two controllers at once (a change of leader) are kept apart by the repository's conditional updates and the
//! idempotent calls of the agents.
//!
//! # Cancellation
//! A call that its caller leaves is dropped at its next await. What it had begun is found by the retry: claims stand in
//! the repository, and the agents work on. Nothing is held but the serialisation, which the drop releases.

mod activity;
mod agent;
mod catalog;
mod controller;
mod deadline;
mod fleet;
mod group;
mod metadata;
pub mod nodes;
mod parameters;
mod placement;
mod presentation;
mod service;
mod snapshot;
pub mod topology;
mod volume;

#[cfg(test)]
mod testing;

pub use controller::{Controller, Options};

/// Tells whether a handle is that of a volume of this driver, whether there is such a volume or not.
#[must_use]
pub fn is_volume_handle(handle: &str) -> bool {
    handle.parse::<varve_repository::id::VolumeId>().is_ok()
}
