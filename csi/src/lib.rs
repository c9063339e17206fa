//! The CSI edge: what turns gRPC into validated domain types and failures into status codes.
//!
//! A request is parsed here, before any I/O ([`capability`], [`capacity`], [`context`], [`name`], [`page`]); an error becomes a
//! status here and nowhere else ([`status`]), and what users are told of it is worded in one place ([`trouble`]); all services share the socket ([`server`]), the logging of calls
//! ([`call`]) and the rule that calls on one object are serialised or aborted ([`exclusive`]).

pub mod call;
pub mod capability;
pub mod capacity;
pub mod context;
pub mod exclusive;
pub mod identity;
pub mod name;
pub mod page;
pub mod server;
pub mod status;
pub mod topology;
pub mod trouble;
