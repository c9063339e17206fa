//! What Varve and Kubernetes tell one another. Nothing else in the project knows of Kubernetes.
//!
//! ```text
//! kubelet      makes the node's plugin known to the kubelet of its machine
//! directory    which nodes there are and where their agents listen, kept up to date as the API tells it
//! agents       the same as a pure function of what the API says
//! ```
//!
//! # What it may do
//! `get`, `list`, `watch` on `nodes`, of which it takes metadata alone, and `list`, `watch` on `endpointslices`
//! (`discovery.k8s.io`) in the namespace of the agents. Nothing is ever written.

mod agents;
pub mod directory;
pub mod kubelet;
