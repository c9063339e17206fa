use std::{
    io,
    sync::{Arc, Mutex},
};

use futures::stream;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tonic::Code;
use tower::{ServiceExt, service_fn};
use tracing::level_filters::LevelFilter;

use super::*;

/// Collects what is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin(level: LevelFilter) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim_start().to_owned()).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn request() -> Request<Body> {
    Request::builder()
        .uri("/csi.v1.Controller/CreateVolume")
        .header("authorization", "hunter2")
        .body(Body::new("password: hunter2".to_owned()))
        .unwrap()
}

fn frames(frames: Vec<Frame<tonic::codegen::Bytes>>) -> Body {
    Body::new(StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, Status>))))
}

fn end(status: &str) -> Frame<tonic::codegen::Bytes> {
    Frame::trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_str(status).unwrap(),
    )]))
}

fn data() -> Frame<tonic::codegen::Bytes> {
    Frame::data("secret answer".into())
}

/// Serves one call through the layer.
async fn call<F>(stop: &CancellationToken, handler: impl Fn() -> F) -> Response<Body>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let service = CallLayer::new(stop.clone()).layer(service_fn(|_| handler()));
    let Ok(answer) = service.oneshot(request()).await;
    answer
}

fn status(answer: &Response<Body>) -> Status {
    Status::from_header_map(answer.headers()).expect("a status")
}

#[tokio::test]
async fn a_call_that_succeeds_is_logged_once_when_its_answer_is_sent() {
    let (log, _guard) = Log::begin(LevelFilter::DEBUG);
    let answer = call(&CancellationToken::new(), || async {
        volume("vol-1");
        snapshot("snap-1");
        Ok(Response::new(frames(vec![data(), end("0")])))
    })
    .await;
    assert_eq!(log.lines(), Vec::<String>::new(), "the answer is not sent yet");
    let sent = answer.into_body().collect().await.unwrap();
    assert_eq!(sent.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(sent.to_bytes(), "secret answer");
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let start = "DEBUG call{method=\"csi.v1.Controller/CreateVolume\" volume=vol-1 snapshot=snap-1}";
    assert!(lines[0].starts_with(start), "{lines:?}");
    assert!(lines[0].contains("call ended code=Ok duration_ms="), "{lines:?}");
    assert!(!lines[0].contains("error"), "{lines:?}");
}

#[tokio::test]
async fn failures_of_the_driver_are_logged_where_others_are_not() {
    let (log, _guard) = Log::begin(LevelFilter::INFO);
    for code in [Code::Internal, Code::NotFound, Code::DataLoss, Code::Aborted, Code::Unknown] {
        let answer = call(&CancellationToken::new(), move || async move {
            volume("vol-1");
            Ok(Status::new(code, format!("no such thing: {code:?}")).into_http())
        })
        .await;
        assert_eq!(status(&answer).code(), code);
        assert!(answer.into_body().collect().await.unwrap().trailers().is_none());
    }
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, code) in lines.iter().zip(["Internal", "DataLoss", "Unknown"]) {
        assert!(line.starts_with("INFO call{method=\"csi.v1.Controller/CreateVolume\" volume=vol-1}"), "{line}");
        assert!(line.contains(&format!("call failed code={code} duration_ms=")), "{line}");
        assert!(line.ends_with(&format!("error=\"no such thing: {code}\"")), "{line}");
    }
}

#[tokio::test]
async fn the_status_of_a_stream_is_its_last() {
    let (log, _guard) = Log::begin(LevelFilter::INFO);
    let answer =
        call(&CancellationToken::new(), || async { Ok(Response::new(frames(vec![data(), data(), end("15")]))) }).await;
    answer.into_body().collect().await.unwrap();
    assert!(log.lines()[0].contains("call failed code=DataLoss"), "{:?}", log.lines());
}

#[tokio::test]
async fn callers_that_leave_are_logged_as_cancelled() {
    let (log, _guard) = Log::begin(LevelFilter::DEBUG);
    let stop = CancellationToken::new();
    let mut waiting = Box::pin(call(&stop, || async {
        volume("vol-1");
        std::future::pending().await
    }));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(waiting);
    let answer = call(&stop, || async { Ok(Response::new(frames(vec![data(), end("0")]))) }).await;
    let mut body = answer.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    drop(body);
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("volume=vol-1}"), "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("call ended code=Cancelled")), "{lines:?}");
}

#[tokio::test]
async fn a_panic_is_answered() {
    let (log, _guard) = Log::begin(LevelFilter::INFO);
    let answer = call(&CancellationToken::new(), || async { panic!("index {} out of range", 7) }).await;
    let status = status(&answer);
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("index"), "the caller is not told about the inside");
    drop(answer);
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("ERROR call{method=\"csi.v1.Controller/CreateVolume\"}"), "{lines:?}");
    assert!(lines[0].ends_with("a call panicked panic=\"index 7 out of range\""), "{lines:?}");
    assert!(lines[1].contains("call failed code=Internal"), "{lines:?}");
}

#[tokio::test]
async fn stopping_ends_calls_and_streams_with_an_answer() {
    let stop = CancellationToken::new();
    let streaming = call(&stop, || async {
        let open = stream::iter([Ok::<_, Status>(data())]);
        Ok(Response::new(Body::new(StreamBody::new(futures::StreamExt::chain(open, stream::pending())))))
    })
    .await;
    let mut body = streaming.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert!(futures::poll!(body.frame()).is_pending());
    let mut waiting = Box::pin(call(&stop, std::future::pending));
    assert!(futures::poll!(&mut waiting).is_pending());

    stop.cancel();
    let stopped = status(&waiting.await);
    assert_eq!((stopped.code(), stopped.message()), (Code::Unavailable, "the driver is stopping: try again"));
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Unavailable);
    assert!(body.frame().await.is_none());
    // What is complete by then is answered as it is.
    let answer = call(&stop, || async { Ok(Response::new(frames(vec![data(), end("0")]))) }).await;
    assert_eq!(answer.into_body().collect().await.unwrap().trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn nothing_of_a_request_or_an_answer_is_logged() {
    let (log, _guard) = Log::begin(LevelFilter::TRACE);
    let answer = call(&CancellationToken::new(), || async { Ok(Response::new(frames(vec![data(), end("2")]))) }).await;
    answer.into_body().collect().await.unwrap();
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(!lines[0].contains("hunter2") && !lines[0].contains("secret answer"), "{lines:?}");
}

#[tokio::test]
async fn an_observer_is_told_of_each_call_once_whatever_became_of_it() {
    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<(String, Code)>>);

    impl Observer for Heard {
        fn ended(&self, method: &str, code: Code, _: Duration) {
            self.0.lock().unwrap().push((method.to_owned(), code));
        }
    }

    let heard = Arc::new(Heard::default());
    let layer = CallLayer::new(CancellationToken::new()).observed(Some(heard.clone()));
    let answered = layer.layer(service_fn(|_| async { Ok(Response::new(frames(vec![data(), end("0")]))) }));
    let Ok(answer) = answered.oneshot(request()).await;
    assert_eq!(heard.0.lock().unwrap().len(), 0, "the answer is not sent yet");
    answer.into_body().collect().await.unwrap();
    let refused = layer.layer(service_fn(|_| async { Ok(Status::not_found("no such volume").into_http()) }));
    let Ok(answer) = refused.oneshot(request()).await;
    drop(answer);
    let endless = layer.layer(service_fn(|_| std::future::pending()));
    let mut waiting = Box::pin(endless.oneshot(request()));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(waiting);
    let method = || "csi.v1.Controller/CreateVolume".to_owned();
    let expected = [(method(), Code::Ok), (method(), Code::NotFound), (method(), Code::Cancelled)];
    assert_eq!(*heard.0.lock().unwrap(), expected);
}
