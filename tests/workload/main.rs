//! Real workloads lose their node while they write, and are restored on another one from the repository alone.
//!
//! Each test runs the real program (SQLite, etcd, Envoy) or a real tree on a published volume, takes snapshots while
//! it writes, destroys the pool and everything on it, and restores with a second driver on an empty pool. What was
//! acknowledged before a snapshot was asked for has to be in it, and the file system has to be without fault.

mod envoy;
mod etcd;
mod http;
mod process;
mod scene;
mod sparse;
mod sqlite;
mod tree;
