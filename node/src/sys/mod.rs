//! Every system call that needs `unsafe`, one file a subject.
//!
//! The functions are thin: one call each, its error number in an [`std::io::Error`] that keeps it, and no policy. Structures
//! that the kernel reads or fills are `repr(C)`, name their header and assert size and offsets at compile time.

pub mod freeze;
