//! Wire definitions: CSI 1.13 ([`csi`]) and what a controller asks of a node ([`agent`]).
//!
//! The code is generated at build time from the `.proto` files beside this crate's manifest.

/// The Container Storage Interface, `csi.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// The agent API, `varve.agent.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod agent {
    tonic::include_proto!("varve.agent.v1");
}

/// Both and what they import, as an encoded `google.protobuf.FileDescriptorSet`, with CSI's own options such as
/// `csi_secret` and without comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
