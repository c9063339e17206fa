//! Wire definitions: CSI 1.13 ([`csi`]), what a controller asks of a node ([`agent`]), and what the kubelet asks of a plugin
//! ([`registration`]).
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

/// How a plugin makes itself known to the kubelet, `pluginregistration` (version 1 of the kubelet's API).
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// Names every method of every service, as in `csi.v1.Controller/CreateVolume`.
///
/// # Panics
/// Never: the descriptors were written by the build.
#[must_use]
pub fn methods() -> Vec<String> {
    let set: prost_types::FileDescriptorSet = prost::Message::decode(DESCRIPTORS).expect("the build wrote descriptors");
    let services = set.file.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    services
        .flat_map(|(package, service)| {
            service.method.iter().map(move |method| format!("{package}.{}/{}", service.name(), method.name()))
        })
        .collect()
}

/// All of them and what they import, as an encoded `google.protobuf.FileDescriptorSet`, with CSI's own options such as
/// `csi_secret` and without comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
