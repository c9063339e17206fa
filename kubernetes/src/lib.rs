//! What Varve and Kubernetes tell one another. Nothing else in the project knows of Kubernetes.
//!
//! ```text
//! kubelet      makes the node's plugin known to the kubelet of its machine
//! directory    which nodes there are and where their agents listen, kept up to date as the API tells it
//! agents       the same as a pure function of what the API says
//! events       what is going on, told to users as events and conditions
//! cluster      a cluster as a user reaches it, for what follows
//! snapshot/    what users do with snapshots: taking, restoring, explaining, importing
//! overview     how the driver stands in a cluster
//! object       the objects of snapshots             quantity    sizes, as Kubernetes writes them
//! ```
//!
//! # What it may do
//! What serves needs `get`, `list`, `watch` on `nodes`, of which it takes metadata alone, and `list`, `watch` on `endpointslices`
//! (`discovery.k8s.io`) in the namespace of the agents. To tell users what is going on: `get`, `create`, `patch` on `events`;
//! `get`, `list` on `persistentvolumes`, `get`, `list`, `watch` on `volumesnapshotcontents`, `get` on `persistentvolumeclaims`, and `patch` on their
//! status. It writes nothing else. What users ask for is done with their own rights; `docs/kubernetes.md` lists which ones each
//! command needs.

mod agents;
pub mod cluster;
pub mod directory;
pub mod events;
pub mod kubelet;
pub mod object;
pub mod overview;
pub mod quantity;
pub mod snapshot;
#[cfg(test)]
mod testing;
