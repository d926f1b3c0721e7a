//! Events appended to run logs, beside the statements that this is made of.

use std::time::{Duration, Instant};

use astraforge_adapters::sql::Dialect;
use astraforge_core::{id::RequestId, ports::store::Store as _, testing::samples};
use futures::future::try_join_all;
use sqlx::{Connection as _, Executor as _, PgConnection, Postgres, Row as _};

use crate::{
    forge::{Node, fresh},
    queue::timed,
    samples::{Failure, Section},
};

const ROUNDS: usize = 400;

/// How many write at the same time, each to a log of its own.
const WRITERS: usize = 8;

/// How long they write each time.
const SPAN: Duration = Duration::from_secs(2);

pub(crate) async fn measure(url: &str) -> Result<(), Failure> {
    let database = fresh(url).await?;
    let node = Node::open(&database).await?;
    let mut raw = PgConnection::connect(&database).await?;
    let (ours, theirs) = (node.add_request().await?.0, node.add_request().await?.0);
    let (mut samples, mut baseline) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        samples.push(timed(append(&node, ours)).await?);
        baseline.push(timed(append_raw(&mut raw, theirs)).await?);
    }
    let section = Section::new("append", "an event at the end of a run log");
    section.print("store", "Store::append", &samples);
    section.print("raw SQL", "BEGIN; lock the request; SELECT max(seq); INSERT; COMMIT", &baseline);

    let mut logs = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..WRITERS {
        logs.push(node.add_request().await?.0);
        connections.push(PgConnection::connect(&database).await?);
    }
    let (mut samples, mut baseline) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let writers = logs.iter().map(|log| many(async || append(&node, *log).await));
        samples.push(mean(try_join_all(writers).await?));
        let writers = logs.iter().zip(&mut connections).map(|(log, raw)| async move {
            let (end, mut n) = (Instant::now() + SPAN, 0_u32);
            while Instant::now() < end {
                append_raw(raw, *log).await?;
                n += 1;
            }
            Ok::<_, Failure>(n)
        });
        baseline.push(mean(try_join_all(writers).await?));
    }
    let section = Section::new("append, 8 at once", "the mean time from event to event while eight write");
    section.print("store", "Store::append", &samples);
    section.print("raw SQL", "the same statements on eight connections", &baseline);
    Ok(())
}

async fn many(write: impl AsyncFn() -> Result<(), Failure>) -> Result<u32, Failure> {
    let (end, mut n) = (Instant::now() + SPAN, 0);
    while Instant::now() < end {
        write().await?;
        n += 1;
    }
    Ok(n)
}

fn mean(counts: Vec<u32>) -> Duration {
    SPAN / counts.iter().sum::<u32>().max(1)
}

async fn append(node: &Node, request: RequestId) -> Result<(), Failure> {
    Ok(node.store.append(vec![samples::log(request, "a line of output")]).await.map(drop)?)
}

async fn append_raw(raw: &mut PgConnection, request: RequestId) -> Result<(), Failure> {
    let id = request.to_string();
    let lock = <Postgres as Dialect>::LOCK_REQUEST.ok_or("requests are not locked")?;
    let mut transaction = raw.begin().await?;
    transaction.fetch_all(sqlx::query(lock).bind(&id)).await?;
    let last = sqlx::query("SELECT coalesce(max(seq), 0) AS seq FROM events WHERE request = $1").bind(&id);
    let last: i64 = transaction.fetch_one(last).await?.get("seq");
    let event = samples::log(request, "a line of output");
    let rows = serde_json::json!([[id, last + 1, null, serde_json::to_string(&event.kind)?, 0]]);
    transaction.execute(sqlx::query(<Postgres as Dialect>::INSERT_EVENTS).bind(rows.to_string())).await?;
    Ok(transaction.commit().await?)
}
