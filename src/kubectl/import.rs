//! `kubectl varve import`: objects for what a repository has, written or made.

use std::{collections::BTreeMap, sync::Arc};

use varve_kubernetes::{
    cluster::{Access, Cluster},
    snapshot::import::{Done, Named, Outcome, Recorded, plan},
};
use varve_repository::{
    Repository,
    id::VolumeId,
    record::{
        snapshot::Root,
        volume::{Presentation, VolumeRecord},
    },
};

use super::{
    arguments::Import,
    output::{text, yaml},
};
use crate::{
    command::{id, snapshot::warn_of_damage},
    failure::Found,
    output::{self, listing},
    repository,
};

/// Begin of the keys by which sidecars tell of an object (`--extra-create-metadata`).
const TOLD: &str = "csi.storage.k8s.io";

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, the repository's, and the cluster's; with `--apply` that some objects could not be made.
pub(super) async fn run(reach: &Access, arguments: Import) -> anyhow::Result<()> {
    let volume = arguments.volume.as_deref().map(id::<VolumeId>).transpose()?;
    let recorded = recorded(&repository::open(&arguments.access).await?).await?;
    let plan =
        plan(&recorded.iter().map(|(_, recorded)| recorded.clone()).collect::<Vec<_>>(), reach.namespace.as_deref());
    let wanted = |handle: Option<&str>| {
        recorded
            .iter()
            .any(|(of, one)| Some(one.handle.as_str()) == handle && volume.is_none_or(|volume| volume == *of))
    };
    for handle in plan.homeless.iter().filter(|handle| wanted(Some(handle))) {
        eprintln!(
            "snapshot {handle} is left out, since it does not say which namespace it is of: --namespace names one"
        );
    }
    let imports: Vec<_> = plan.imports.into_iter().filter(|import| wanted(import.content.handle())).collect();
    if arguments.apply {
        let outcomes = Cluster::connect(reach).await?.import(&imports).await?;
        arguments.output.print(&outcomes, |outcomes, _| show(outcomes))?;
        let failed = outcomes.iter().filter(|outcome| outcome.done == Done::Failed).count();
        if failed > 0 {
            return Err(Found(format!("{failed} of {} snapshots could not be made known", outcomes.len())).into());
        }
        return Ok(());
    }
    let mut documents = Vec::new();
    for import in &imports {
        documents.push(yaml(&import.content)?);
        documents.push(yaml(&import.snapshot)?);
    }
    if documents.is_empty() {
        eprintln!("nothing to write: the repository has no snapshot that is asked for");
        return Ok(());
    }
    output::write(&documents.join("\n---\n"))
}

/// Reads what the repository says of its snapshots, with the volume of each.
async fn recorded(repository: &Repository) -> anyhow::Result<Vec<(VolumeId, Recorded)>> {
    let readable = repository.readable_snapshots().await?;
    warn_of_damage(&readable);
    let volumes = repository.volumes().await?;
    let volumes: BTreeMap<VolumeId, &VolumeRecord> = volumes.iter().map(|volume| (volume.id, volume)).collect();
    let of = |root: &Arc<Root>| {
        let description = &root.description;
        (description.volume, describe(root, volumes.get(&description.volume).copied()))
    };
    Ok(readable.roots.iter().map(of).collect())
}

/// Takes from a root what its objects are made of. Where it does not tell of its claim, the volume's record may, unless that is
/// of a later volume of the same name.
fn describe(root: &Root, volume: Option<&VolumeRecord>) -> Recorded {
    let description = &root.description;
    let volume = volume.filter(|volume| volume.incarnation == description.incarnation);
    let claim = told(&description.parameters, "pvc");
    Recorded {
        handle: description.id.to_string(),
        taken_at: description.created_at,
        block: description.presentation == Presentation::Block,
        snapshot: told(&description.parameters, "volumesnapshot"),
        claim: claim.or_else(|| told(&volume?.parameters, "pvc")),
        volume: description.volume_name.clone(),
    }
}

/// Reads what the sidecars told of an object.
fn told(parameters: &BTreeMap<String, String>, kind: &str) -> Option<Named> {
    let of = |what: &str| parameters.get(&format!("{TOLD}/{kind}/{what}")).filter(|text| !text.is_empty()).cloned();
    Some(Named { namespace: of("namespace")?, name: of("name")? })
}

fn show(outcomes: &[Outcome]) -> String {
    let mut table = listing(["NAMESPACE", "NAME", "HANDLE", "DONE"]);
    for outcome in outcomes {
        let done = match (outcome.done, &outcome.reason) {
            (Done::Made, _) => "made".to_owned(),
            (Done::Known, _) => "known already".to_owned(),
            (Done::Failed, reason) => format!("failed: {}", reason.as_deref().unwrap_or("no reason is told")),
        };
        table.add_row([outcome.namespace.clone(), outcome.name.clone(), outcome.handle.clone(), done]);
    }
    text(&table)
}
