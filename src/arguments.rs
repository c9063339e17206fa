//! The command line: what can be asked of the program, and how.
//!
//! Secrets never stand on it: keys are named by file or environment variable, credentials of a store come from the
//! environment or a configuration file that nobody else may read.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{command::repository, kubectl::arguments::Kubectl, output::Output, quantity::Size};

/// A Kubernetes CSI driver with snapshot backups built in.
#[derive(Debug, Parser)]
#[command(name = "varve", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Log how things are done, not only what is done.
    #[arg(long, global = true)]
    pub(crate) verbose: bool,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a whole driver, controller and node, on one Unix socket.
    Standalone(Standalone),
    /// Serve the controller alone; it reaches the nodes over the network.
    Controller(Controller),
    /// Serve a node alone: its volumes to the kubelet, and its agent to controllers.
    Node(Node),
    /// Look at the volumes that a repository knows.
    #[command(subcommand)]
    Volume(Volume),
    /// Look at, make, delete and restore snapshots.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Make, check and measure a repository.
    #[command(subcommand)]
    Repository(RepositoryCommand),
    /// Ask a Kubernetes cluster for snapshots and restores; by the name of kubectl-varve the program is `kubectl varve`.
    Kubectl(Kubectl),
    /// Show the whole thing: write, snapshot, lose the node, restore, compare every file.
    Demo(Demo),
    /// Thaw what the driver that starts this leaves frozen when it is killed.
    #[command(hide = true)]
    Sentinel,
}

/// `varve standalone`.
#[derive(Args, Debug, Default)]
pub(crate) struct Standalone {
    #[command(flatten)]
    pub(crate) serve: Serve,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) kubelet: Kubelet,
}

/// `varve controller`.
#[derive(Args, Debug, Default)]
pub(crate) struct Controller {
    #[command(flatten)]
    pub(crate) serve: Serve,

    /// Find nodes by the Kubernetes API: the headless Service of their agents, in the controller's own namespace if no
    /// other is named.
    #[arg(long, value_name = "[NAMESPACE/]SERVICE")]
    pub(crate) discover_nodes: Option<String>,
}

/// `varve node`.
#[derive(Args, Debug, Default)]
pub(crate) struct Node {
    #[command(flatten)]
    pub(crate) serve: Serve,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) kubelet: Kubelet,

    /// Address to take connections of controllers on, as in 0.0.0.0:7420.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) agent_listen: Option<SocketAddr>,
}

/// What everything that serves is given.
#[derive(Args, Debug, Default)]
pub(crate) struct Serve {
    /// Socket to serve CSI on, as in unix:///run/varve/csi.sock.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,

    /// Address to answer questions about health and metrics on over plain HTTP, as in 127.0.0.1:7421; none if not given.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) http_listen: Option<SocketAddr>,

    /// Where snapshots go, and with which key.
    #[command(flatten)]
    pub(crate) repository: RepositoryAccess,
}

/// Which node it is, and where its volumes are.
#[derive(Args, Debug, Default)]
pub(crate) struct Place {
    /// Name of this node, as Kubernetes knows it.
    #[arg(long, value_name = "NAME")]
    pub(crate) node_id: Option<String>,

    /// Folder on XFS with reflink or on btrfs that is to hold volumes.
    #[arg(long, value_name = "DIR", conflicts_with = "pool_image")]
    pub(crate) pool: Option<PathBuf>,

    /// File that is to hold the pool's own file system; made and formatted when absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) pool_image: Option<PathBuf>,

    /// Size of the pool image when it is made, as in 20GiB.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) pool_size: Option<Size>,

    /// File system of the pool image when it is made.
    #[arg(long, value_name = "KIND")]
    pub(crate) pool_filesystem: Option<PoolFilesystem>,
}

/// How the kubelet gets to know the node's plugin.
#[derive(Args, Debug, Default)]
pub(crate) struct Kubelet {
    /// The kubelet's folder of registrations, as in /var/lib/kubelet/plugins_registry: the node makes itself known there.
    #[arg(long, value_name = "DIR")]
    pub(crate) kubelet_registration: Option<PathBuf>,

    /// Path of the socket of --endpoint as the kubelet sees it, where that is another one.
    #[arg(long, value_name = "PATH", requires = "kubelet_registration")]
    pub(crate) kubelet_endpoint: Option<PathBuf>,
}

/// The file systems that a pool image can be formatted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PoolFilesystem {
    /// XFS with reflink.
    Xfs,
    /// btrfs.
    Btrfs,
}

/// How a repository is reached and opened.
#[derive(Args, Debug, Default)]
pub(crate) struct RepositoryAccess {
    /// The repository, as in file:///srv/varve or s3://bucket/prefix.
    #[arg(long, value_name = "URL", env = "VARVE_REPOSITORY")]
    pub(crate) repository: Option<String>,

    /// File with the master key: 64 hexadecimal digits, readable by its owner alone. Without it the environment
    /// (VARVE_MASTER_KEY_FILE, VARVE_MASTER_KEY) is asked, then the configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Configuration in TOML; arguments win over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// How a command answers.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// Form of the answer.
    #[arg(long, value_name = "FORM", default_value = "table")]
    pub(crate) output: Output,
}

/// `varve volume …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// List the volumes.
    List {
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    /// Show one volume and its snapshots.
    Show {
        /// The volume's id, as in vol-0123….
        id: String,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
}

/// `varve snapshot …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// List the snapshots.
    List {
        /// Only those of this volume.
        #[arg(long, value_name = "ID")]
        volume: Option<String>,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    /// Show one snapshot.
    Show {
        /// The snapshot's id, as in snap-0123….
        id: String,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    /// Ask a running driver for a snapshot of a volume.
    Create {
        /// The volume's id.
        volume: String,
        /// The snapshot's name; asking again by the same name gives the same snapshot.
        #[arg(long)]
        name: String,
        /// The driver's socket, as in unix:///run/varve/csi.sock.
        #[arg(long, value_name = "URL")]
        endpoint: String,
        /// Wait until it is in the repository.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        answer: Answer,
    },
    /// Delete a snapshot from the repository.
    Delete {
        /// The snapshot's id.
        id: String,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    /// Write a snapshot's image into a new file, on any machine that reaches the repository.
    Restore {
        /// The snapshot's id.
        id: String,
        /// The file to make; one that is there already is not touched.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Where something is damaged, leave it zero, list it and go on; the exit status is 1 then.
        #[arg(long)]
        keep_going: bool,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
}

/// `varve repository …`.
#[derive(Debug, Subcommand)]
pub(crate) enum RepositoryCommand {
    /// Make a repository, after checking that the store can hold one.
    Init {
        /// Make a new master key in the file that --key-file names.
        #[arg(long, requires = "key_file")]
        generate_key: bool,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    Check(repository::check::Check),
    Collect(repository::collect::Collect),
    Repair(repository::repair::Repair),
    Copy(repository::copy::Copy),
    /// Count what is in the repository.
    Stats {
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    #[command(subcommand)]
    Key(repository::key::Key),
    /// Make a new master key.
    Keygen {
        /// The file to make, readable by its owner alone.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
}

/// `varve demo`.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Folder whose files fill the volume; a system folder where none is given.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,

    /// Most bytes to take from it.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", allow_hyphen_values = true)]
    pub(crate) limit: Size,

    /// File system of the pools.
    #[arg(long, value_name = "KIND", default_value = "xfs")]
    pub(crate) pool_filesystem: PoolFilesystem,

    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        let error = Arguments::try_parse_from(arguments).expect_err("the arguments are not usable");
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_bad_size_is_refused_naming_argument_value_and_what_is_right() {
        for (value, reason) in [("0", "cannot be zero"), ("-1GiB", "cannot be negative"), ("lots", "not a size")] {
            let text = refusal(&["varve", "standalone", "--pool-size", value]);
            assert!(text.contains("--pool-size") && text.contains(value), "{text}");
            assert!(text.contains(reason) && text.contains("20GiB"), "{text}");
        }
    }

    #[test]
    fn an_unknown_pool_file_system_is_refused_with_those_that_are() {
        let text = refusal(&["varve", "standalone", "--pool-filesystem", "ext4"]);
        assert!(text.contains("ext4") && text.contains("xfs") && text.contains("btrfs"), "{text}");
    }

    #[test]
    fn an_agent_listens_on_an_address_and_a_port() {
        for value in ["7420", "0.0.0.0", "node-1:7420", "0.0.0.0:70000"] {
            let text = refusal(&["varve", "node", "--agent-listen", value]);
            assert!(text.contains("--agent-listen") && text.contains(value), "{text}");
        }
    }

    #[test]
    fn a_controller_has_no_pool() {
        let text = refusal(&["varve", "controller", "--pool", "/a"]);
        assert!(text.contains("--pool"), "{text}");
    }

    #[test]
    fn a_pool_is_a_folder_or_an_image() {
        let text = refusal(&["varve", "standalone", "--pool", "/a", "--pool-image", "/b"]);
        assert!(text.contains("--pool") && text.contains("--pool-image"), "{text}");
    }
}
