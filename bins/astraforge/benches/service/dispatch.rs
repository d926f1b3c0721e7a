//! From a queued request to its agent, on two nodes that have the database in common.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use astraforge_core::{
    cancel::Cancellation,
    ports::{executor::AgentOutcome, store::Store as _},
    worker::Worker,
};
use futures::FutureExt as _;
use sqlx::{Connection as _, Executor as _, PgConnection, postgres::PgListener};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    forge::{Node, fresh},
    samples::{Failure, Section},
};

const ROUNDS: usize = 100;

/// Waits until nothing is at work.
async fn idle(node: &Node) -> Result<(), Failure> {
    while !node.store.running_jobs().await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

pub(crate) async fn measure(url: &str) -> Result<(), Failure> {
    let database = fresh(url).await?;
    let (front, back) = (Node::open(&database).await?, Node::open(&database).await?);
    let (begun, mut beginnings) = mpsc::unbounded_channel();
    let begun = Arc::new(begun);
    back.agent.play(move |_, _, _| {
        _ = begun.send(Instant::now());
        async { Ok(AgentOutcome::default()) }.boxed()
    });
    let (canceller, stop) = Cancellation::pair();
    let worker = Worker::new(back.forge.clone());
    let working = tokio::spawn(async move { worker.run(stop).await });
    let mut listener = PgListener::connect(&database).await?;
    listener.listen("bench").await?;
    let mut raw = PgConnection::connect(&database).await?;

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        front.queue_request().await?;
        let queued = Instant::now();
        let begun = timeout(Duration::from_secs(10), beginnings.recv()).await?.ok_or("the worker ended")?;
        ours.push(begun.saturating_duration_since(queued));
        timeout(Duration::from_secs(10), idle(&front)).await??;
        let told = Instant::now();
        raw.execute("NOTIFY bench").await?;
        listener.recv().await?;
        theirs.push(told.elapsed());
    }
    canceller.cancel();
    working.await?;
    let section = Section::new("dispatch", "from a request's commit to its agent's first moment, on another node");
    section.print("worker", "hint, claim, begin, look at the repository, execute", &ours);
    section.print("NOTIFY", "a hint alone, from its sender to a listener", &theirs);
    Ok(())
}
