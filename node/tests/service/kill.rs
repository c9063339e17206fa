//! A process that stages and publishes is killed at any moment, and the next one finishes or undoes what it had begun.
//!
//! The process that is killed is this test program itself, told by its environment to be so.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use tonic::Status;
use varve_node::pool::Kind;

use crate::fixture::{Claim, Node, Site};

/// Names the site to the process that is to be killed.
const SITE: &str = "VARVE_TEST_KILLED_AT";
const ROUNDS: usize = 10;
/// A program that the killed process had started, mkfs, may hold the device for a while.
const ATTEMPTS: usize = 200;

/// Stages, publishes and takes back, again and again, and says so after every step.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_is_killed() {
    let Some(path) = env::var_os(SITE) else { return };
    let site = Site::at(&PathBuf::from(path), Kind::Xfs).await;
    let node = site.start().await;
    println!("step: started");
    for round in 0.. {
        for presentation in ["ext4", "xfs", "block"] {
            let claim = node.create(&format!("{presentation}-{}-{round}", std::process::id()), presentation).await;
            println!("step: created");
            node.stage(&claim).await.expect("staged");
            println!("step: staged");
            for (target, read_only) in targets(&claim) {
                node.publish(&claim, target, read_only).await.expect("published");
                println!("step: published");
            }
            for (target, _) in targets(&claim) {
                node.unpublish(&claim, target).await.expect("unpublished");
                println!("step: unpublished");
            }
            node.unstage(&claim).await.expect("unstaged");
            println!("step: unstaged");
            node.delete(&claim).await.expect("deleted");
            println!("step: deleted");
        }
    }
}

/// Where a volume is published, and whether read-only: a device is so for nobody or for all.
fn targets(claim: &Claim) -> [(&'static str, bool); 2] {
    [("first", claim.block), ("second", true)]
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_5_a_kill_at_any_step_is_made_good_by_asking_again() {
    let site = Site::new(Kind::Xfs).await;
    for round in 0..ROUNDS {
        kill_after(&site, 1 + round * 5);
        let node = site.start().await;
        let volumes: Vec<Claim> = node.agent.volumes().list().iter().map(|volume| claim(&node, volume)).collect();
        assert!(volumes.len() <= 1, "one volume at a time is worked on");
        for claim in &volumes {
            if round % 2 == 0 {
                insist(async || node.stage(claim).await).await;
                for (target, read_only) in targets(claim) {
                    insist(async || node.publish(claim, target, read_only).await.map(drop)).await;
                }
                assert_eq!(node.health(claim).await, []);
            }
            for (target, _) in targets(claim) {
                insist(async || node.unpublish(claim, target).await).await;
            }
            insist(async || node.unstage(claim).await).await;
            node.put_away(claim, &[]).await;
            node.delete(claim).await.expect("deleted");
        }
        assert_eq!(node.devices(), []);
        assert!(!site.path().join("targets/first").exists() && !site.path().join("targets/second").exists());
    }
}

/// Runs the process and kills it once it has said that so many steps are taken: in the middle of the next one.
fn kill_after(site: &Site, steps: usize) {
    let mut child = Command::new(env::current_exe().expect("a program"))
        .args(["kill::the_process_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(SITE, site.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let steps = output.lines().map_while(Result::ok).filter(|line| line.contains("step: ")).take(steps).count();
    child.kill().expect("it runs until it is killed");
    child.wait().expect("it ended");
    assert!(steps > 0, "it had begun");
}

fn claim(node: &Node<'_>, volume: &varve_node::volume::Volume) -> Claim {
    let record = volume.record();
    node.claim(&record.name, record.presentation.as_str())
}

/// Asks again as the kubelet does.
async fn insist(call: impl AsyncFn() -> Result<(), Status>) {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match call().await {
            Ok(()) => return,
            Err(status) => last = Some(status),
        }
        tokio::task::yield_now().await;
    }
    panic!("refused again and again: {last:?}");
}
