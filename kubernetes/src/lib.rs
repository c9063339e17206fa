//! What Varve and Kubernetes tell one another. Nothing else in the project knows of Kubernetes.
//!
//! ```text
//! kubelet      makes the node's plugin known to the kubelet of its machine
//! directory    which nodes there are and where their agents listen, kept up to date as the API tells it
//! agents       the same as a pure function of what the API says
//! events       what is going on, told to users as events and conditions
//! ```
//!
//! # What it may do
//! `get`, `list`, `watch` on `nodes`, of which it takes metadata alone, and `list`, `watch` on `endpointslices`
//! (`discovery.k8s.io`) in the namespace of the agents. To tell users what is going on: `get`, `create`, `patch` on `events`;
//! `get`, `list` on `persistentvolumes` and `volumesnapshotcontents`, `get` on `persistentvolumeclaims`, and `patch` on their
//! status. Nothing else is ever written.

mod agents;
pub mod directory;
pub mod events;
pub mod kubelet;
