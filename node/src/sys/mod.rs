//! Every system call that needs `unsafe`, one file a subject.
//!
//! The functions are thin: one call each, its error number kept in the [`std::io::Error`], and no policy. Structures that the
//! kernel reads or fills are `repr(C)`, name their header and have their size and offsets asserted at compile time. What
//! `rustix` or `std` offer safely (`FICLONE`, file flags, `statfs`, locks) is used from there and does not pass through here.

pub mod allocator;
pub mod block;
pub mod btrfs;
pub mod clone;
mod context;
pub mod fiemap;
pub mod freeze;
pub mod loops;
pub mod priority;
pub mod trace;
pub mod xfs;

pub use context::Context;

use std::os::fd::{AsFd, AsRawFd, RawFd};

fn raw(file: &impl AsFd) -> RawFd {
    file.as_fd().as_raw_fd()
}
