//! The node: it owns the pool and everything in it.
//!
//! ```text
//! service/      CSI Node: stage, publish, expand, statistics, health     ── what the kubelet calls
//! agent/        the agent API: images, cuts, offloads, hydrations        ── what the controller calls
//!    volume/    a volume's folder: record and image, its states on disk
//!    cut/       a cut's folder: record, image, offload journal; the freeze that makes it
//! pool/         the copy-on-write file system: XFS or btrfs, found, made, locked, measured
//! device/       loop devices
//! filesystem/   mkfs, fsck, mount, grow: what is on a volume
//! extent/       extent maps and their difference
//! sys/          every system call that needs `unsafe`
//! observe       the seam to whoever counts what is done
//! watermark     how little of the pool may be free before something goes
//! durable       small JSON records on disk
//! ```
//!
//! An arrow points downwards only. System calls are synchronous; the asynchronous layers, `service` and `agent`,
//! move them off the runtime.

pub mod agent;
pub mod config;
pub mod cut;
pub mod device;
pub mod durable;
pub mod extent;
pub mod filesystem;
pub mod observe;
pub mod pool;
pub mod service;
#[allow(unsafe_code, reason = "the one module that may: every block documents why it is sound")]
pub mod sys;
pub mod volume;
pub mod watermark;
