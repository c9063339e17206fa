//! `kubectl varve restore`: a claim from a snapshot.

use varve_kubernetes::{
    cluster::Cluster,
    snapshot::restore::{Order, Restored},
};

use super::{arguments::Restore, output::text};
use crate::{failure::Usage, output::properties, quantity::Size};

/// Runs the command.
///
/// # Errors
/// `Usage` for a source that is none, and the cluster's.
pub(super) async fn run(cluster: &Cluster, arguments: Restore) -> anyhow::Result<()> {
    let Restore { claim, from, size, storage_class, access_mode, wait, timeout, answer } = arguments;
    let (from_namespace, from) = source(&from, cluster.namespace())?;
    let order = Order {
        namespace: cluster.namespace().to_owned(),
        claim,
        from_namespace,
        from,
        bytes: size.map(Size::bytes),
        class: storage_class,
        access: access_mode,
    };
    let restored = cluster.restore(&order).await?;
    match (wait, restored.at_once) {
        (true, true) => cluster.wait_until_bound(&restored, timeout.0, |reason| eprintln!("not yet: {reason}")).await?,
        (true, false) => {
            let class = &restored.class;
            eprintln!("not waited for: class {class} makes the volume together with the first pod that uses the claim");
        }
        (false, _) => {}
    }
    answer.output.print(&restored, |restored, _| show(restored))
}

/// Takes a snapshot apart from its namespace.
fn source(from: &str, namespace: &str) -> Result<(String, String), Usage> {
    let (namespace, snapshot) = from.split_once('/').unwrap_or((namespace, from));
    if namespace.is_empty() || snapshot.is_empty() || snapshot.contains('/') {
        return Err(Usage(format!("--from is {from:?}: expected a snapshot, or its namespace, a / and a snapshot")));
    }
    Ok((namespace.to_owned(), snapshot.to_owned()))
}

fn show(restored: &Restored) -> String {
    text(&properties([
        ("claim", restored.claim.clone()),
        ("namespace", restored.namespace.clone()),
        ("from", restored.snapshot.clone()),
        ("size", restored.size.clone()),
        ("class", restored.class.clone()),
        ("volume", if restored.at_once { "is being made" } else { "is made with the claim's first pod" }.to_owned()),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_of_the_claims_namespace_unless_it_says_another() {
        let of = |from: &str| source(from, "mesh").map_err(|error| error.to_string());
        assert_eq!(of("monday"), Ok(("mesh".to_owned(), "monday".to_owned())));
        assert_eq!(of("other/monday"), Ok(("other".to_owned(), "monday".to_owned())));
        for bad in ["", "/", "other/", "/monday", "a/b/c"] {
            let error = of(bad).unwrap_err();
            assert!(error.contains("--from") && error.contains("namespace"), "{error}");
        }
    }
}
