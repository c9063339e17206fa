//! `kubectl` as a process.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// How long a condition is waited for before it is held to fail, in seconds.
const PATIENCE: u32 = 180;

/// `kubectl`, in one namespace of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    namespace: String,
}

impl Kubectl {
    /// Speaks about a namespace, which need not be there yet.
    pub(crate) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// Runs it and returns what it printed.
    ///
    /// # Panics
    /// Where it fails, with what it said.
    pub(crate) fn run<const N: usize>(&self, arguments: [&str; N]) -> String {
        self.attempt(&arguments, None).unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// Runs it; what it printed, or what it complained of.
    pub(crate) fn attempt(&self, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
        let mut command = cluster(&["kubectl", "--namespace", &self.namespace]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("scripts/cluster can be started");
        let mut stdin = child.stdin.take().expect("it is piped");
        // Where it ended before it read everything, its complaint says why.
        let _ = stdin.write_all(input.unwrap_or_default().as_bytes());
        drop(stdin);
        said(&child.wait_with_output().expect("it ends"))
    }

    /// Runs the plugin, `kubectl varve`.
    pub(crate) fn plugin(&self, arguments: &[&str]) -> Answer {
        Answer::of(with_plugin("kubectl").arg("varve").args(arguments).args(["--namespace", &self.namespace]))
    }

    /// Makes or changes the objects of a manifest.
    ///
    /// # Panics
    /// Where it fails.
    pub(crate) fn apply_text(&self, manifest: &str) {
        let applied = self.attempt(&["apply", "--filename", "-"], Some(manifest));
        applied.unwrap_or_else(|error| panic!("{manifest}: {error}"));
    }

    /// Makes or changes objects.
    ///
    /// # Panics
    /// Where it fails.
    pub(crate) fn apply(&self, object: &Value) {
        let text = object.to_string();
        self.attempt(&["apply", "--filename", "-"], Some(&text)).unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// Looks at one field, by its JSON path; empty where there is none.
    pub(crate) fn field(&self, object: &str, path: &str) -> String {
        self.run(["get", object, "--output", &format!("jsonpath={{{path}}}")])
    }

    /// Waits until a field has a value.
    ///
    /// # Panics
    /// Where it does not get it; with the object and its events.
    pub(crate) fn wait_for_field(&self, object: &str, path: &str, value: &str) {
        self.wait_for(object, &format!("jsonpath={{{path}}}={value}"));
    }

    /// Waits until a condition is true, as in `Ready` of a pod.
    ///
    /// # Panics
    /// As [`wait_for_field`](Self::wait_for_field).
    pub(crate) fn wait_for_condition(&self, object: &str, condition: &str) {
        self.wait_for(object, &format!("condition={condition}"));
    }

    /// Waits until an object that is being deleted is gone.
    ///
    /// # Panics
    /// As [`wait_for_field`](Self::wait_for_field).
    pub(crate) fn wait_until_gone(&self, object: &str) {
        self.wait_for(object, "delete");
    }

    /// Waits until something holds, in the words of `kubectl wait --for`.
    ///
    /// # Panics
    /// As [`wait_for_field`](Self::wait_for_field).
    pub(crate) fn wait_for(&self, object: &str, what: &str) {
        let timeout = format!("{PATIENCE}s");
        if let Err(error) = self.attempt(&["wait", object, "--for", what, "--timeout", &timeout], None) {
            let state = self.attempt(&["get", object, "--output", "yaml"], None).unwrap_or_else(|error| error);
            panic!("{object} does not get {what}: {error}\n{state}\n{}", self.events());
        }
    }

    /// Waits until an event about an object says something.
    ///
    /// # Panics
    /// Where none does within a minute, with those that there are.
    pub(crate) fn wait_for_event(&self, object: &str, words: &[&str]) {
        let (kind, name) = object.split_once('/').expect("kind/name");
        let selector = format!("involvedObject.name={name}");
        varve_harness::wait_for(&format!("an event on {kind} {name} that says {words:?}"), || {
            let path = "--output=jsonpath={range .items[*]}{.message}{\"\\n\"}{end}";
            let events = self.run(["get", "events", "--field-selector", &selector, path]);
            events.lines().any(|event| words.iter().all(|word| event.contains(word))).then_some(())
        });
    }

    /// All events of the namespace.
    pub(crate) fn events(&self) -> String {
        self.attempt(&["get", "events", "--sort-by", ".lastTimestamp"], None).unwrap_or_else(|error| error)
    }

    /// Runs a shell script in a pod and returns what it printed.
    ///
    /// # Panics
    /// Where it fails.
    pub(crate) fn shell(&self, pod: &str, script: &str) -> String {
        self.run(["exec", pod, "--", "sh", "-euc", script])
    }

    /// Deletes an object and waits until it is gone.
    ///
    /// # Panics
    /// Where it stays.
    pub(crate) fn delete(&self, object: &str) {
        self.run(["delete", object, "--timeout", "180s"]);
    }
}

/// What a program answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its exit status.
    pub(crate) status: i32,
    /// What it printed.
    pub(crate) output: String,
    /// What it said beside.
    pub(crate) complaint: String,
}

impl Answer {
    /// Runs a program to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("it can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let status = output.status.code().expect("it is not killed");
        Self { status, output: text(&output.stdout), complaint: text(&output.stderr) }
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// Where it failed.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.good()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What it printed.
    ///
    /// # Panics
    /// Where it failed.
    pub(crate) fn good(&self) -> &str {
        assert_eq!(self.status, 0, "{self:?}");
        &self.output
    }

    /// What it complained of.
    ///
    /// # Panics
    /// Where it ended with another status.
    pub(crate) fn bad(&self, status: i32) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        &self.complaint
    }
}

/// A program in whose environment `kubectl` knows the cluster and the plugin.
pub(crate) fn with_plugin(program: &str) -> Command {
    let path = format!("{}:{}", project().join("target/image").display(), env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command.env("PATH", path).env("KUBECONFIG", run_cluster(&["kubeconfig"]).trim());
    command
}

/// `scripts/cluster` with these arguments.
pub(crate) fn cluster(arguments: &[&str]) -> Command {
    let mut command = Command::new(project().join("scripts/cluster"));
    command.args(arguments);
    command
}

/// Runs `scripts/cluster` to its end.
///
/// # Panics
/// Where it fails, with what it said.
pub(crate) fn run_cluster(arguments: &[&str]) -> String {
    let output = cluster(arguments).output().expect("scripts/cluster can be started");
    said(&output).unwrap_or_else(|error| panic!("scripts/cluster {arguments:?}: {error}"))
}

/// The project's folder.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn said(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
