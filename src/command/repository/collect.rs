//! `varve repository collect`.

use clap::Args;
use comfy_table::Table;
use varve_repository::{
    collect::{Amount, Garbage, Kind, Options, Plan, Reason, Report},
    progress::Progress,
    store::Requests,
};

use crate::{
    arguments::{Answer, RepositoryAccess},
    failure::Found,
    output::{listing, numbers},
    progress,
    quantity::bytes,
    repository,
    signal::{self, Second},
};

/// Find and delete what no snapshot and no offload refers to, and repack what is mostly dead.
///
/// It may run at any time, on any number of machines, beside everything else.
#[derive(Args, Debug)]
pub(crate) struct Collect {
    /// Say what would be done, and why, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Repack packs of which less than this is alive, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    threshold: u8,
    /// Delete only; repack nothing.
    #[arg(long)]
    no_repack: bool,
    #[command(flatten)]
    access: RepositoryAccess,
    #[command(flatten)]
    answer: Answer,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, `Found` where something could not be read or deleted, and the repository's.
pub(super) async fn run(arguments: Collect) -> anyhow::Result<()> {
    let Collect { dry_run, threshold, no_repack, access, answer } = arguments;
    let repository = repository::open(&access).await?;
    let cancel = signal::watch(Second::Exits)?;
    let counters = Progress::default();
    let options = Options { repack: !no_repack, threshold, node: host(), ..Options::default() };
    if dry_run {
        let plan = repository.plan_collection(&options, counters.clone(), cancel);
        let plan = progress::watch("planning", &counters, plan).await?;
        answer.output.print(&plan, |plan| sum_up_plan(plan, "to delete"))?;
        return verdict(&plan, Amount::default());
    }
    let report = repository.collect(&options, counters.clone(), cancel);
    let report = progress::watch("collecting", &counters, report).await?;
    answer.output.print(&report, sum_up)?;
    verdict(&report.plan, report.locked)
}

/// The machine's name, for people who meet what it is at.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".into() } else { name.trim().into() }
}

fn verdict(plan: &Plan, locked: Amount) -> anyhow::Result<()> {
    if let Some(unreadable) = plan.unreadable.first() {
        return Err(Found(format!(
            "{} objects cannot be read, {} for one ({}): what they might refer to was kept. `varve repository check` says \
             what is hurt",
            plan.unreadable.len(),
            unreadable.object,
            unreadable.reason
        ))
        .into());
    }
    if locked.objects > 0 {
        return Err(Found(format!("the store refused to delete {} objects: they are kept", locked.objects)).into());
    }
    if plan.unsettled {
        return Err(Found("snapshots come and go too fast to tell what is garbage: collect again later".into()).into());
    }
    Ok(())
}

fn sum_up(report: &Report) -> Table {
    let mut table = listing(["", "", "objects", "size"]);
    garbage(&mut table, "deleted", &report.deleted);
    let repacked = &report.repacked;
    if report.locked.objects > 0 {
        row(&mut table, "refused", "by the store: under retention, or no permission", report.locked);
    }
    if repacked.packs > 0 {
        table.add_row([
            "repacked".into(),
            "packs that were mostly dead".into(),
            repacked.packs.to_string(),
            String::new(),
        ]);
        row(&mut table, "  into", "new packs", repacked.into);
        row(&mut table, "  freed", "packs", repacked.freed);
    }
    for skipped in &repacked.skipped {
        table.add_row(["not repacked", &format!("{}: {}", skipped.object, skipped.reason)]);
    }
    if let Some(stopped) = &repacked.stopped {
        table.add_row(["stopped", stopped]);
    }
    found(&mut table, &report.plan);
    cost(&mut table, "cost", report.cost);
    numbers(table, [2, 3])
}

fn sum_up_plan(plan: &Plan, verb: &str) -> Table {
    let mut table = listing(["", "", "objects", "size"]);
    garbage(&mut table, verb, &plan.garbage);
    if !plan.repack.is_empty() {
        let amount = Amount {
            objects: plan.repack.len() as u64,
            bytes: plan.repack.iter().map(|repack| repack.live_bytes).sum(),
        };
        row(&mut table, "to repack", "packs that are mostly dead; about so much is alive", amount);
    }
    found(&mut table, plan);
    cost(&mut table, "cost so far", plan.cost);
    numbers(table, [2, 3])
}

/// What was found besides garbage.
fn found(table: &mut Table, plan: &Plan) {
    row(table, "kept", "packs", plan.kept.packs);
    table.add_row(["", "  of which is alive, about", "", &bytes(plan.kept.live_bytes)]);
    row(table, "", "runs", plan.kept.runs);
    row(table, "", "relocation records", plan.kept.relocations);
    for undecided in &plan.undecided {
        let last = undecided.attempts.last();
        let since = last.map_or_else(String::new, |last| format!(", on {} since {}", last.node, last.started_at));
        row(table, "undecided", &format!("{}{since}", undecided.snapshot), undecided.held);
    }
    if let Some(held) = &plan.repacking {
        row(table, "repacking", &format!("on {} since {}", held.node, held.started_at), held.held);
    }
    for unreadable in &plan.unreadable {
        table.add_row(["unreadable", &format!("{}: {}", unreadable.object, unreadable.reason)]);
    }
    if plan.unsettled {
        table.add_row(["unsettled", "snapshots come and go too fast to tell what is garbage"]);
    }
}

fn garbage(table: &mut Table, verb: &str, garbage: &[Garbage]) {
    if garbage.is_empty() {
        row(table, verb, "nothing", Amount::default());
    }
    for (verb, garbage) in std::iter::once(verb).chain(std::iter::repeat("")).zip(garbage) {
        row(table, verb, &format!("{} {}", kind(garbage.kind), reason(garbage.reason)), garbage.amount);
    }
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Pack => "packs",
        Kind::Run => "runs",
        Kind::Intent => "intents",
        Kind::Relocation => "relocation records",
    }
}

const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Abandoned => "of attempts that were cancelled or lost",
        Reason::Superseded => "that their snapshot does not refer to any more",
        Reason::Unreferenced => "of deleted snapshots, or of attempts that left nothing else",
        Reason::Repacked => "that were repacked before",
        Reason::Decided => "of snapshots that are committed or cancelled",
        Reason::Stale => "of packs that nobody refers to",
    }
}

fn row(table: &mut Table, verb: &str, what: &str, amount: Amount) {
    table.add_row([verb, what, &amount.objects.to_string(), &bytes(amount.bytes)]);
}

fn cost(table: &mut Table, what: &str, cost: Requests) {
    let Requests { list, get, put, delete, read_bytes, written_bytes } = cost;
    let requests = format!("{list} listings, {get} reads, {put} puts, {delete} deletions");
    table.add_row([what, &requests, &cost.total().to_string(), ""]);
    table.add_row(["", "read", "", &bytes(read_bytes)]);
    table.add_row(["", "written", "", &bytes(written_bytes)]);
}

#[cfg(test)]
mod tests {
    use varve_repository::collect::Unreadable;

    use super::*;

    #[test]
    fn a_report_says_what_was_deleted_and_why_and_what_it_cost() {
        let amount = Amount { objects: 3, bytes: 3 << 20 };
        let deleted = vec![
            Garbage { kind: Kind::Pack, reason: Reason::Unreferenced, amount },
            Garbage { kind: Kind::Intent, reason: Reason::Decided, amount },
        ];
        let cost = Requests { list: 1, get: 2, put: 3, delete: 4, ..Requests::default() };
        let report = Report { deleted, cost, ..Report::default() };
        let table = sum_up(&report).to_string();
        for part in ["packs of deleted snapshots", "intents of", "3.0 MiB", "1 listings, 2 reads, 3 puts, 4 deletions"]
        {
            assert!(table.contains(part), "{part}: {table}");
        }
        assert!(verdict(&report.plan, report.locked).is_ok());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["deleted"][0]["reason"], "unreferenced");
        assert_eq!(json["deleted"][0]["objects"], 3);
    }

    #[test]
    fn what_could_not_be_read_or_deleted_fails_the_command() {
        let unreadable = vec![Unreadable { object: "runs/x".into(), reason: "it is missing".into() }];
        let plan = Plan { unreadable, ..Plan::default() };
        let error = verdict(&plan, Amount::default()).unwrap_err().to_string();
        assert!(error.contains("runs/x") && error.contains("it is missing"), "{error}");
        assert!(verdict(&Plan::default(), Amount { objects: 1, bytes: 1 }).is_err());
        assert!(verdict(&Plan { unsettled: true, ..Plan::default() }, Amount::default()).is_err());
        assert!(sum_up_plan(&Plan::default(), "to delete").to_string().contains("nothing"));
    }
}
