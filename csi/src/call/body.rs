//! An answer on its way to the caller.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::{Record, stopping};

/// An answer's body that keeps the call's record until its end, and ends early when the process must.
pub(super) struct Tracked {
    /// `None` once the end was given.
    open: Option<Open>,
}

struct Open {
    body: Body,
    record: Record,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Tracked {
    pub(super) fn new(body: Body, record: Record, stop: CancellationToken) -> Self {
        // An answer that is nothing but headers, which is how errors are sent, is never polled.
        let open = (!body.is_end_stream()).then(|| Open { body, record, stop: Box::pin(stop.cancelled_owned()) });
        Self { open }
    }
}

impl HttpBody for Tracked {
    type Data = <Body as HttpBody>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Some(open) = &mut self.open else {
            return Poll::Ready(None);
        };
        let frame = match Pin::new(&mut open.body).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(open.stop.as_mut().poll(context));
                Some(trailers(&stopping()).map(Frame::trailers))
            }
        };
        let ends = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().inspect(|trailers| open.record.headers(trailers)).is_some(),
            Some(Err(_)) | None => true,
        };
        if ends {
            self.open = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.open.as_ref().map_or_else(|| SizeHint::with_exact(0), |open| open.body.size_hint())
    }
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("open", &self.open.is_some()).finish()
    }
}

fn trailers(status: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::with_capacity(2);
    status.add_header(&mut trailers)?;
    Ok(trailers)
}
