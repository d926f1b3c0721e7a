//! From `kill -9` of a worker to the next attempt at each of its runs, by another.

use std::time::{Duration, Instant};

use astraforge_core::{cancel::Cancellation, event::EventKind, id::RunId, ports::store::Store as _, worker::Worker};
use futures::{FutureExt as _, future::join_all};
use tokio::time::timeout;

use crate::{
    forge::{Node, fresh},
    peer::Peer,
    samples::{Failure, Section},
};

/// How many runs a worker that is killed is at.
const RUNS: usize = 10;

/// How many workers are killed, one after the other.
const KILLS: usize = 4;

/// How long the runs of a worker may take to begin, and to begin again.
const PATIENCE: Duration = Duration::from_secs(120);

/// Works on a database until it is killed; its agents never end.
pub(crate) async fn work(database: &str) -> Result<(), Failure> {
    let node = Node::open(database).await?;
    node.agent.play(|_, reporter, _| {
        async move {
            _ = reporter.emit(EventKind::log("at work")).await;
            std::future::pending().await
        }
        .boxed()
    });
    println!("at work");
    let workers = (0..RUNS).map(|_| Worker::new(node.forge.clone()));
    join_all(workers.map(|worker| async move { worker.run(Cancellation::never()).await })).await;
    Ok(())
}

pub(crate) async fn measure(url: &str) -> Result<(), Failure> {
    let mut samples = Vec::new();
    for _ in 0..KILLS {
        let database = fresh(url).await?;
        let node = Node::open(&database).await?;
        let one = Peer::start(&["--work", &database]).await?;
        let mut open = Vec::new();
        for _ in 0..RUNS {
            open.push(node.queue_request().await?.1);
            // So that their leases do not end together.
            tokio::time::sleep(Duration::from_millis(530)).await;
        }
        timeout(PATIENCE, wait_for(&node, &open, 1)).await??;
        let other = Peer::start(&["--work", &database]).await?;
        drop(one);
        samples.extend(timeout(PATIENCE, begun_again(&node, open)).await??);
        drop(other);
    }
    let section =
        Section::new("recovery", "from kill -9 of a worker to the next attempt at its run, with a lease of 15 s");
    section.print("installation", "kill -9; another worker takes over, waits and begins anew", &samples);
    Ok(())
}

/// How long after now each of the runs is begun a second time.
async fn begun_again(node: &Node, mut runs: Vec<RunId>) -> Result<Vec<Duration>, Failure> {
    let (since, mut took) = (Instant::now(), Vec::new());
    while !runs.is_empty() {
        let mut open = Vec::new();
        for run in runs {
            match n_begun(node, run).await? {
                0 | 1 => open.push(run),
                _ => took.push(since.elapsed()),
            }
        }
        runs = open;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(took)
}

async fn wait_for(node: &Node, runs: &[RunId], n: usize) -> Result<(), Failure> {
    for run in runs {
        while n_begun(node, *run).await? < n {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

async fn n_begun(node: &Node, run: RunId) -> Result<usize, Failure> {
    let events = node.store.events_of_run(run).await?;
    Ok(events.iter().filter(|event| event.kind == EventKind::log("at work")).count())
}
