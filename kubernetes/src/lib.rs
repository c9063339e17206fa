//! What Varve and Kubernetes tell one another. Nothing else in the project knows of Kubernetes.
//!
//! ```text
//! kubelet    makes the node's plugin known to the kubelet of its machine
//! ```

pub mod kubelet;
