//! A SQLite database that rows are inserted into, one transaction each, while snapshots are taken.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use serial_test::serial;

use varve_harness::{Pool, wait_for};

use super::{process::Process, scene::Scene};

/// Inserts rows without end; each row's number is acknowledged once its transaction is committed.
struct Writer {
    process: Process,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writer {
    fn start(database: &Path) -> Self {
        // Lines are to come as they are written, since each is an acknowledgement.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "sqlite3"]).arg(database).stdout(Stdio::piped());
        let mut process = Process::with_output(&mut command, "the Debian package sqlite3");
        let mut input = process.child().stdin.take().expect("it is piped");
        let output = process.child().stdout.take().expect("it is piped");
        let (acknowledged, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let stopped = Arc::clone(&stop);
        let feeder = thread::spawn(move || {
            let begin = "PRAGMA journal_mode=WAL;\nPRAGMA synchronous=FULL;\n\
                         CREATE TABLE row (id INTEGER PRIMARY KEY, payload TEXT);\n";
            let one = "INSERT INTO row (payload) VALUES (hex(randomblob(400)));\nSELECT last_insert_rowid();\n";
            if input.write_all(begin.as_bytes()).is_ok() {
                while !stopped.load(Ordering::Relaxed) && input.write_all(one.as_bytes()).is_ok() {}
            }
        });
        let count = Arc::clone(&acknowledged);
        let listener = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(id) = line.parse() {
                    count.store(id, Ordering::SeqCst);
                }
            }
        });
        Self { process, acknowledged, stop, threads: vec![feeder, listener] }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    fn wait_for(&self, rows: u64) {
        wait_for("rows are inserted", || (self.acknowledged() >= rows).then_some(()));
    }

    fn kill(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.process.kill();
        for thread in self.threads {
            thread.join().expect("it does not panic");
        }
    }
}

async fn keeps_every_committed_row(pool: &'static str, filesystem: &'static str) {
    let scene = Scene::start(Pool::Image(pool, "4GiB"), filesystem, 512 << 20).await;
    let writer = Writer::start(&scene.volume.path("database"));
    writer.wait_for(200);
    let before_first = writer.acknowledged();
    let first = scene.snapshot("first").await;
    writer.wait_for(before_first + 200);
    let before_second = writer.acknowledged();
    let second = scene.snapshot("second").await;
    writer.wait_for(before_second + 50);
    writer.kill();

    let rescue = scene.lose_node().await;
    for (snapshot, acknowledged) in [(first, before_first), (second, before_second)] {
        rescue.check(&snapshot);
        let restored = rescue.restore(&snapshot).await;
        let database = restored.path("database");
        let output = Command::new("sqlite3")
            .arg(&database)
            .arg("PRAGMA integrity_check; SELECT count(*) FROM row; SELECT max(id) FROM row;")
            .output()
            .expect("sqlite3 can be started");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = answer.lines().collect();
        let [health, count, last] = lines[..] else { panic!("{answer}") };
        assert_eq!(health, "ok");
        assert_eq!(count, last, "rows are missing in between");
        let count: u64 = count.parse().expect("a number");
        assert!(count >= acknowledged, "{acknowledged} rows were committed before the snapshot, {count} are in it");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[serial]
async fn invariant_1_sqlite_on_ext4_keeps_every_committed_row() {
    keeps_every_committed_row("xfs", "ext4").await;
}

#[tokio::test(flavor = "multi_thread")]
#[serial]
async fn invariant_1_sqlite_on_xfs_keeps_every_committed_row() {
    keeps_every_committed_row("btrfs", "xfs").await;
}
