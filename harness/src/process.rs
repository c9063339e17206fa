//! `varve standalone`, `varve controller` and `varve node` as processes.

use std::{
    fs,
    marker::PhantomData,
    net::SocketAddr,
    os::unix::net::UnixStream,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};

use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{driver::Setup, wait_for};

/// What a process can be.
pub mod kind {
    /// Controller and node at once.
    #[derive(Debug)]
    pub enum Standalone {}
    /// The controller alone.
    #[derive(Debug)]
    pub enum Controller {}
    /// A node alone.
    #[derive(Debug)]
    pub enum Node {}
}

/// `varve standalone`.
pub type Standalone = Process<kind::Standalone>;
/// `varve controller`.
pub type Controller = Process<kind::Controller>;
/// `varve node`.
pub type Node = Process<kind::Node>;

/// A running process of the driver. Dropping it kills it; what it leaves behind goes with the scratch folder.
#[derive(Debug)]
pub struct Process<Kind> {
    child: Child,
    setup: Setup,
    kind: PhantomData<Kind>,
}

impl Standalone {
    /// Starts a driver and waits until it is ready.
    ///
    /// # Panics
    /// Where it ends or is not ready within a minute, with its log.
    pub fn start(setup: &Setup) -> Self {
        Self::spawn(setup, setup.command())
    }
}

impl Controller {
    /// Starts a controller of nodes whose agents are at these addresses, and waits until it is ready.
    ///
    /// # Panics
    /// Where it ends or is not ready within a minute, with its log.
    pub fn start(setup: &Setup, nodes: &[(&str, SocketAddr)]) -> Self {
        Self::spawn(setup, setup.controller_command(nodes))
    }
}

impl Node {
    /// Starts a node with its agent at an address, and waits until it is ready.
    ///
    /// # Panics
    /// Where it ends or is not ready within a minute, with its log.
    pub fn start(setup: &Setup, agent: SocketAddr) -> Self {
        Self::spawn(setup, setup.node_command(agent))
    }
}

impl<Kind> Process<Kind> {
    fn spawn(setup: &Setup, mut command: Command) -> Self {
        let log = setup.folder.join("driver.log");
        let stderr = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log can be made");
        // The last driver of this folder may have been killed, and its socket still be there.
        let before = fs::metadata(&log).expect("the log is there").len();
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn().expect("it can be started");
        let mut driver = Self { child, setup: setup.clone(), kind: PhantomData };
        wait_for("the driver is ready", || {
            if let Some(status) = driver.child.try_wait().expect("it can be watched") {
                panic!("the driver ended: {status}\n{}", driver.log());
            }
            let log = driver.log();
            let fresh = log.get(usize::try_from(before).expect("logs are small")..).unwrap_or_default().to_owned();
            (fresh.contains("\"ready\"") && UnixStream::connect(driver.setup.socket()).is_ok()).then_some(())
        });
        driver
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.setup.folder.join("driver.log")).unwrap_or_default()
    }

    /// What it was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Its process id.
    pub fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Connects to it.
    pub async fn connect(&self) -> Channel {
        let path = Arc::new(self.setup.socket());
        let connector = service_fn(move |_: Uri| {
            let path = Arc::clone(&path);
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(&*path).await?)) }
        });
        Endpoint::from_static("http://driver.invalid")
            .connect_with_connector(connector)
            .await
            .expect("the driver listens")
    }

    /// Kills it, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Tells it to end and waits until it has; shows its log where it says that it failed.
    pub fn terminate(mut self) -> ExitStatus {
        kill_process(self.id(), Signal::TERM).expect("it runs");
        let status = wait_for("the driver has ended", || self.child.try_wait().expect("it can be watched"));
        if !status.success() {
            eprintln!("--- the driver's log ---\n{}", self.log());
        }
        status
    }
}

impl<Kind> Drop for Process<Kind> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the driver's log ---\n{}", self.log());
        }
    }
}
