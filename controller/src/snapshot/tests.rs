//! Snapshots through the controller, against a real repository and nodes that fail.

mod create;
mod delete;
mod list;
