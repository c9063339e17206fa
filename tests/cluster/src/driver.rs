//! The driver's installation: an S3 server beside the cluster, the secrets, the manifests of `deploy/`.

use std::{
    cell::RefCell,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use serde_json::{Value, json};
use varve_harness::{S3, Scratch, wait_for};

use crate::{
    certificate::Certificate,
    kubectl::{Kubectl, project, run_cluster},
};

/// Where the driver is.
pub(crate) const NAMESPACE: &str = "varve-system";

/// The nodes of the cluster.
pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];

/// The machine's address on the cluster's bridge, which pods reach.
const MACHINE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 240, 0, 1));

/// The store's port; `tests/cluster/overlay` names it too.
const STORE: u16 = 9000;

/// An installed driver. The S3 server ends with it; what is in the cluster goes with the cluster.
pub(crate) struct Driver {
    pub(crate) kubectl: Kubectl,
    store: RefCell<Option<S3>>,
    folder: Scratch,
    key: PathBuf,
    certificate: Certificate,
}

impl Driver {
    /// Installs it as docs/kubernetes.md says, and waits until it is ready on all nodes.
    ///
    /// # Panics
    /// Where the cluster is not up, or the driver does not become ready.
    pub(crate) fn install() -> Self {
        let folder = Scratch::new("varve-cluster-").expect("a folder can be made");
        let key = folder.path().join("master.key");
        let certificate = Certificate::make(folder.path());
        let driver = Self { kubectl: Kubectl::new(NAMESPACE), store: RefCell::default(), folder, key, certificate };
        driver.restart_store();
        driver.varve(&["repository", "keygen", "--to", &driver.key.display().to_string()]);
        driver.set_up();
        driver
    }

    /// Throws the cluster away, control plane, nodes and pools, and installs the driver in a new one, with the bucket and the
    /// key that there were.
    pub(crate) fn start_over(&self) {
        self.stop_store();
        run_cluster(&["down"]);
        run_cluster(&["up"]);
        self.start_store();
        self.set_up();
    }

    fn set_up(&self) {
        run_cluster(&["load", &project().join("target/image/varve.tar").display().to_string()]);
        self.apply();
        self.wait();
    }

    fn apply(&self) {
        let kubectl = &self.kubectl;
        let manifests = kubectl.run(["kustomize", &project().join("tests/cluster/overlay").display().to_string()]);
        kubectl.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }));
        let key = fs::read_to_string(&self.key).expect("the key was made");
        kubectl.apply(&secret("varve-master-key", "master.key", key.trim()));
        let credentials: Vec<_> = self.with_store(S3::environment);
        let value = |name: &str| credentials.iter().find(|(key, _)| key == name).expect("it is among them").1.clone();
        let file = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            value("AWS_ACCESS_KEY_ID"),
            value("AWS_SECRET_ACCESS_KEY")
        );
        kubectl.apply(&secret("varve-credentials", "credentials", &file));
        kubectl.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": "varve-snapshot-metadata" },
            "stringData": { "tls.crt": self.certificate.certificate(), "tls.key": self.certificate.key() },
        }));
        kubectl.attempt(&["apply", "--filename", "-"], Some(&manifests)).expect("the manifests are taken");
    }

    fn wait_for(&self, what: &str) {
        if let Err(error) = self.kubectl.attempt(&["rollout", "status", what, "--timeout", "180s"], None) {
            self.tell();
            panic!("{what} does not become ready: {error}");
        }
    }

    /// Waits until every node has the driver, and the controller runs.
    pub(crate) fn wait(&self) {
        self.wait_for("daemonset/varve-node");
        self.wait_for("deployment/varve-controller");
        for node in NODES {
            wait_for(&format!("the kubelet of {node} knows the driver"), || {
                let known = self.kubectl.field(&format!("csinode/{node}"), ".spec.drivers[*].name");
                known.contains("csi.varve.io").then_some(())
            });
        }
    }

    /// Says in the SnapshotMetadataService where this machine reaches the service, and by which authority it is known.
    /// There is no kube-proxy and no DNS: it is the address of a pod that is ready.
    pub(crate) fn announce_metadata(&self) {
        let pod = wait_for("the metadata service has a pod that is ready", || {
            let ready = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
            let service = "kubernetes.io/service-name=varve-snapshot-metadata";
            let pods = self.kubectl.run(["get", "endpointslices", "--selector", service, "--output", ready]);
            pods.split_whitespace().next().map(str::to_owned)
        });
        let spec = json!({ "address": format!("{pod}:50051"), "caCert": self.certificate.authority() });
        let patch = json!({ "spec": spec }).to_string();
        self.kubectl.run(["patch", "snapshotmetadataservice", "csi.varve.io", "--type", "merge", "--patch", &patch]);
    }

    /// Kills the S3 server, and starts it again on what it stored.
    pub(crate) fn restart_store(&self) {
        self.stop_store();
        self.start_store();
    }

    /// Kills the S3 server, if it runs.
    pub(crate) fn stop_store(&self) {
        *self.store.borrow_mut() = None;
    }

    /// Starts the S3 server on what it stored.
    pub(crate) fn start_store(&self) {
        let server = S3::start_at(&self.folder.path().join("s3"), SocketAddr::new(MACHINE, STORE));
        *self.store.borrow_mut() = Some(server);
    }

    fn with_store<T>(&self, ask: impl FnOnce(&S3) -> T) -> T {
        ask(self.store.borrow().as_ref().expect("it is started before it is asked"))
    }

    /// What a program needs in its environment to read the repository.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let mut environment = self.with_store(S3::environment);
        let repository = self.with_store(|store| store.repository("cluster"));
        environment.push(("VARVE_REPOSITORY".to_owned(), repository));
        environment.push(("VARVE_MASTER_KEY_FILE".to_owned(), self.key.display().to_string()));
        environment
    }

    /// Runs the program that is in the image on this machine, on the cluster's repository.
    ///
    /// # Panics
    /// Where it fails.
    pub(crate) fn varve(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(project().join("target/image/varve"));
        command.args(arguments);
        if arguments.get(1) != Some(&"keygen") {
            command.envs(self.environment());
        }
        let output = command.output().expect("varve can be started");
        assert!(output.status.success(), "varve {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The records of the volumes of a namespace's claims.
    pub(crate) fn volumes_of(&self, namespace: &str) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.varve(&["volume", "list", "--output", "json"])).expect("JSON");
        // The provisioner tells the driver of the claim, and the driver keeps it with the record.
        let mark = format!("\"{namespace}\"");
        let list = list.as_array().expect("a list").iter();
        list.filter(|volume| volume.to_string().contains(&mark)).cloned().collect()
    }

    /// The ids of the snapshots in the repository.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let list: Value = serde_json::from_str(&self.varve(&["snapshot", "list", "--output", "json"])).expect("JSON");
        let list = list.as_array().expect("a list").iter();
        list.map(|snapshot| snapshot["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Prints how things stand, after a failure.
    pub(crate) fn tell(&self) {
        for arguments in [
            &["get", "pods,pvc,volumesnapshots", "--all-namespaces", "--output", "wide"][..],
            &[
                "logs",
                "--selector",
                "app.kubernetes.io/component=controller",
                "--all-containers",
                "--prefix",
                "--tail=40",
            ],
            &["logs", "--selector", "app.kubernetes.io/component=node", "--prefix", "--tail", "60"],
            &["describe", "pods"],
        ] {
            let text = self.kubectl.attempt(arguments, None).unwrap_or_else(|error| error);
            eprintln!("--- kubectl {}\n{text}", arguments.join(" "));
        }
        eprintln!("the store is in {}", self.folder.path().display());
    }
}

fn secret(name: &str, key: &str, value: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { key: value } })
}
