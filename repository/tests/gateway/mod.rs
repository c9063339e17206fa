//! A real S3 server for tests: versitygw over a temporary folder, on a free loopback port, killed when dropped.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const ACCESS_KEY: &str = "varve-test";
const SECRET_KEY: &str = "not-a-secret-outside-this-test";
const BUCKET: &str = "backups";
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running server with one bucket.
pub(crate) struct Gateway {
    child: Child,
    folder: PathBuf,
    /// What of the folder goes with the server.
    temporary: Option<tempfile::TempDir>,
    arguments: Vec<String>,
    port: u16,
}

impl Gateway {
    /// Starts a server over an empty bucket.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a folder is a bucket");
        let mut gateway = Self::start_on(folder.path(), &[]);
        gateway.temporary = Some(folder);
        gateway
    }

    /// Starts a server over a folder of buckets, with further arguments of its `posix` backend.
    pub(crate) fn start_on(folder: &Path, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (child, port) = loop {
            let port = free_port();
            // Another process may have taken the port meanwhile.
            if let Some(child) = spawn(folder, &arguments, port) {
                break (child, port);
            }
        };
        Self { child, folder: folder.into(), temporary: None, arguments, port }
    }

    /// Kills the server; what it answered to stays.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server can be waited for");
    }

    /// Starts the server again after [`kill`](Self::kill), at the same port.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.folder, &self.arguments, self.port).expect("the port is still free");
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A location in the bucket.
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// The options that reach it.
    pub(crate) fn options(&self) -> Vec<(String, String)> {
        Self::options_at(self.address(), SECRET_KEY)
    }

    /// The options that reach it at another address, a proxy's, or with another secret.
    pub(crate) fn options_at(address: SocketAddr, secret: &str) -> Vec<(String, String)> {
        [
            ("aws_endpoint", format!("http://{address}").as_str()),
            ("aws_allow_http", "true"),
            ("aws_region", "us-east-1"),
            ("aws_access_key_id", ACCESS_KEY),
            ("aws_secret_access_key", secret),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// The secret that it takes.
    pub(crate) fn secret() -> &'static str {
        SECRET_KEY
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// Starts the server and waits until it takes connections; `None` where it ended instead.
fn spawn(folder: &Path, arguments: &[String], port: u16) -> Option<Child> {
    let mut child = Command::new(program())
        .args(["--port", &format!("127.0.0.1:{port}"), "--quiet", "posix"])
        .args(arguments)
        .arg(folder)
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("versitygw can be started");
    let start = Instant::now();
    loop {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return None;
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Some(child);
        }
        assert!(start.elapsed() < START_LIMIT, "versitygw does not take connections");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn program() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = std::env::var_os("VARVE_TOOLS")
        .map(PathBuf::from)
        .into_iter()
        .chain([workspace.join("target/tools/bin")])
        .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>());
    folders.map(|folder| folder.join("versitygw")).find(|program| program.is_file()).expect(
        "versitygw is installed: `GOBIN=$PWD/target/tools/bin go install github.com/versity/versitygw/cmd/versitygw@v1.8.0`",
    )
}
