//! The CSI Node service on real pools: loop devices, file systems, bind mounts. Needs root.

#![allow(unreachable_pub, reason = "a test exports nothing")]

mod crash;
mod expand;
mod fixture;
mod group;
mod health;
mod kill;
mod lifecycle;
mod refusal;
