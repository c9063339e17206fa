//! Volumes through the controller, against a real repository and nodes that fail.

mod capacity;
mod create;
mod delete;
mod expand;
mod health;
mod list;
mod modify;
mod publish;
mod source;
mod validate;
