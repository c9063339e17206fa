//! A hundred claims and two hundred snapshots at once, and what that costs.

use std::{collections::BTreeMap, fs, time::Instant};

use serde_json::{Value, json};

use crate::scene::{Claim, Pod, Scene, snapshot_of};

/// How many claims are made at once.
const CLAIMS: usize = 100;

/// How many of them a pod has; a node is not to start a hundred pods on two processors.
const EACH: usize = 10;

/// How long all of it may take, in the words of `kubectl wait`: whether it converges is looked at, not how fast.
const PATIENCE: &str = "--timeout=900s";

/// The ticks of a second in `/proc/PID/stat` (`USER_HZ`, proc_pid_stat(5)); the same on all architectures that are built for.
const TICKS: f64 = 100.0;

/// Makes all claims at once, writes to each, takes two snapshots of each at once, restores some, and deletes everything.
pub(crate) fn many_at_once(scene: &Scene<'_>) {
    let kubectl = &scene.kubectl;
    let mut cost = Cost::begin(scene);
    let claims: Vec<_> = (0..CLAIMS).map(|number| format!("data-{number}")).collect();
    let small = Claim { size: "128Mi", ..Claim::default() };
    kubectl.apply(&list(claims.iter().map(|claim| small.object(claim))));
    let pods: Vec<_> = claims.chunks(EACH).enumerate().map(|(number, part)| (format!("pod-{number}"), part)).collect();
    kubectl.apply(&list(pods.iter().map(|(pod, part)| Pod::default().with_claims(pod, part))));
    kubectl.run(["wait", "pods", "--all", "--for=condition=Ready", PATIENCE]);
    cost.tell(&format!("{CLAIMS} claims are in use"));

    let mut written = BTreeMap::new();
    for (pod, part) in &pods {
        for claim in *part {
            let script = format!(
                "dd if=/dev/urandom of=/{claim}/file bs=64k count=16 conv=fsync 2>/dev/null; sha256sum </{claim}/file"
            );
            written.insert(claim.as_str(), kubectl.shell(pod, &script));
        }
    }
    cost.tell("each has a file of 1 MiB");

    kubectl.apply(&list(
        claims.iter().flat_map(|claim| ["one", "two"].map(|which| snapshot_of(&format!("{claim}-{which}"), claim))),
    ));
    kubectl.run(["wait", "volumesnapshots", "--all", "--for=jsonpath={.status.readyToUse}=true", PATIENCE]);
    cost.tell(&format!("{} snapshots are in the repository", 2 * CLAIMS));

    for claim in claims.iter().step_by(CLAIMS / 4) {
        let (restored, snapshot) = (format!("{claim}-restored"), format!("{claim}-two"));
        scene.claim(&restored, &Claim { source: Some(("VolumeSnapshot", &snapshot)), ..small });
        scene.pod(&restored, &Pod { claim: Some(&restored), ..Pod::default() });
        assert_eq!(kubectl.shell(&restored, "sha256sum </data/file"), written[claim.as_str()]);
    }
    cost.tell("four of them are restored");

    for kind in ["pods", "volumesnapshots", "persistentvolumeclaims"] {
        kubectl.run(["delete", kind, "--all", PATIENCE]);
    }
    cost.tell("all is deleted");
    println!("the most memory of each kind of process: {}", memory());
}

fn list(objects: impl Iterator<Item = Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": objects.collect::<Vec<_>>() })
}

/// What the driver's processes and the API server have spent, told step by step.
struct Cost<'a> {
    scene: &'a Scene<'a>,
    since: Instant,
    processors: f64,
    calls: u64,
}

impl<'a> Cost<'a> {
    fn begin(scene: &'a Scene<'a>) -> Self {
        Self { scene, since: Instant::now(), processors: processors(), calls: calls(scene) }
    }

    /// Prints what was spent since the last time.
    fn tell(&mut self, step: &str) {
        let now = Self::begin(self.scene);
        println!(
            "{step}: {:.1} s, {:.1} s of processors by the driver and its sidecars, {} calls to the API server",
            (now.since - self.since).as_secs_f64(),
            now.processors - self.processors,
            now.calls.saturating_sub(self.calls),
        );
        *self = now;
    }
}

/// The requests that the API server has answered, watches apart.
fn calls(scene: &Scene<'_>) -> u64 {
    let metrics = scene.kubectl.run(["get", "--raw", "/metrics"]);
    let answered =
        metrics.lines().filter(|line| line.starts_with("apiserver_request_total{") && !line.contains("verb=\"WATCH\""));
    answered.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// The processes of the driver's containers on all nodes, which are processes of this machine: what each is, and its id.
fn driver() -> impl Iterator<Item = (String, String)> {
    let ids = fs::read_dir("/proc").expect("proc is mounted");
    ids.filter_map(|entry| {
        let id = entry.ok()?.file_name().into_string().ok()?;
        let command = fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
        let mut words = command.split('\0');
        let what = match words.next()? {
            "/usr/local/bin/varve" => words.next().filter(|word| matches!(*word, "node" | "controller"))?,
            program => program.strip_prefix('/').filter(|name| name.starts_with("csi-"))?,
        };
        Some((what.to_owned(), id))
    })
}

/// Seconds of user and system time (fields 14 and 15 of `/proc/PID/stat`) of all of them.
fn processors() -> f64 {
    let of = |(_, id): (String, String)| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let fields = stat.rsplit(')').next()?.split_whitespace();
        let ticks = fields.skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
        Some(ticks.sum::<f64>() / TICKS)
    };
    driver().filter_map(of).sum()
}

/// The most memory that was resident in each kind of them, in MiB.
fn memory() -> String {
    let mut most: BTreeMap<String, u64> = BTreeMap::new();
    for (what, id) in driver() {
        let Ok(status) = fs::read_to_string(format!("/proc/{id}/status")) else { continue };
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let kibibytes: u64 = peak.and_then(|text| text.parse().ok()).unwrap_or_default();
        let known = most.entry(what).or_default();
        *known = kibibytes.max(*known);
    }
    let told: Vec<_> = most.iter().map(|(what, kibibytes)| format!("{what} {} MiB", kibibytes >> 10)).collect();
    told.join(", ")
}
