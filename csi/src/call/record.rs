//! The line that a call leaves in the log, and what its observer is told.

use std::{any::Any, sync::Arc, time::Instant};

use http::HeaderMap;
use tonic::{Code, Status};
use tracing::Span;

use super::Observer;

/// What is known of a call so far; dropping it writes the line.
///
/// Until the answer says otherwise the code is `CANCELLED`, since a call that is dropped has lost its caller.
#[derive(Debug)]
pub(super) struct Record {
    span: Span,
    began: Instant,
    status: Option<Status>,
    /// Who is to be told, and of which method.
    observer: Option<(Arc<dyn Observer>, String)>,
}

impl Record {
    pub(super) fn new(span: Span, observer: Option<(Arc<dyn Observer>, String)>) -> Self {
        Self { span, began: Instant::now(), status: None, observer }
    }

    /// Takes the status out of headers or trailers, if it is there.
    pub(super) fn headers(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.status = Some(status);
        }
    }

    /// Logs a panic; the line for the call follows as for any other.
    pub(super) fn panicked(&self, panic: &(dyn Any + Send)) {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        self.span.in_scope(|| tracing::error!(panic = text, "a call panicked"));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let code = self.status.as_ref().map_or(Code::Cancelled, Status::code);
        if let Some((observer, method)) = &self.observer {
            observer.ended(method, code, duration);
        }
        let error = self.status.as_ref().map(Status::message).filter(|_| code != Code::Ok);
        self.span.in_scope(|| {
            // A code that blames the driver is for its operator to see; the others are for the caller.
            if matches!(code, Code::Internal | Code::Unknown | Code::DataLoss) {
                tracing::info!(?code, duration_ms, error, "call failed");
            } else {
                tracing::debug!(?code, duration_ms, error, "call ended");
            }
        });
    }
}
