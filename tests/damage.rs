//! The operator's commands on a damaged repository: what they say, what they leave behind, and their exit status.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use serde_json::{Value, json};
use uuid::Uuid;
use varve_repository::{
    Repository,
    block::{BLOCK_SIZE, Blocks, FileSource},
    crypto::MasterKey,
    offload::{Against, Request},
    record::{
        snapshot::{Root, SnapshotDescription},
        volume::Presentation,
    },
    seam::Seams,
    store::Store,
};

use varve_harness::{
    Scratch,
    driver::{complaint, text},
};

/// A repository in a folder, with one snapshot of one image.
struct Scene {
    scratch: Scratch,
    root: Root,
    image: Vec<u8>,
}

impl Scene {
    async fn new() -> Self {
        let scratch = Scratch::new("varve-damage-").expect("a folder can be made");
        let seams = Seams::system();
        let master = MasterKey::generate(seams.entropy.as_ref());
        master.write_new(&scratch.path().join("key")).expect("a key can be written");
        let store = Store::open(&url(scratch.path()), &[]).expect("it is a folder");
        let repository = Repository::init(store, &master, seams).await.expect("it can be made");
        let mut image = vec![0; 300 * 4096];
        for (number, block) in (0_u32..).zip(image[..200 * 4096].chunks_mut(4096)) {
            block.fill(u8::try_from(number % 200).expect("it fits") + 1);
            block[..4].copy_from_slice(&number.to_le_bytes());
        }
        let path = scratch.path().join("image");
        fs::write(&path, &image).expect("it can be written");
        let source = Arc::new(FileSource::open(&path).expect("it is there"));
        let description = SnapshotDescription {
            id: repository.snapshot_id("one", 0),
            name: "one".into(),
            volume: repository.volume_id("volume"),
            volume_name: "volume".into(),
            incarnation: Uuid::from_u128(1),
            capacity_bytes: Blocks(300).bytes(),
            presentation: Presentation::Block,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            node: "node".into(),
            group: None,
            frozen: false,
            pause_nanos: 0,
            parameters: BTreeMap::new(),
        };
        let request = Request {
            description,
            against: Against::Nothing,
            changes: source.clone(),
            source,
            journal: None,
            parameters: Default::default(),
            progress: Default::default(),
            cancel: Default::default(),
        };
        let root = repository.offload(request).await.expect("it can be offloaded");
        Self { scratch, root, image }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn id(&self) -> String {
        self.root.description.id.to_string()
    }

    fn varve(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_varve"))
            .args(arguments)
            .env_remove("VARVE_MASTER_KEY")
            .env("VARVE_MASTER_KEY_FILE", self.path("key"))
            .env("VARVE_REPOSITORY", url(self.scratch.path()))
            .stdin(Stdio::null())
            .output()
            .expect("it can be started")
    }

    /// Flips a bit of the first chunk of the only pack: blocks 0 to 31 of the image.
    fn hurt(&self) -> String {
        let mut packs = fs::read_dir(self.path("repository/packs")).expect("it is there");
        let pack = packs.next().expect("there is one").expect("it can be read").path();
        let mut bytes = fs::read(&pack).expect("it is there");
        bytes[20] ^= 1;
        fs::write(&pack, bytes).expect("it can be written");
        format!("packs/{}", pack.file_name().and_then(|name| name.to_str()).expect("it is an id"))
    }

    /// Lays out a pool that still has the snapshot's cut.
    fn pool(&self) -> PathBuf {
        let pool = self.path("pool");
        let cut = pool.join("cuts").join(self.id());
        fs::create_dir_all(cut.join("data")).expect("it can be made");
        fs::create_dir_all(pool.join("volumes")).expect("it can be made");
        fs::write(cut.join("data/image"), &self.image).expect("it can be written");
        let record = json!({ "description": self.root.description, "state": "base" });
        fs::write(cut.join("record.json"), record.to_string()).expect("it can be written");
        pool
    }
}

fn url(scratch: &Path) -> String {
    format!("file://{}/repository", scratch.display())
}

/// The one JSON value that a command answered with, whatever its status.
fn json(output: &Output, status: i32) -> Value {
    assert_eq!(output.status.code(), Some(status), "{}", complaint(output));
    serde_json::from_slice(&output.stdout).expect("it is one JSON value")
}

const HURT_BYTES: u64 = 32 * BLOCK_SIZE;

#[tokio::test]
async fn damage_is_named_restored_around_and_repaired() {
    let scene = Scene::new().await;
    let check = ["repository", "check", "--level", "content", "--output", "json"];
    assert_eq!(json(&scene.varve(&check), 0)["damages"], json!([]));
    let pack = scene.hurt();

    let report = json(&scene.varve(&check), 1);
    let damage = &report["damages"][0];
    assert_eq!((damage["object"].as_str(), report["damages"].as_array().map(Vec::len)), (Some(pack.as_str()), Some(1)));
    assert_eq!(damage["hurt"][0]["snapshot"], scene.id());
    assert_eq!(damage["hurt"][0]["ranges"], json!([[0, HURT_BYTES]]));
    // Its table is whole: nothing is seen where no content is read.
    assert_eq!(json(&scene.varve(&["repository", "check", "--output", "json"]), 0)["damages"], json!([]));

    let (image, id) = (scene.path("restored"), scene.id());
    let restore = ["snapshot", "restore", &id, "--to", text(&image)];
    let refused = scene.varve(&restore);
    assert_eq!(refused.status.code(), Some(1));
    assert!(complaint(&refused).contains(&pack), "{}", complaint(&refused));
    let left = fs::read_dir(scene.scratch.path()).expect("it is there");
    let left: Vec<_> = left.map(|entry| entry.expect("it can be read").file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("restored")), "{left:?}");

    let kept = scene.varve(&[&restore[..], &["--keep-going", "--output", "json"]].concat());
    let restored = json(&kept, 1);
    let lost = &restored["lost"][0];
    assert_eq!((&lost["start"], &lost["length"], &lost["object"]), (&json!(0), &json!(HURT_BYTES), &json!(pack)));
    assert!(complaint(&kept).contains("131072 bytes in 1 ranges"), "{}", complaint(&kept));
    let hurt = usize::try_from(HURT_BYTES).expect("it fits");
    let bytes = fs::read(&image).expect("it was made");
    assert!(bytes[..hurt].iter().all(|byte| *byte == 0));
    assert!(bytes[hurt..] == scene.image[hurt..], "the rest is as it was");
    fs::remove_file(&image).expect("it is there");

    let nowhere = scene.varve(&["repository", "repair"]);
    assert_eq!(nowhere.status.code(), Some(1), "{}", complaint(&nowhere));
    assert!(String::from_utf8_lossy(&nowhere.stdout).contains("nothing of it was found anywhere"));
    let pool = scene.pool();
    let repair = ["repository", "repair", "--pool", text(&pool), "--output", "json"];
    let planned = json(&scene.varve(&[&repair[..], &["--dry-run"]].concat()), 0);
    assert_eq!((&planned["dry_run"], &planned["snapshots"][0]["outcome"]), (&json!(true), &json!("whole")));
    assert_eq!(json(&scene.varve(&check), 1)["damages"][0]["object"], pack, "nothing has changed");
    let repaired = json(&scene.varve(&repair), 0);
    let recovered = &repaired["snapshots"][0]["recovered"][0];
    assert_eq!((&recovered["length"], &recovered["proof"]), (&json!(HURT_BYTES), &json!("chunk")), "{repaired:#}");

    let after = scene.varve(&check);
    assert_eq!(json(&after, 0)["damages"][0]["hurt"], json!([]));
    assert!(complaint(&after).contains("hurt no snapshot"), "{}", complaint(&after));
    assert!(scene.varve(&restore).status.success());
    assert!(fs::read(&image).expect("it was made") == scene.image);
    let shown = json(&scene.varve(&["snapshot", "show", &id, "--output", "json"]), 0);
    assert!(shown["repaired_at"].is_string(), "{shown:#}");
}

#[tokio::test]
async fn a_damaged_root_is_named_in_listings_and_written_anew() {
    let scene = Scene::new().await;
    let id = scene.id();
    fs::write(scene.path("repository/snapshots").join(&id), b"VARVE").expect("it can be written");
    let listed = scene.varve(&["snapshot", "list", "--output", "json"]);
    assert_eq!(json(&listed, 0), json!([]));
    assert!(
        complaint(&listed).contains(&id) && complaint(&listed).contains("root is damaged"),
        "{}",
        complaint(&listed)
    );
    let pool = scene.pool();
    let repaired = json(&scene.varve(&["repository", "repair", "--pool", text(&pool), "--output", "json"]), 0);
    assert_eq!(repaired["snapshots"][0]["outcome"], "whole", "{repaired:#}");
    let image = scene.path("restored");
    assert!(scene.varve(&["snapshot", "restore", &id, "--to", text(&image)]).status.success());
    assert!(fs::read(&image).expect("it was made") == scene.image);
}

#[tokio::test]
async fn arguments_that_contradict_themselves_are_refused() {
    let scene = Scene::new().await;
    let state = scene.path("state");
    fs::write(&state, "precious").expect("it can be written");
    let missing = scene.path("missing");
    let key = scene.path("key");
    for (arguments, words) in [
        (vec!["check", "--sample", "0"], vec!["--sample", "at most 100"]),
        (vec!["check", "--level", "presence", "--sample", "5"], vec!["--sample 5 %", "--level content"]),
        (vec!["check", "--resume", text(&state)], vec![text(&state), "not the state of a check"]),
        (vec!["repair", "--pool", text(&missing)], vec!["--pool", text(&missing), "`cuts`"]),
        (vec!["repair", "--mirror", &url(scene.scratch.path())], vec!["--mirror", "another one"]),
        (vec!["repair", "--mirror-key-file", text(&key)], vec!["--mirror"]),
    ] {
        let output = scene.varve(&[&["repository"], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", complaint(&output));
        assert!(words.iter().all(|word| complaint(&output).contains(word)), "{arguments:?}: {}", complaint(&output));
    }
    let resumed = ["repository", "check", "--sample", "50", "--resume", text(&missing), "--output", "json"];
    let report = json(&scene.varve(&resumed), 0);
    assert_eq!((&report["pass"]["complete"], &report["level"]), (&json!(true), &json!("content")), "{report:#}");
    assert!(!missing.exists());
}
