//! What the seeds found once, told step by step: a seed means something else whenever the simulation changes.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use varve_repository::{Repository, collect::Options, offload::Against, progress::Progress};

use crate::{
    dice::Dice,
    network::{MIRROR, Network, Verb, Weather},
    process::Process,
    trace::Trace,
    volume::Image,
    world::World,
    writer::{self, Task},
};

/// Machines on a store on which nothing goes wrong.
struct Stage {
    world: Arc<World>,
    image: Image,
}

impl Stage {
    fn new() -> Self {
        let trace = Arc::new(Trace::new(false));
        let network = |name| Network::new(name, Dice::new(0, name), Weather::default(), Arc::clone(&trace));
        let networks = ["simulated:///", MIRROR].map(network);
        let world = World::new(0, networks, Arc::clone(&trace), None);
        Self { world, image: Image::new(3) }
    }

    async fn process(&self, name: &str) -> (Arc<Process>, Repository) {
        let process = Process::new(name.into(), Arc::clone(&self.world.trace), Dice::new(0, name), None, 0);
        let repository = self.world.open(&process).await;
        (process, repository)
    }

    /// Changes the image and cuts it.
    fn cut(&mut self, repository: &Repository, name: &str, base: Option<&Task>) -> Task {
        self.image.change(&Dice::new(0, name));
        let cut = self.image.cut(repository.snapshot_id(name, 0));
        self.world.cut(&cut);
        let (against, changes) = match base {
            Some(base) => {
                let base = base.snapshot();
                (Against::Base(base), self.image.changes_since(base).unwrap())
            }
            None => (Against::Nothing, cut.allocated()),
        };
        Task::new("volume", name, cut, against, changes)
    }
}

async fn collect(repository: &Repository) {
    let options = Options { repack: false, ..Options::default() };
    repository.collect(&options, Progress::default(), CancellationToken::new()).await.unwrap();
}

/// A pinned run is deleted between the moment at which a collector sees the intent and the moment at which it reads the run:
/// the snapshot was committed, with a merged run in its place.
#[test]
fn a_pinned_run_that_vanishes_during_a_collection_takes_no_packs_with_it() {
    crate::runtime().block_on(async {
        let mut stage = Stage::new();
        let (write, writer) = stage.process("writer").await;
        let (slow, slow_collector) = stage.process("slow").await;
        let (_, collector) = stage.process("quick").await;

        let first = stage.cut(&writer, "first", None);
        let root = writer.offload(writer::request(&writer, &first, None)).await.unwrap();
        let second = stage.cut(&writer, "second", Some(&first));
        write.hold(Verb::Put, "snapshots/");
        let committing = tokio::spawn({
            let (writer, request) = (writer.clone(), writer::request(&writer, &second, None));
            async move { writer.offload(request).await.unwrap() }
        });
        write.is_held().await;
        collector.delete_snapshot(first.snapshot(), "deleted").await.unwrap();

        let pinned = format!("runs/{}", root.runs[0].id);
        slow.hold(Verb::Get, &pinned);
        let meanwhile = async {
            slow.is_held().await;
            write.let_go();
            let merged = committing.await.unwrap();
            assert!(!merged.runs.contains(&root.runs[0]), "the levels were merged");
            collect(&collector).await;
            assert_eq!(stage.world.network.bucket.lock().unwrap().keys(&pinned), [""; 0]);
            slow.let_go();
        };
        tokio::join!(collect(&slow_collector), meanwhile);
        stage.world.verify("after both collections").await;
        assert_eq!(stage.world.violation(), None);
    });
}
