//! Offloads and restores that share too little memory: all of them end, whoever gives up in between.

mod image;
mod storage;

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use image::{Image, Restored, Seeded, assert_same, init, offload, request, restore};
use storage::Memory;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use varve_repository::{Error, SnapshotState, memory::Memory as Budget, offload::Against, progress::Progress};

/// With the least memory, more offloads and restores than fit in at once all end, and give back all of it.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_finish_with_the_least_memory() {
    let memory = Memory::new();
    let budget = Budget::new(0);
    let repository = init(memory.store()).await.with_memory(budget.clone());
    let mut first = Image::new(6000);
    first.write_noise(0, 6000, &Seeded::new(100));
    let first_root = offload(&repository, "first", &first.cut(), Against::Nothing).await.unwrap();

    // Puts take a while, so that packs pile up.
    memory.delay(Duration::from_millis(20));
    let offloads = (0..20).map(|number| {
        let repository = repository.clone();
        tokio::spawn(async move {
            let (random, mut image) = (Seeded::new(number), Image::new(5000));
            match number % 3 {
                0 => image.write_noise(0, 5000, &random),
                1 => image.write_text(0, 5000, &random),
                // Every window is a read of its own.
                _ => (0..39).for_each(|window| image.write_noise(window * 128, 32.min(5000 - window * 128), &random)),
            }
            let volume = format!("snapshot-{number}");
            let request = request(&repository, &volume, &image.cut(), Against::Nothing);
            if number == 7 {
                request.cancel.cancel();
            }
            (number, image, repository.offload(request).await)
        })
    });
    let restores = (0..20).map(|_| {
        let (repository, root) = (repository.clone(), first_root.clone());
        tokio::spawn(async move { restore(&repository, &root).await.unwrap() })
    });
    // Those that give up while they wait, or hold some of it.
    let given_up = (0..10).map(|number| {
        let (repository, root) = (repository.clone(), first_root.clone());
        tokio::spawn(async move {
            let cancel = CancellationToken::new();
            let target = Arc::new(Restored::new(6000 * 4096));
            let hydrated = repository.hydrate(&root, target, Progress::default(), cancel);
            timeout(Duration::from_millis(15 * number), hydrated).await.ok();
        })
    });
    let all = async {
        futures::join!(
            join_all(offloads.collect::<Vec<_>>()),
            join_all(restores.collect::<Vec<_>>()),
            join_all(given_up.collect::<Vec<_>>())
        )
    };
    let (offloaded, restored, given_up) = timeout(Duration::from_secs(300), all).await.expect("nobody waits for ever");
    given_up.into_iter().for_each(|given_up| given_up.unwrap());
    for bytes in restored {
        assert_same(&bytes.unwrap(), &first.bytes, "what was restored beside others");
    }
    memory.delay(Duration::ZERO);
    for offloaded in offloaded {
        let (number, image, result) = offloaded.unwrap();
        if number == 7 {
            assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
            continue;
        }
        let root = result.unwrap();
        assert!(matches!(repository.snapshot(root.description.id).await.unwrap(), SnapshotState::Committed(_)));
        assert_same(&restore(&repository, &root).await.unwrap(), &image.bytes, "what was offloaded beside others");
    }
    assert_eq!(budget.free(), budget.total());
}
