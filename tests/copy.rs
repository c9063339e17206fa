//! `varve repository copy`: a second repository, under another key, that stands alone.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use varve_repository::{
    Repository,
    block::{BlockRange, Blocks, Change, ChangeSource, FileSource},
    crypto::MasterKey,
    id::SnapshotId,
    offload::{Against, Request},
    progress::Progress,
    record::{
        snapshot::SnapshotDescription,
        volume::{OffloadParameters, Presentation, VolumeRecord},
    },
    seam::Seams,
    store::Store,
};

use varve_harness::{
    S3, Scratch,
    driver::{complaint, text, varve},
};

const IMAGE_BYTES: u64 = 1 << 20;

/// What changed in an image: one range.
struct Changed(BlockRange);

impl ChangeSource for Changed {
    fn changes(&self, from: Blocks) -> std::io::Result<Box<dyn Iterator<Item = std::io::Result<Change>> + Send + '_>> {
        let change = (self.0.end() > from).then_some(Ok(Change::Data(self.0)));
        Ok(Box::new(change.into_iter()))
    }
}

/// A repository in a folder, and how its snapshots are made without a driver.
struct Original {
    folder: PathBuf,
    key: PathBuf,
    repository: Repository,
    last: Option<SnapshotId>,
    moment: i64,
}

impl Original {
    async fn new(scratch: &Scratch) -> Self {
        let (folder, key) = (scratch.path().join("original"), scratch.path().join("first.key"));
        assert!(varve(["repository", "keygen", "--to", text(&key)]).status.success());
        let store = Store::open(&url(&folder), &[]).expect("it is a location");
        let master = MasterKey::from_file(&key).expect("it is a key");
        let repository = Repository::init(store, &master, Seams::system()).await.expect("it can be made");
        let record = VolumeRecord {
            id: repository.volume_id("pvc-1"),
            name: "pvc-1".into(),
            incarnation: Uuid::from_u128(1),
            capacity_bytes: IMAGE_BYTES,
            presentation: Presentation::Block,
            home_node: "node-1".into(),
            source: None,
            offload: OffloadParameters::default(),
            parameters: BTreeMap::new(),
            created_at: Timestamp::UNIX_EPOCH,
            complete: true,
            published: None,
        };
        repository.claim_volume(record).await.expect("it can be claimed");
        Self { folder, key, repository, last: None, moment: 0 }
    }

    /// Writes 16 blocks to the image and takes a snapshot of it.
    async fn snapshot(&mut self, image: &Path) -> SnapshotId {
        let first = u64::try_from(self.moment).expect("it is positive") * 16;
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(image).expect("it can be made");
        file.set_len(IMAGE_BYTES).expect("it can be sized");
        let bytes: Vec<u8> = (0..65_536_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
        file.write_all_at(&bytes, first * 4096).expect("it can be written");
        let name = format!("snapshot-{}", self.moment);
        let description = SnapshotDescription {
            id: self.repository.snapshot_id(&name, 0),
            name,
            volume: self.repository.volume_id("pvc-1"),
            volume_name: "pvc-1".into(),
            incarnation: Uuid::from_u128(1),
            capacity_bytes: IMAGE_BYTES,
            presentation: Presentation::Block,
            created_at: Timestamp::from_second(self.moment).expect("it is a moment"),
            node: "node-1".into(),
            group: None,
            frozen: false,
            pause_nanos: 0,
            parameters: BTreeMap::new(),
        };
        self.moment += 1;
        let root = self
            .repository
            .offload(Request {
                description,
                against: self.last.map_or(Against::Nothing, Against::Base),
                changes: Arc::new(Changed(BlockRange::new(first, 16))),
                source: Arc::new(FileSource::open(image).expect("it can be opened")),
                journal: None,
                parameters: OffloadParameters::default(),
                progress: Progress::default(),
                cancel: CancellationToken::new(),
            })
            .await
            .expect("it can be offloaded");
        self.last = Some(root.description.id);
        root.description.id
    }

    /// The command that copies it.
    fn copy(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_varve"));
        command
            .args(["repository", "copy", "--repository", &url(&self.folder), "--key-file", text(&self.key)])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }
}

fn url(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

fn run(mut command: Command) -> Output {
    command.output().expect("it can be started")
}

/// The one JSON value that a command that succeeded answered with.
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", complaint(output));
    serde_json::from_slice(&output.stdout).expect("it is one JSON value")
}

fn outcomes(report: &Value) -> Vec<&str> {
    let snapshots = report["snapshots"].as_array().expect("it is a list");
    snapshots.iter().map(|snapshot| snapshot["outcome"].as_str().expect("it is text")).collect()
}

#[tokio::test]
async fn a_copy_restores_with_its_own_key_alone() {
    let scratch = Scratch::new("varve-copy-").expect("a folder can be made");
    let mut original = Original::new(&scratch).await;
    let image = scratch.path().join("image");
    for _ in 0..3 {
        original.snapshot(&image).await;
    }
    let (copy, key) = (scratch.path().join("copy"), scratch.path().join("second.key"));
    assert!(varve(["repository", "keygen", "--to", text(&key)]).status.success());
    let to = url(&copy);

    for (arguments, status, said) in [
        (&["--to-key-file", text(&key)][..], 2, "--to URL"),
        (&["--to", &to], 2, "--to-key-file"),
        (&["--to", &to, "--to-key-file", text(&key)], 1, "--init"),
        (&["--to", "copy", "--to-key-file", text(&key)], 2, "scheme"),
        (&["--to", &to, "--to-key-file", text(&key), "--snapshot", "one"], 2, "snap- and 32"),
        (&["--to", &to, "--to-key-file", text(&key), "--follow", "--interval", "soon"], 2, "as in 30s"),
        (&["--to", &url(&original.folder), "--to-key-file", text(&original.key)], 2, "itself"),
    ] {
        let refused = run(original.copy(arguments));
        assert_eq!(refused.status.code(), Some(status), "{arguments:?}: {}", complaint(&refused));
        assert!(complaint(&refused).contains(said), "{arguments:?}: {}", complaint(&refused));
    }
    assert!(!copy.exists());

    let arguments = ["--to", &to, "--to-key-file", text(&key), "--init", "--output", "json"];
    let report = json(&run(original.copy(&arguments)));
    assert_eq!(outcomes(&report), ["copied", "copied", "copied"], "{report:#}");
    assert_eq!(report["snapshots"][1]["method"], "incremental", "{report:#}");
    assert_eq!(outcomes(&json(&run(original.copy(&arguments)))), ["already-there", "already-there", "already-there"]);

    // The key of the first opens nothing of the second.
    let foreign = varve(["volume", "list", "--repository", &to, "--key-file", text(&original.key)]);
    assert_eq!(foreign.status.code(), Some(1), "{}", complaint(&foreign));
    assert!(complaint(&foreign).contains("does not open this repository"), "{}", complaint(&foreign));

    // All of the first is lost.
    let last = original.last.expect("there is one").to_string();
    fs::remove_dir_all(&original.folder).expect("it can be removed");
    fs::remove_file(&original.key).expect("it can be removed");
    let volumes = json(&varve(["volume", "list", "--repository", &to, "--key-file", text(&key), "--output", "json"]));
    assert_eq!(volumes[0]["name"], "pvc-1", "{volumes:#}");
    let restored = scratch.path().join("restored");
    let done =
        varve(["snapshot", "restore", &last, "--to", text(&restored), "--repository", &to, "--key-file", text(&key)]);
    assert!(done.status.success(), "{}", complaint(&done));
    assert!(fs::read(&restored).expect("it is there") == fs::read(&image).expect("it is there"));
}

#[tokio::test]
async fn damage_is_named_and_the_exit_status_says_so() {
    let scratch = Scratch::new("varve-copy-").expect("a folder can be made");
    let mut original = Original::new(&scratch).await;
    let image = scratch.path().join("image");
    original.snapshot(&image).await;
    let packs = || fs::read_dir(original.folder.join("packs")).expect("it is a folder");
    let first = packs().next().expect("there is one").expect("it can be read").path();
    original.last = None;
    original.snapshot(&image).await;
    fs::write(&first, "nothing of a pack").expect("it can be written");

    let (copy, key) = (scratch.path().join("copy"), scratch.path().join("second.key"));
    assert!(varve(["repository", "keygen", "--to", text(&key)]).status.success());
    let mut command = original.copy(&["--to", &url(&copy), "--init", "--output", "json"]);
    command.env("VARVE_TO_MASTER_KEY_FILE", &key);
    let output = run(command);
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    assert!(complaint(&output).contains("1 snapshots"), "{}", complaint(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is one JSON value");
    assert_eq!(outcomes(&report), ["failed", "copied"], "{report:#}");
    let reason = report["snapshots"][0]["reason"].as_str().expect("it is text");
    let name = first.file_name().and_then(|name| name.to_str()).expect("it is text");
    assert!(reason.contains(name), "{reason}");
}

#[tokio::test]
async fn followed_into_another_store_new_snapshots_come_along_until_it_is_told_to_end() {
    let scratch = Scratch::new("varve-copy-").expect("a folder can be made");
    let mut original = Original::new(&scratch).await;
    let image = scratch.path().join("image");
    let first = original.snapshot(&image).await;
    let server = S3::start(&scratch.path().join("buckets"));
    let key = scratch.path().join("second.key");
    assert!(varve(["repository", "keygen", "--to", text(&key)]).status.success());
    let to = server.repository("copy");
    let mut command = original.copy(&["--init", "--follow", "--interval", "1s"]);
    command.env("VARVE_TO_REPOSITORY", &to).env("VARVE_TO_MASTER_KEY_FILE", &key);
    // The first repository's environment is of no use there: each has its own.
    for (name, value) in server.environment() {
        command.env(&name, "http://127.0.0.1:1").env(format!("VARVE_TO_{name}"), value);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let mut line = || lines.next().expect("it goes on").expect("it is text");
    assert!(line().starts_with(&format!("copied {first} whole")));
    let second = original.snapshot(&image).await;
    assert!(line().starts_with(&format!("copied {second} incrementally")));
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it can be told");
    assert!(child.wait().expect("it can be waited for").success());

    let list = ["snapshot", "list", "--repository", &to, "--key-file", text(&key), "--output", "json"];
    let listed = json(&run({
        let mut command = Command::new(env!("CARGO_BIN_EXE_varve"));
        command.args(list).envs(server.environment());
        command
    }));
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed:#}");
}
