//! One story on every kind of store, told again while the store misbehaves.
//!
//! The [story](story::suite) makes a repository, offloads, deletes, restores, checks and collects. Each test tells it on a
//! local folder or on a real S3 server, and disturbs it: connections end, requests are throttled, the server is killed
//! and started again, credentials expire. Whatever happens, no committed snapshot is lost or wrong, none is seen that is
//! not whole, what was stored is not sent again, and nothing is left behind.

mod disturber;
mod gateway;
mod image;
mod story;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use disturber::{Act, Disturber, Request, Rule};
use gateway::Gateway;
use story::{Scene, Step, suite};
use tokio_util::sync::CancellationToken;
use varve_repository::{
    Error, ErrorKind, Repository, SnapshotState,
    block::{BlockSource, Blocks},
    offload::Against,
    store::Store,
};

/// An S3 server, the disturber before it, and the stores on both sides.
struct Cloud {
    gateway: Arc<Mutex<Gateway>>,
    disturber: Disturber,
}

impl Cloud {
    async fn start() -> Self {
        let gateway = tokio::task::spawn_blocking(Gateway::start).await.unwrap();
        let disturber = Disturber::start(gateway.address()).await;
        Self { gateway: Arc::new(Mutex::new(gateway)), disturber }
    }

    fn calm(&self) -> Store {
        let gateway = self.gateway.lock().unwrap();
        Store::open(&gateway.url("prefix"), &gateway.options()).unwrap()
    }

    fn disturbed(&self) -> Store {
        self.with(&[])
    }

    /// Through the disturber, with some options changed; those with an empty value are left out.
    fn with(&self, changed: &[(&str, &str)]) -> Store {
        let mut options: BTreeMap<String, String> =
            Gateway::options_at(self.disturber.address(), Gateway::secret()).into_iter().collect();
        options.extend(changed.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        options.retain(|_, value| !value.is_empty());
        let url = self.gateway.lock().unwrap().url("prefix");
        Store::open(&url, &options.into_iter().collect::<Vec<_>>()).unwrap()
    }

    /// Tells the story; `before` says what goes wrong at each step. Every disturbance has to come.
    async fn tell(&self, mut before: impl FnMut(Step, &Disturber)) -> story::Outcome {
        let (calm, disturbed) = (self.calm(), self.disturbed());
        let scene = Scene {
            open: Box::new(move || disturbed.clone()),
            calm: Box::new(move || calm.clone()),
            before: Box::new(|step| {
                let missed = self.disturber.calm();
                assert_eq!(missed, 0, "before {step:?} is told, all that was to go wrong has gone wrong");
                before(step, &self.disturber);
            }),
            failed: Box::new(|_| {}),
        };
        suite(scene).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_on_a_folder() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("repository");
    let url = format!("file://{}", path.display());
    let store = Store::open(&url, &[]).unwrap();
    let calm = store.clone();
    let outcome = suite(Scene {
        open: Box::new(move || store.clone()),
        calm: Box::new(move || calm.clone()),
        before: Box::new(|_| {}),
        failed: Box::new(|_| {}),
    })
    .await;
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(story::staged_files(&path), [""; 0], "no file is left half put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_on_a_server() {
    let cloud = Cloud::start().await;
    let outcome = cloud.tell(|_, _| {}).await;
    assert!(outcome.failures.is_empty(), "{outcome:?}");
}

/// An image that cannot be read past its middle until something has come about.
struct Halted {
    image: Arc<dyn BlockSource>,
    over: Box<dyn Fn() -> bool + Send + Sync>,
}

impl BlockSource for Halted {
    fn capacity(&self) -> Blocks {
        self.image.capacity()
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        while first.0 > self.capacity().0 / 2 && !(self.over)() {
            std::thread::yield_now();
        }
        self.image.read(first, buffer)
    }
}

/// A process that ends in the middle, and another that goes on, on any store.
async fn an_offload_goes_on_in_another_process(store: impl Fn() -> Store) {
    let folder = tempfile::tempdir().unwrap();
    let cut = story::large(&image::Seeded::new(3)).cut();
    let request = |repository: &Repository| {
        let mut request = image::request(repository, "in two parts", &cut, Against::Nothing);
        request.journal = Some(folder.path().join("journal"));
        request
    };
    let repository = image::init(store()).await;
    let mut first = request(&repository);
    let told = first.cancel.clone();
    first.source = Arc::new(Halted { image: first.source, over: Box::new(move || told.is_cancelled()) });
    let (progress, cancel, id) = (first.progress.clone(), first.cancel.clone(), first.description.id);
    let running = tokio::spawn(async move { repository.offload(first).await });
    while progress.read().moved == 0 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    let ended = running.await.unwrap();
    assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");

    let repository = Repository::open(store(), &image::master(), image::seams(8)).await.unwrap();
    assert_eq!(repository.snapshot(id).await.unwrap(), SnapshotState::Absent);
    assert_eq!(repository.snapshots().await.unwrap(), []);
    let second = request(&repository);
    let moved = second.progress.clone();
    let root = repository.offload(second).await.unwrap();
    assert!(moved.read().moved < root.statistics.uploaded_bytes, "what was stored is not sent again");
    image::assert_same(&image::restore(&repository, &root).await.unwrap(), &cut.bytes, "in two parts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_an_offload_goes_on_in_another_process_on_a_folder() {
    let parent = tempfile::tempdir().unwrap();
    let url = format!("file://{}/repository", parent.path().display());
    an_offload_goes_on_in_another_process(|| Store::open(&url, &[]).unwrap()).await;
    assert_eq!(story::staged_files(&parent.path().join("repository")), [""; 0], "no file is left half put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_an_offload_goes_on_in_another_process_on_a_server() {
    let cloud = Cloud::start().await;
    an_offload_goes_on_in_another_process(|| cloud.disturbed()).await;
}

/// Every step meets each kind of cut, once each, on the kinds of requests that it makes; nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_connections_that_are_cut_are_made_again() {
    for act in [Act::CutBefore, Act::CutInRequest, Act::CutAfter, Act::CutInAnswer] {
        let cloud = Cloud::start().await;
        let outcome = cloud
            .tell(|step, disturber| {
                for (method, part) in step.requests() {
                    disturber.disturb(Rule::new(method, part, 0, 1, act.clone()));
                }
            })
            .await;
        assert!(outcome.failures.is_empty(), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_throttling_is_waited_out() {
    let cloud = Cloud::start().await;
    let outcome = cloud
        .tell(|step, disturber| {
            for (method, part) in step.requests() {
                disturber.disturb(Rule::new(method, part, 0, 3, Act::refusal("503 Slow Down", "SlowDown")));
            }
        })
        .await;
    assert!(outcome.failures.is_empty(), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answers_change_nothing() {
    let cloud = Cloud::start().await;
    let delay = Act::Delay(Duration::from_millis(20));
    let outcome = cloud
        .tell(|_, disturber| {
            let what = Box::new(|_: &Request<'_>| true);
            disturber.disturb(Rule { what, skip: 0, times: usize::MAX, act: delay.clone() });
        })
        .await;
    assert!(outcome.failures.is_empty(), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_a_server_killed_and_started_again_is_waited_for() {
    let cloud = Cloud::start().await;
    let gateway = Arc::clone(&cloud.gateway);
    let kill = Act::Call(Arc::new(move || {
        gateway.lock().unwrap().kill();
        let gateway = Arc::clone(&gateway);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            gateway.lock().unwrap().restart();
        });
    }));
    let outcome = cloud
        .tell(|step, disturber| {
            let (method, part) = step.requests()[0];
            // In the middle of a full offload, and at the first such request of everything else.
            disturber.disturb(Rule::new(method, part, usize::from(step == Step::Full), 1, kill.clone()));
        })
        .await;
    assert!(outcome.failures.is_empty(), "{outcome:?}");
}

/// What holds for longer than anybody waits ends each step as `Unavailable`; told again, the step goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_a_store_that_is_away_for_long_ends_steps_that_are_told_again() {
    let cloud = Cloud::start().await;
    let calm = cloud.calm();
    let disturbed = cloud.disturbed();
    let disturber = &cloud.disturber;
    let outcome = suite(Scene {
        open: Box::new(move || disturbed.clone()),
        calm: Box::new(move || calm.clone()),
        before: Box::new(|step| {
            // Each costs all the patience there is.
            if matches!(step, Step::Full | Step::Restore) {
                let (method, part) = step.requests()[0];
                disturber.disturb(Rule::new(method, part, 1, usize::MAX, Act::refusal("503 Slow Down", "SlowDown")));
            }
        }),
        failed: Box::new(|_| {
            disturber.calm();
        }),
    })
    .await;
    let expected = [Step::Full, Step::Restore].map(|step| (step, vec![ErrorKind::Unavailable]));
    assert_eq!(outcome.failures, expected.into());
}

/// What comes of retries without end must come to one, and be told to end before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_does_not_hold_who_is_told_to_end() {
    let cloud = Cloud::start().await;
    let repository = image::init(cloud.disturbed()).await;
    let mut image = image::Image::new(64);
    image.write_noise(0, 64, &image::Seeded::new(1));
    let cut = image.cut();
    let hung = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&hung);
    let what = Box::new(move |request: &Request<'_>| {
        let takes = request.is("PUT", "/packs/");
        seen.fetch_add(usize::from(takes), Ordering::SeqCst);
        takes
    });
    cloud.disturber.disturb(Rule { what, skip: 0, times: usize::MAX, act: Act::Hang });
    let request = image::request(&repository, "held", &cut, Against::Nothing);
    let (cancel, id): (CancellationToken, _) = (request.cancel.clone(), request.description.id);
    let running = tokio::spawn({
        let repository = repository.clone();
        async move { repository.offload(request).await }
    });
    while hung.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let told = Instant::now();
    cancel.cancel();
    let result = running.await.unwrap();
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    assert_eq!(repository.snapshot(id).await.unwrap(), SnapshotState::Absent);
}

/// Credentials from a file expire some way into each step. Whoever renews the file need tell nobody: not when what they
/// put there is wrong, and not when it is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_expire_are_said_and_a_renewed_file_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials");
    std::fs::write(&path, credentials(Gateway::secret())).unwrap();
    let cloud = Cloud::start().await;
    let expiring = cloud.with(&[
        ("aws_access_key_id", ""),
        ("aws_secret_access_key", ""),
        ("aws_shared_credentials_file", path.to_str().unwrap()),
    ]);
    let calm = cloud.calm();
    let disturber = &cloud.disturber;
    let mut steps = 0;
    let outcome = suite(Scene {
        open: Box::new(move || expiring.clone()),
        calm: Box::new(move || calm.clone()),
        before: Box::new(|step| {
            // S3 answers 400, others 403.
            let status = if steps % 2 == 0 { "400 Bad Request" } else { "403 Forbidden" };
            let (method, part) = step.requests()[0];
            let skip = usize::from(step == Step::Full);
            disturber.disturb(Rule::new(method, part, skip, usize::MAX, Act::refusal(status, "ExpiredToken")));
            steps += 1;
        }),
        failed: Box::new({
            let mut expired = true;
            move |error| {
                disturber.calm();
                let text = format!("{error}: {}", std::error::Error::source(error).unwrap());
                assert!(!text.contains(Gateway::secret()) && !text.contains("mistyped"), "{text}");
                let (said, secret) = match expired {
                    true => ("(ExpiredToken): the credentials have expired: renew them", "mistyped"),
                    false => ("the secret key is not that of the access key", Gateway::secret()),
                };
                assert!(text.contains(said), "{text}");
                std::fs::write(&path, credentials(secret)).unwrap();
                expired = !expired;
            }
        }),
    })
    .await;
    // Two snapshots are incremental.
    let twice = |step| vec![ErrorKind::Denied; if step == Step::Incremental { 4 } else { 2 }];
    assert_eq!(outcome.failures, Step::ALL.map(|step| (step, twice(step))).into());
}

fn credentials(secret: &str) -> String {
    let options = Gateway::options_at(([127, 0, 0, 1], 1).into(), secret).into_iter();
    let keys = options.filter(|(key, _)| key.contains("access_key")).map(|(key, value)| format!("{key} = {value}\n"));
    format!("[default]\n{}", keys.collect::<String>())
}

/// Keys that the process was started with cannot be renewed: it is started again, and goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offload_goes_on_after_a_start_with_new_keys() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let repository = image::init(cloud.disturbed()).await;
    let cut = story::large(&image::Seeded::new(1)).cut();
    let request = |repository: &Repository| {
        let mut request = image::request(repository, "cut short", &cut, Against::Nothing);
        request.journal = Some(folder.path().join("journal"));
        request
    };
    let expired = Act::refusal("403 Forbidden", "ExpiredToken");
    cloud.disturber.disturb(Rule::new("PUT", "/packs/", 1, usize::MAX, expired));
    let mut first = request(&repository);
    // The first pack is stored before there is a second one that could be refused.
    let progress = first.progress.clone();
    first.source = Arc::new(Halted { image: first.source, over: Box::new(move || progress.read().moved > 0) });
    let error = repository.offload(first).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    drop(repository);

    cloud.disturber.calm();
    let repository = Repository::open(cloud.disturbed(), &image::master(), image::seams(9)).await.unwrap();
    cloud.disturber.requests();
    let root = repository.offload(request(&repository)).await.unwrap();
    let puts_a_pack = |line: &&String| line.starts_with("PUT") && line.contains("/packs/");
    let sent = cloud.disturber.requests().iter().filter(puts_a_pack).count();
    assert_eq!(sent as u64 + 1, root.statistics.packs, "the pack that was stored is not sent again");
    image::assert_same(&image::restore(&repository, &root).await.unwrap(), &cut.bytes, "after new keys");
}

#[tokio::test]
async fn a_credentials_file_that_is_missing_is_said_at_once() {
    let cloud = Cloud::start().await;
    let store = cloud.with(&[
        ("aws_access_key_id", ""),
        ("aws_secret_access_key", ""),
        ("aws_shared_credentials_file", "/nowhere/credentials"),
    ]);
    let started = Instant::now();
    let error = Repository::open(store, &image::master(), image::seams(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("/nowhere/credentials are not usable"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(5));
}
