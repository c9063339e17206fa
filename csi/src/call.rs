//! What every call gets, whatever its service: a span, one line in the log, a bound on a panic, and an end.
//!
//! # Invariants
//! Each call is logged once: when its answer has been sent, or when its caller has gone. The line carries method,
//! code, duration and, where the handler named them ([`volume`], [`snapshot`]), the ids; never anything of the
//! request's or the answer's content but the message of a status.
//!
//! # Cancellation
//! A call whose caller goes away is dropped, as tonic does. A call that is still running when [`CallLayer`]'s token is
//! cancelled is dropped too, and answered `UNAVAILABLE`; an answer that is still being streamed ends with that status.
//! Work that must outlive its call runs in a task of its own.

mod body;
mod record;

use std::{
    convert::Infallible,
    fmt::{Debug, Display},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, Span, field};

use self::{body::Tracked, record::Record};

/// Names the volume that the current call is about, in its span and so in every line logged on its behalf.
pub fn volume(id: impl Display) {
    Span::current().record("volume", field::display(id));
}

/// Names the snapshot that the current call is about, in its span and so in every line logged on its behalf.
pub fn snapshot(id: impl Display) {
    Span::current().record("snapshot", field::display(id));
}

/// Is told of every call.
pub trait Observer: Send + Sync + Debug {
    /// A call has ended. `method` is what the caller asked for, as in `csi.v1.Controller/CreateVolume`; there need not be
    /// such a method.
    fn ended(&self, method: &str, code: Code, duration: Duration);
}

/// Wraps a server's routes.
#[derive(Clone, Debug)]
pub struct CallLayer {
    stop: CancellationToken,
    observer: Option<Arc<dyn Observer>>,
}

impl CallLayer {
    /// Makes the layer; cancelling `stop` ends every call.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, observer: None }
    }

    /// Has somebody told of every call.
    #[must_use]
    pub fn observed(self, observer: Option<Arc<dyn Observer>>) -> Self {
        Self { observer, ..self }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, layer: self.clone() }
    }
}

/// Routes with what [`CallLayer`] adds.
#[derive(Clone, Debug)]
pub struct Calls<S> {
    inner: S,
    layer: CallLayer,
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = method_of(&request);
        let span = tracing::info_span!("call", method, volume = field::Empty, snapshot = field::Empty);
        let observer = self.layer.observer.clone().map(|observer| (observer, method_of(&request)));
        let mut record = Record::new(span.clone(), observer);
        let call = span.in_scope(|| self.inner.call(request));
        let stop = self.layer.stop.clone();
        let work = async move {
            let answer = tokio::select! {
                biased;
                answer = AssertUnwindSafe(call).catch_unwind() => answer,
                () = stop.cancelled() => Ok(Ok(stopping().into_http())),
            };
            let answer = match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(never)) => match never {},
                Err(panic) => {
                    record.panicked(panic.as_ref());
                    Status::internal("the driver failed on this call by a mistake of its own: its log has the cause")
                        .into_http()
                }
            };
            record.headers(answer.headers());
            Ok(answer.map(|body| Body::new(Tracked::new(body, record, stop))))
        };
        Box::pin(work.instrument(span))
    }
}

fn method_of(request: &Request<Body>) -> String {
    request.uri().path().trim_start_matches('/').to_owned()
}

/// What a call is told that was running when the process had to end.
fn stopping() -> Status {
    Status::unavailable("the driver is stopping: try again")
}

#[cfg(test)]
mod tests;
