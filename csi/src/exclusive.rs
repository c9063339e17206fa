//! One call at a time on one object: a second one is told `ABORTED`, as CSI allows.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use tonic::Status;

/// The objects that calls are working on.
#[derive(Clone, Debug, Default)]
pub struct Exclusive(Arc<Mutex<HashSet<String>>>);

/// Holds one object; dropping it lets the next call in.
#[derive(Debug)]
pub struct Held {
    set: Exclusive,
    key: String,
}

impl Exclusive {
    /// Takes an object for the length of a call.
    ///
    /// # Errors
    /// `ABORTED` where another call has it.
    pub fn hold(&self, key: impl Into<String>) -> Result<Held, Status> {
        let key = key.into();
        if self.0.lock().expect("no holder panics").insert(key.clone()) {
            Ok(Held { set: self.clone(), key })
        } else {
            Err(Status::aborted(format!("another call is working on {key}: try again")))
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set.0.lock().expect("no holder panics").remove(&self.key);
    }
}
