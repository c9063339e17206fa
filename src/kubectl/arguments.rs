//! The command line of `kubectl varve`: what can be asked of a cluster, and how.

use std::{num::NonZeroUsize, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand};
use varve_kubernetes::cluster::Access;

use super::output::Form;
use crate::{arguments::RepositoryAccess, quantity::Size};

/// Snapshots of Varve in a Kubernetes cluster, by kubectl.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-varve",
    bin_name = "kubectl varve",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Plugin {
    /// Log how things are done, not only what is done.
    #[arg(long, global = true)]
    pub(crate) verbose: bool,

    #[command(flatten)]
    pub(crate) kubectl: Kubectl,
}

/// `varve kubectl …`, `kubectl varve …`.
#[derive(Args, Debug)]
pub(crate) struct Kubectl {
    #[command(flatten)]
    pub(crate) reach: Reach,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, and which namespace of it; named as kubectl names them.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Reach {
    /// The kubeconfig; without it KUBECONFIG and ~/.kube/config are looked at, and in a pod its service account.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// A context of the kubeconfig, where it is not to be the current one.
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) context: Option<String>,

    /// The namespace, where it is not to be the context's.
    #[arg(short, long, value_name = "NAME", global = true)]
    pub(crate) namespace: Option<String>,
}

impl From<&Reach> for Access {
    fn from(reach: &Reach) -> Self {
        let Reach { kubeconfig, context, namespace } = reach.clone();
        Self { kubeconfig, context, namespace }
    }
}

/// How a command answers.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// Form of the answer.
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub(crate) output: Form,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how the driver stands: nodes, room, volumes, snapshots, and what needs a person.
    Status {
        #[command(flatten)]
        answer: Answer,
    },
    /// List snapshots.
    Snapshots {
        /// Only those of this claim.
        claim: Option<String>,
        /// Those of all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        #[command(flatten)]
        answer: Answer,
    },
    /// Take a snapshot of a claim; with --wait, fail unless it can be restored from.
    Snapshot(Snapshot),
    /// Make a claim from a snapshot, also in another namespace than the snapshot's.
    Restore(Restore),
    /// Tell all that is known of a snapshot: of what, when, how much, and whether it can be restored.
    Explain {
        /// The snapshot.
        snapshot: String,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    /// Write objects for what a repository has, so that a cluster can restore it: after a disaster, or in another cluster.
    Import(Import),
}

/// `kubectl varve snapshot`.
#[derive(Args, Debug)]
pub(crate) struct Snapshot {
    /// The claim.
    pub(crate) claim: String,

    /// The snapshot's name; one that says the claim and the time, where none is given.
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// The snapshot's class.
    #[arg(long, value_name = "NAME", default_value = "varve")]
    pub(crate) class: String,

    /// Wait until claims can be made from it, and fail where that does not happen.
    #[arg(long)]
    pub(crate) wait: bool,

    /// How long to wait, as in 10m or 1h30m.
    #[arg(long, value_name = "TIME", default_value = "10m", requires = "wait")]
    pub(crate) timeout: Patience,

    /// Once it is ready, delete older ones of its series but for so many of the newest; itself counts.
    #[arg(long, value_name = "COUNT", requires = "wait")]
    pub(crate) keep: Option<NonZeroUsize>,

    /// The series that it belongs to, of which --keep lets older ones go, as in hourly.
    #[arg(long, value_name = "NAME", default_value = "default", requires = "keep")]
    pub(crate) series: Label,

    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `kubectl varve restore`.
#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The claim that is to be made; one that is there already is not touched.
    pub(crate) claim: String,

    /// The snapshot; with its namespace, where that is not the claim's.
    #[arg(long, value_name = "[NAMESPACE/]SNAPSHOT")]
    pub(crate) from: String,

    /// Size of the claim; that of the snapshot's claim, or of the snapshot, where none is given.
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Option<Size>,

    /// Storage class of the claim; that of the snapshot's claim where none is given.
    #[arg(long, value_name = "NAME")]
    pub(crate) storage_class: Option<String>,

    /// Access mode of the claim, any number of times; those of the snapshot's claim, or ReadWriteOnce, where none is given.
    #[arg(long, value_name = "MODE")]
    pub(crate) access_mode: Vec<String>,

    /// Wait until its volume is there; where the class makes volumes with their first pod, there is nothing to wait for.
    #[arg(long)]
    pub(crate) wait: bool,

    /// How long to wait, as in 10m or 1h30m.
    #[arg(long, value_name = "TIME", default_value = "10m", requires = "wait")]
    pub(crate) timeout: Patience,

    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `kubectl varve import`.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// Only the snapshots of this volume.
    #[arg(long, value_name = "ID")]
    pub(crate) volume: Option<String>,

    /// Make the objects, instead of writing them as YAML.
    #[arg(long)]
    pub(crate) apply: bool,

    #[command(flatten)]
    pub(crate) access: RepositoryAccess,

    /// Form of the answer of --apply.
    #[arg(short, long, value_name = "FORM", default_value = "table", requires = "apply")]
    pub(crate) output: Form,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience(pub(crate) Duration);

impl FromStr for Patience {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
        let bounded = parsed.filter(|time| *time > Duration::ZERO && *time <= Self::MOST);
        bounded
            .map(Self)
            .ok_or_else(|| "expected a time above zero and of a year at the most, as in 90s, 10m or 1h30m".to_owned())
    }
}

impl Patience {
    /// More is a slip of the hand.
    const MOST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
}

/// What can stand as the value of a label (`k8s.io/apimachinery/pkg/util/validation`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label(pub(crate) String);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let inside = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
        let ends = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_alphanumeric())
                && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        };
        if text.len() <= 63 && text.chars().all(inside) && ends(text) {
            return Ok(Self(text.to_owned()));
        }
        Err("expected 1 to 63 letters, digits, -, _ and ., of which the first and the last are letters or digits"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Plugin, clap::Error> {
        Plugin::try_parse_from([&["kubectl-varve"], arguments].concat())
    }

    fn refusal(arguments: &[&str]) -> String {
        let error = parse(arguments).expect_err("the arguments are not usable");
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn the_definition_is_consistent() {
        Plugin::command().debug_assert();
    }

    #[test]
    fn the_cluster_may_be_named_before_and_after_the_command() {
        for arguments in
            [&["-n", "mesh", "--context", "far", "status"][..], &["status", "--namespace=mesh", "--context=far"]]
        {
            let reach = parse(arguments).unwrap().kubectl.reach;
            assert_eq!((reach.namespace.as_deref(), reach.context.as_deref()), (Some("mesh"), Some("far")));
        }
    }

    #[test]
    fn a_snapshot_is_of_the_usual_class_and_waits_ten_minutes() {
        let Command::Snapshot(snapshot) = parse(&["snapshot", "data", "--wait"]).unwrap().kubectl.command else {
            panic!("it is a snapshot")
        };
        assert_eq!((snapshot.class.as_str(), snapshot.timeout.0), ("varve", Duration::from_secs(600)));
        assert_eq!((snapshot.keep, snapshot.series.0.as_str()), (None, "default"));
    }

    #[test]
    fn what_would_do_nothing_is_refused() {
        for (arguments, needed) in [
            (&["snapshot", "data", "--keep", "3"][..], "--wait"),
            (&["snapshot", "data", "--timeout", "3m"], "--wait"),
            (&["snapshot", "data", "--wait", "--series", "hourly"], "--keep"),
            (&["restore", "data"], "--from"),
            (&["import", "-o", "json"], "--apply"),
        ] {
            let text = refusal(arguments);
            assert!(text.contains(needed), "{text}");
        }
    }

    #[test]
    fn bad_values_are_refused_naming_argument_value_and_what_is_right() {
        for (arguments, parts) in [
            (&["snapshot", "data", "--wait", "--timeout", "0s"][..], ["--timeout", "0s", "90s"]),
            (&["snapshot", "data", "--wait", "--timeout", "soon"], ["--timeout", "soon", "1h30m"]),
            (&["snapshot", "data", "--wait", "--keep", "0"], ["--keep", "0", "keep"]),
            (&["snapshot", "data", "--wait", "--keep", "2", "--series", "a b"], ["--series", "a b", "letters"]),
            (&["restore", "data", "--from", "s", "--size", "big"], ["--size", "big", "20GiB"]),
        ] {
            let text = refusal(arguments);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
