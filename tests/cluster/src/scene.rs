//! A namespace for one case, and the objects that users make: claims, pods, snapshots.

use std::cell::RefCell;

use serde_json::{Value, json};
use varve_harness::wait_for;

use crate::{
    driver::{Driver, NODES},
    kubectl::{Kubectl, run_cluster},
};

/// A namespace with what a case makes in it.
pub(crate) struct Scene<'a> {
    pub(crate) driver: &'a Driver,
    pub(crate) kubectl: Kubectl,
    namespace: String,
    /// What was on the nodes before: a case that failed leaves things behind for whoever looks into it.
    before: Vec<String>,
    /// Records of volumes of a cluster that is gone, which nobody deletes.
    lost: RefCell<Vec<Value>>,
    /// Snapshots that were in the repository before, or that nobody deletes.
    kept: RefCell<Vec<String>>,
}

impl<'a> Scene<'a> {
    /// Makes the namespace.
    pub(crate) fn new(driver: &'a Driver, case: &str) -> Self {
        let namespace = case.replace('_', "-");
        let kubectl = Kubectl::new(&namespace);
        let scene = Self {
            driver,
            kubectl,
            namespace,
            before: left(),
            lost: RefCell::default(),
            kept: RefCell::new(driver.snapshots()),
        };
        scene.make_namespace();
        scene
    }

    fn make_namespace(&self) {
        self.kubectl.run(["create", "namespace", &self.namespace]);
        wait_for("the namespace has its service account", || {
            self.kubectl.attempt(&["get", "serviceaccount", "default"], None).ok()
        });
    }

    /// Throws the cluster away and goes on in a new one, in an empty namespace of the same name.
    pub(crate) fn lose_cluster(&self) {
        *self.lost.borrow_mut() = self.volumes();
        *self.kept.borrow_mut() = self.driver.snapshots();
        self.driver.start_over();
        self.make_namespace();
    }

    /// Deletes the namespace and waits until nothing of it is left: neither objects nor volumes.
    ///
    /// # Panics
    /// Where something stays.
    pub(crate) fn end(self) {
        // Pods first, since volumes in use are not deleted; then all else at once, since a snapshot stays while a claim waits
        // to be made from it.
        for kinds in ["pods", "volumegroupsnapshots,volumesnapshots,persistentvolumeclaims"] {
            self.kubectl.run(["delete", kinds, "--all", "--timeout", "180s"]);
        }
        self.kubectl.run(["delete", "namespace", &self.namespace, "--timeout", "180s"]);
        let of_namespace =
            format!("jsonpath={{.items[?(@.spec.claimRef.namespace==\"{}\")].metadata.name}}", self.namespace);
        wait_for("its volumes are gone", || {
            let left = self.kubectl.run(["get", "persistentvolumes", "--output", &of_namespace]);
            left.trim().is_empty().then_some(())
        });
        assert_eq!(self.volumes(), *self.lost.borrow(), "no volume is left in the repository");
        wait_for("no snapshot is left in the repository", || {
            let kept = self.kept.borrow();
            self.driver.snapshots().iter().all(|snapshot| kept.contains(snapshot)).then_some(())
        });
        wait_for("nothing is left on the nodes", || {
            left().iter().all(|thing| self.before.contains(thing)).then_some(())
        });
    }

    /// Its namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The records of its volumes in the repository.
    pub(crate) fn volumes(&self) -> Vec<Value> {
        self.driver.volumes_of(&self.namespace)
    }

    /// Makes a claim.
    pub(crate) fn claim(&self, name: &str, claim: &Claim<'_>) {
        self.kubectl.apply(&claim.object(name));
    }

    /// Makes a pod with volumes, and waits until it runs.
    pub(crate) fn pod(&self, name: &str, pod: &Pod<'_>) {
        self.kubectl.apply(&pod.object(name));
        self.kubectl.wait_for_condition(&format!("pod/{name}"), "Ready");
    }

    /// Takes a snapshot of a claim and waits until it is in the repository.
    pub(crate) fn snapshot(&self, name: &str, claim: &str) {
        self.begin_snapshot(name, claim);
        self.kubectl.wait_for_field(&format!("volumesnapshot/{name}"), ".status.readyToUse", "true");
    }

    /// Asks for a snapshot of a claim.
    pub(crate) fn begin_snapshot(&self, name: &str, claim: &str) {
        self.kubectl.apply(&snapshot_of(name, claim));
    }

    /// Fills the folder `/data` of a pod with random files and returns their checksums.
    pub(crate) fn write(&self, pod: &str, prefix: &str) -> String {
        self.kubectl.shell(
            pod,
            &format!(
                "for i in 1 2 3 4 5 6 7 8; do
                     dd if=/dev/urandom of=/data/{prefix}-$i bs=64k count=$((i * 4)) 2>/dev/null
                 done
                 sync; cd /data; sha256sum $(find . -type f -not -path './lost+found*' | sort)"
            ),
        )
    }

    /// The checksums of all files in the folder `/data` of a pod.
    pub(crate) fn read(&self, pod: &str) -> String {
        self.kubectl.shell(pod, "cd /data; sha256sum $(find . -type f -not -path './lost+found*' | sort)")
    }
}

/// A snapshot of a claim, as an object.
pub(crate) fn snapshot_of(name: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": { "name": name },
        "spec": { "volumeSnapshotClassName": "varve", "source": { "persistentVolumeClaimName": claim } },
    })
}

/// What a claim asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) class: &'a str,
    pub(crate) size: &'a str,
    pub(crate) access: &'a str,
    pub(crate) block: bool,
    /// `VolumeSnapshot` or `PersistentVolumeClaim`, and its name.
    pub(crate) source: Option<(&'a str, &'a str)>,
}

impl Default for Claim<'_> {
    fn default() -> Self {
        Self { class: "varve", size: "1Gi", access: "ReadWriteOnce", block: false, source: None }
    }
}

impl Claim<'_> {
    /// The object.
    pub(crate) fn object(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name, "labels": { "app": "data" } },
            "spec": self.spec(),
        })
    }

    /// The specification, as a claim and a template of one have it.
    pub(crate) fn spec(&self) -> Value {
        let mut spec = json!({
            "storageClassName": self.class, "accessModes": [self.access],
            "volumeMode": if self.block { "Block" } else { "Filesystem" },
            "resources": { "requests": { "storage": self.size } },
        });
        if let Some((kind, name)) = self.source {
            let group = if kind == "VolumeSnapshot" { json!("snapshot.storage.k8s.io") } else { Value::Null };
            spec["dataSource"] = json!({ "apiGroup": group, "kind": kind, "name": name });
        }
        spec
    }
}

/// What a pod is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod<'a> {
    /// The node that it is to be on; the scheduler's choice without one.
    pub(crate) node: Option<&'a str>,
    /// A claim that is mounted at `/data`.
    pub(crate) claim: Option<&'a str>,
    /// A claim whose device is `/dev/data`.
    pub(crate) device: Option<&'a str>,
    /// Another volume that is mounted at `/data`.
    pub(crate) volume: Option<Value>,
    /// Its security context.
    pub(crate) security: Option<Value>,
}

impl Pod<'_> {
    /// A deployment of one such pod, labelled `app` with its name, of which two never run at once.
    pub(crate) fn deployment(&self, name: &str) -> Value {
        let labels = json!({ "app": name });
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
            "spec": {
                "replicas": 1, "strategy": { "type": "Recreate" }, "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": self.object(name)["spec"] },
            },
        })
    }

    /// The object of one that has several claims, each mounted in a folder of its name.
    pub(crate) fn with_claims(&self, name: &str, claims: &[String]) -> Value {
        let mut object = self.object(name);
        let volumes =
            claims.iter().map(|claim| json!({ "name": claim, "persistentVolumeClaim": { "claimName": claim } }));
        object["spec"]["volumes"] = volumes.collect();
        let mounts = claims.iter().map(|claim| json!({ "name": claim, "mountPath": format!("/{claim}") }));
        object["spec"]["containers"][0]["volumeMounts"] = mounts.collect();
        object
    }

    /// The object.
    pub(crate) fn object(&self, name: &str) -> Value {
        let claimed =
            self.claim.or(self.device).map(|claim| json!({ "persistentVolumeClaim": { "claimName": claim } }));
        let mut container = json!({
            "name": "main", "image": "localhost/busybox:1", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"],
        });
        let mut spec = json!({ "terminationGracePeriodSeconds": 5 });
        if let Some(mut volume) = self.volume.clone().or(claimed) {
            volume["name"] = json!("data");
            spec["volumes"] = json!([volume]);
            if self.device.is_some() {
                container["volumeDevices"] = json!([{ "name": "data", "devicePath": "/dev/data" }]);
            } else {
                container["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
            }
        }
        if let Some(node) = self.node {
            spec["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
        }
        if let Some(security) = &self.security {
            spec["securityContext"] = security.clone();
        }
        spec["containers"] = json!([container]);
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
    }
}

/// What is in the nodes' pools, and which devices are attached to them.
fn left() -> Vec<String> {
    let mut left = Vec::new();
    for node in NODES {
        let pool = format!("/var/lib/varve/{node}.img.mount");
        let script = format!(
            "find {pool}/volumes {pool}/cuts {pool}/making -mindepth 1 -maxdepth 1
             device=$(findmnt --noheadings --output MAJ:MIN --mountpoint {pool} | tr -d ' ')
             losetup --list --noheadings --output NAME,BACK-MAJ:MIN | awk -v pool=\"$device\" '$2 == pool'"
        );
        let found = run_cluster(&["run", node, "bash", "-euc", &script]);
        left.extend(found.lines().map(|line| format!("{node}: {line}")));
    }
    left
}
