//! `kubectl varve`: what users ask of a cluster, with their own rights and by its API alone.
//!
//! The program is kubectl's plugin when it is called by the name `kubectl-varve`, which kubectl looks for, and the same
//! commands are below `varve kubectl`. What Kubernetes knows of is in the crate `varve_kubernetes`; here are arguments and
//! answers.

pub(crate) mod arguments;
mod explain;
mod import;
mod output;
mod restore;
mod snapshot;
mod snapshots;
mod status;

use std::{ffi::OsStr, path::Path};

use jiff::Timestamp;
use varve_kubernetes::cluster::{Access, Cluster};
use varve_repository::seam::Seams;

use self::arguments::{Command, Kubectl};

/// The name by which kubectl calls the program.
const PLUGIN: &str = "kubectl-varve";

/// Tells whether the program was called as kubectl's plugin, by the first of its arguments.
pub(crate) fn is_plugin(program: Option<&OsStr>) -> bool {
    program.and_then(|program| Path::new(program).file_name()).is_some_and(|name| name == PLUGIN)
}

/// Runs the command.
///
/// # Errors
/// `Usage` and the cluster's own for what cannot be done as it is asked for; the cluster's and the repository's.
pub(crate) async fn run(kubectl: Kubectl) -> anyhow::Result<()> {
    let reach = Access::from(&kubectl.reach);
    match kubectl.command {
        Command::Status { answer } => status::run(&Cluster::connect(&reach).await?, answer.output).await,
        Command::Snapshots { claim, all_namespaces, answer } => {
            let cluster = Cluster::connect(&reach).await?;
            snapshots::run(&cluster, claim.as_deref(), all_namespaces, answer.output).await
        }
        Command::Snapshot(order) => snapshot::run(&Cluster::connect(&reach).await?, order).await,
        Command::Restore(order) => restore::run(&Cluster::connect(&reach).await?, order).await,
        Command::Explain { snapshot, access, answer } => {
            explain::run(&Cluster::connect(&reach).await?, &snapshot, &access, answer.output).await
        }
        // Without --apply there need be no cluster.
        Command::Import(order) => import::run(&reach, order).await,
    }
}

/// The present moment.
fn now() -> Timestamp {
    Seams::system().clock.now()
}

/// Says what could not be looked at.
fn warn_of_unread(unread: &[String]) {
    for reason in unread {
        eprintln!("not looked at: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_makes_the_plugin() {
        for (program, plugin) in [
            (Some("kubectl-varve"), true),
            (Some("/usr/local/bin/kubectl-varve"), true),
            (Some("./kubectl-varve"), true),
            (Some("varve"), false),
            (Some("/kubectl-varve/varve"), false),
            (None, false),
        ] {
            assert_eq!(is_plugin(program.map(OsStr::new)), plugin, "{program:?}");
        }
    }
}
