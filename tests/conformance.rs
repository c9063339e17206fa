//! The CSI conformance suite, csi-sanity, against the driver: mounted and raw volumes, on XFS and btrfs pools, with a
//! file and an S3 repository; in one process, and as a controller and a node.
//!
//! No spec is skipped: all that the suite knows is claimed, and the node limits its volumes, so that this is tested too.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use serde::Deserialize;
use serial_test::serial;

use varve_harness::{
    Controller, Node, Pool, S3, Scratch, Setup, Standalone,
    driver::{free_address, text},
    tools,
};

/// Specs of csi-sanity 5.6.0 that run.
const SPECS: usize = 102;
/// Specs of csi-sanity 5.6.0 that it leaves out itself: a listing whose last volume is deleted between two pages.
const PENDING: usize = 1;
/// Most volumes that the node takes: more than the specs publish at once, apart from the one that is about it.
const MAX_VOLUMES: u32 = 8;

/// One suite of csi-sanity's report.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Vec<Spec>,
}

/// One spec of csi-sanity's report.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    failure: Option<Failure>,
}

/// Why a spec failed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

impl Spec {
    fn name(&self) -> String {
        format!("{} {}", self.container_hierarchy_texts.as_deref().unwrap_or_default().join(" "), self.leaf_node_text)
    }
}

/// Where the snapshots of a run go.
#[derive(Clone, Copy)]
enum Store {
    File,
    S3,
}

/// Runs the whole suite and checks what it says.
fn conforms(access: &str, filesystem: &'static str, store: Store) {
    let scratch = Scratch::new("varve-conformance-").expect("a folder can be made");
    let mut setup = Setup {
        pool: Pool::Image(filesystem, "20GiB"),
        configuration: format!("max_volumes = {MAX_VOLUMES}\n"),
        ..Setup::new(scratch.path())
    };
    let server = matches!(store, Store::S3).then(|| S3::start(&scratch.path().join("s3")));
    if let Some(server) = &server {
        setup.repository = server.repository("conformance");
        setup.environment = server.environment();
    }
    let driver = Standalone::start(&setup);
    let specs = run_suite(scratch.path(), &setup.endpoint(), None, access);
    let store = if server.is_some() { "s3" } else { "file" };
    judge(&specs, &format!("{access} on {filesystem} with {store}"));

    assert!(driver.terminate().success());
    assert!(!setup.socket().exists(), "the socket is left behind");
    let standing = scratch.standing().expect("the kernel's tables can be read");
    assert_eq!(standing, Vec::<String>::new(), "the driver left something mounted or attached");
}

/// Checks what the suite says: all of it passed.
fn judge(specs: &[Spec], what: &str) {
    let named = |state: &str| specs.iter().filter(|spec| spec.state == state).collect::<Vec<_>>();
    let (passed, skipped) = (named("passed"), named("skipped"));
    let pending = named("pending").len();
    let failed: Vec<_> = specs
        .iter()
        .filter(|spec| !["passed", "skipped", "pending"].contains(&spec.state.as_str()))
        .map(|spec| format!("{}: {}", spec.name(), spec.failure.as_ref().map_or("", |failure| &failure.message)))
        .collect();
    summarise(&format!(
        "csi-sanity {what}: {} passed, {} failed, {} skipped",
        passed.len(),
        failed.len(),
        skipped.len()
    ));
    assert!(failed.is_empty(), "{} specs failed:\n{}", failed.len(), failed.join("\n"));
    let skipped: Vec<_> = skipped.into_iter().map(Spec::name).collect();
    assert_eq!(skipped, Vec::<String>::new(), "skipped");
    assert_eq!((passed.len(), pending), (SPECS, PENDING), "specs of the suite that ran, and that it leaves out itself");
}

fn run_suite(folder: &Path, endpoint: &str, controller: Option<&str>, access: &str) -> Vec<Spec> {
    let report = folder.join("report.json");
    let mutable = folder.join("mutable.yaml");
    fs::write(&mutable, "compression: \"5\"\n").expect("a file can be written");
    let output = Command::new(tools::find("csi-sanity"))
        .args(["-csi.endpoint", endpoint])
        .args(controller.iter().flat_map(|controller| ["-csi.controllerendpoint", controller]))
        .args(["-csi.testvolumeaccesstype", access])
        .args(["-csi.testvolumesize", &(64 << 20).to_string()])
        .args(["-csi.testvolumeexpandsize", &(128 << 20).to_string()])
        .arg("-csi.testnodevolumeattachlimit")
        .args(["-csi.testvolumemutableparameters", text(&mutable)])
        .args(["-csi.stagingdir", text(&folder.join("staging"))])
        .args(["-csi.mountdir", text(&folder.join("mount"))])
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .arg("--ginkgo.no-color")
        .stdin(Stdio::null())
        .output()
        .expect("csi-sanity can be started");
    let text = fs::read_to_string(&report)
        .unwrap_or_else(|error| panic!("no report: {error}\n{}", String::from_utf8_lossy(&output.stdout)));
    let suites: Vec<Suite> = serde_json::from_str(&text).expect("the report is well formed");
    suites.into_iter().flat_map(|suite| suite.spec_reports).filter(|spec| spec.leaf_node_type == "It").collect()
}

/// Keeps a line for the summary that `make test` ends with.
fn summarise(line: &str) {
    println!("{line}");
    if let Some(file) = env::var_os("VARVE_TEST_SUMMARY") {
        let file = fs::OpenOptions::new().create(true).append(true).open(file);
        std::io::Write::write_all(&mut file.expect("the summary can be opened"), format!("{line}\n").as_bytes())
            .expect("the summary can be written");
    }
}

#[test]
#[serial]
fn mounted_volumes_on_xfs_with_a_file_repository() {
    conforms("mount", "xfs", Store::File);
}

#[test]
#[serial]
fn raw_volumes_on_xfs_with_a_file_repository() {
    conforms("block", "xfs", Store::File);
}

#[test]
#[serial]
fn mounted_volumes_on_btrfs_with_a_file_repository() {
    conforms("mount", "btrfs", Store::File);
}

#[test]
#[serial]
fn raw_volumes_on_btrfs_with_a_file_repository() {
    conforms("block", "btrfs", Store::File);
}

#[test]
#[serial]
fn mounted_volumes_on_xfs_with_an_s3_repository() {
    conforms("mount", "xfs", Store::S3);
}

#[test]
#[serial]
fn raw_volumes_on_xfs_with_an_s3_repository() {
    conforms("block", "xfs", Store::S3);
}

#[test]
#[serial]
fn mounted_volumes_on_btrfs_with_an_s3_repository() {
    conforms("mount", "btrfs", Store::S3);
}

#[test]
#[serial]
fn raw_volumes_on_btrfs_with_an_s3_repository() {
    conforms("block", "btrfs", Store::S3);
}

#[test]
#[serial]
fn mounted_volumes_of_a_controller_and_a_node() {
    let scratch = Scratch::new("varve-conformance-").expect("a folder can be made");
    let base = Setup::new(scratch.path());
    let node = Setup { configuration: format!("max_volumes = {MAX_VOLUMES}\n"), ..base.clone() };
    let controller = Setup { folder: scratch.path().join("controller"), ..base };
    let address = free_address();
    let running = (Node::start(&node, address), Controller::start(&controller, &[(&node.node, address)]));
    let specs = run_suite(scratch.path(), &node.endpoint(), Some(&controller.endpoint()), "mount");
    judge(&specs, "mount, controller and node");

    assert!(running.1.terminate().success());
    assert!(running.0.terminate().success());
    assert!(!node.socket().exists() && !controller.socket().exists(), "a socket is left behind");
    let standing = scratch.standing().expect("the kernel's tables can be read");
    assert_eq!(standing, Vec::<String>::new(), "the node left something mounted or attached");
}
