//! `kubectl varve explain`: all that is known of one snapshot, of the cluster and, where it can be read, of the repository.

use comfy_table::Table;
use serde::Serialize;
use varve_kubernetes::{cluster::Cluster, snapshot::explain::Explanation};
use varve_repository::{SnapshotState, id::SnapshotId, record::snapshot::Root};

use super::{
    output::{Form, text},
    snapshots::{place, ready},
    warn_of_unread,
};
use crate::{
    arguments::RepositoryAccess,
    command::snapshot::moment,
    failure::chain,
    output::properties,
    quantity::{bytes, millis},
    repository,
};

/// What is known of a snapshot, from both sides.
#[derive(Serialize)]
struct Known {
    #[serde(flatten)]
    cluster: Explanation,
    repository: Recorded,
}

/// What the repository says.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
enum Recorded {
    /// None is configured here.
    NotAsked,
    /// It cannot be read, or not this snapshot of it.
    Unreadable { reason: String },
    /// It has no such snapshot.
    Absent,
    /// It had it.
    Gone { reason: String, deleted_at: jiff::Timestamp },
    /// It has it.
    Committed {
        node: String,
        changed_bytes: u64,
        data_bytes: u64,
        uploaded_bytes: u64,
        offload_millis: u64,
        pause_nanos: u64,
        frozen: bool,
    },
}

impl Recorded {
    fn of(root: &Root) -> Self {
        Self::Committed {
            node: root.description.node.clone(),
            changed_bytes: root.statistics.changed_bytes,
            data_bytes: root.statistics.data_bytes,
            uploaded_bytes: root.statistics.uploaded_bytes,
            offload_millis: root.statistics.offload_millis,
            pause_nanos: root.description.pause_nanos,
            frozen: root.description.frozen,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The cluster's. A repository that cannot be read is told of and is no error: what the cluster knows is shown all the same.
pub(super) async fn run(
    cluster: &Cluster,
    snapshot: &str,
    access: &RepositoryAccess,
    form: Form,
) -> anyhow::Result<()> {
    let explained = cluster.explain(cluster.namespace(), snapshot).await?;
    warn_of_unread(&explained.unread);
    let recorded = match (&explained.snapshot.handle, access.repository.is_some() || access.config.is_some()) {
        (_, false) | (None, true) => Recorded::NotAsked,
        (Some(handle), true) => {
            look_up(access, handle).await.unwrap_or_else(|error| Recorded::Unreadable { reason: chain(&error) })
        }
    };
    let known = contradicted(Known { cluster: explained, repository: recorded });
    form.print(&known, |known, _| text(&show(known)))
}

async fn look_up(access: &RepositoryAccess, handle: &str) -> anyhow::Result<Recorded> {
    let id: SnapshotId = handle.parse()?;
    Ok(match repository::open(access).await?.snapshot(id).await? {
        SnapshotState::Committed(root) => Recorded::of(&root),
        SnapshotState::Absent => Recorded::Absent,
        SnapshotState::Gone(tombstone) => Recorded::Gone { reason: tombstone.reason, deleted_at: tombstone.deleted_at },
    })
}

/// What the repository does not have is not restored, whatever the cluster says.
fn contradicted(mut known: Known) -> Known {
    if let Recorded::Gone { reason, .. } = &known.repository {
        known.cluster.restorable = false;
        known.cluster.condition = Some(format!("it is gone from the repository: {reason}"));
    }
    known
}

fn show(known: &Known) -> Table {
    let Known { cluster, repository } = known;
    let snapshot = &cluster.snapshot;
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    let restorable = if cluster.restorable { "yes" } else { "no" };
    let claim = match (&snapshot.claim, cluster.claim_is_there) {
        (None, _) => "none of this cluster".to_owned(),
        (Some(claim), Some(false)) => format!("{claim}, which is gone"),
        (Some(claim), _) => claim.clone(),
    };
    let node = match (&cluster.node, repository) {
        (_, Recorded::Committed { node, .. }) => node.clone(),
        (node, _) => or_unknown(node),
    };
    let mut table = properties([
        ("snapshot", format!("{}/{}", snapshot.namespace, snapshot.name)),
        (
            "restorable",
            cluster.condition.as_ref().map_or(restorable.to_owned(), |condition| format!("{restorable}: {condition}")),
        ),
        ("ready", ready(snapshot.state).to_owned()),
        ("taken", snapshot.taken_at.map_or("?".to_owned(), moment)),
        ("of claim", claim),
        ("of volume", or_unknown(&cluster.volume)),
        ("on node", node),
        ("size", snapshot.size_bytes.map_or("?".to_owned(), bytes)),
        ("where", place(&snapshot.place)),
        ("class", snapshot.class.clone().unwrap_or_else(|| "none".to_owned())),
        ("handle", or_unknown(&snapshot.handle)),
        ("content", or_unknown(&cluster.content)),
        ("when deleted", when_deleted(cluster.deletion_policy.as_deref()).to_owned()),
    ]);
    for (name, value) in recorded(repository) {
        table.add_row([name.to_owned(), value]);
    }
    for claim in &cluster.claims_from_it {
        table.add_row(["restored as", claim]);
    }
    for event in &cluster.events {
        table.add_row(["event", event]);
    }
    table
}

fn when_deleted(policy: Option<&str>) -> &'static str {
    match policy {
        Some("Delete") => "its data goes, too",
        Some(_) => "its data stays where it is",
        None => "?",
    }
}

fn recorded(repository: &Recorded) -> Vec<(&'static str, String)> {
    match repository {
        Recorded::NotAsked => {
            vec![(
                "repository",
                "not asked: --repository, or VARVE_REPOSITORY, and its key show what it stores".to_owned(),
            )]
        }
        Recorded::Unreadable { reason } => vec![("repository", format!("cannot be read: {reason}"))],
        Recorded::Absent => vec![("repository", "does not have it".to_owned())],
        Recorded::Gone { reason, deleted_at } => {
            vec![("repository", format!("had it until {}: {reason}", moment(*deleted_at)))]
        }
        Recorded::Committed {
            changed_bytes, data_bytes, uploaded_bytes, offload_millis, pause_nanos, frozen, ..
        } => {
            let pause = std::time::Duration::from_nanos(*pause_nanos).as_secs_f64() * 1000.0;
            vec![
                ("repository", "has it".to_owned()),
                ("data", bytes(*data_bytes)),
                ("changed", bytes(*changed_bytes)),
                ("uploaded", format!("{} in {offload_millis} ms", bytes(*uploaded_bytes))),
                ("pause", if *frozen { millis(pause) } else { "none, it was not mounted".to_owned() }),
            ]
        }
    }
}
