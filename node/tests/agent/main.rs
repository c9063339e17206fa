//! The agent on real pools: XFS and btrfs in files, loop devices, mounted file systems, a repository. Needs root.

mod activity;
mod fairness;
mod fixture;
mod full;
mod gate;
mod group;
mod image;
mod offload;
mod restart;
mod restore;
