//! From `kill -9` of a worker to the next attempt at each of its runs, by another.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use astraforge_core::{
    cancel::Cancellation,
    event::EventKind,
    id::{RequestId, RunId},
    ports::store::Store as _,
    worker::Worker,
};
use futures::{FutureExt as _, future::join_all};

use crate::{
    forge::{Node, fresh},
    peer::Peer,
    samples::{Failure, Section},
};

/// How many runs a worker that is killed is at.
const RUNS: usize = 10;

/// How many workers are killed, one after the other.
const KILLS: usize = 4;

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
        let mut open = HashMap::new();
        for _ in 0..RUNS {
            let (request, run) = node.queue_request().await?;
            open.insert(request, run);
            // So that their leases do not end together.
            tokio::time::sleep(Duration::from_millis(530)).await;
        }
        wait_for(&node, &open, 1).await?;
        let other = Peer::start(&["--work", &database]).await?;
        drop(one);
        let killed = Instant::now();
        while !open.is_empty() {
            let mut begun = Vec::new();
            for (request, run) in &open {
                if n_begun(&node, *run).await? >= 2 {
                    samples.push(killed.elapsed());
                    begun.push(*request);
                }
            }
            open.retain(|request, _| !begun.contains(request));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(other);
    }
    let section =
        Section::new("recovery", "from kill -9 of a worker to the next attempt at its run, with a lease of 15 s");
    section.print("installation", "kill -9; another worker takes over, waits and begins anew", &samples);
    Ok(())
}

async fn wait_for(node: &Node, runs: &HashMap<RequestId, RunId>, n: usize) -> Result<(), Failure> {
    for run in runs.values() {
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
