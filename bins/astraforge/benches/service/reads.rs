//! Requests read over HTTP, beside a bare handler that asks the database for the same.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use reqwest::Client;

use crate::{
    forge::{Node, fresh},
    peer::Peer,
    samples::{Failure, Section},
};

/// How many callers there are, each with a connection of its own.
const CALLERS: usize = 16;

/// How long they call each time.
const SPAN: Duration = Duration::from_secs(3);

pub(crate) async fn measure(url: &str) -> Result<(), Failure> {
    // Without one the client panics, even for plain HTTP.
    _ = rustls::crypto::ring::default_provider().install_default();
    let database = fresh(url).await?;
    let node = Node::open(&database).await?;
    let key = node.add_key().await?;
    let (request, run) = node.add_request().await?;
    for _ in 0..50 {
        node.tell(request, run).await?;
    }
    let api = Peer::start(&["--serve", &database]).await?;
    let bare = Peer::start(&["--serve-bare", &database]).await?;
    let ours = format!("http://{}/api/requests/{request}/", api.address);
    let theirs = format!("http://{}/requests/{request}", bare.address);
    let (mut samples, mut baseline) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        samples.extend(read(&ours, &key).await?);
        baseline.extend(read(&theirs, &key).await?);
    }
    let section = Section::new("read", "one request with its run of 50 events, read by 16 callers at once");
    section.print("API", "GET /api/requests/ID/", &samples);
    section.print("bare axum", "a handler that runs the same statements", &baseline);
    let rate = |samples: &[Duration]| {
        let n = u32::try_from(samples.len()).unwrap_or(u32::MAX).max(1);
        vec![3 * SPAN / n]
    };
    let section = Section::new("read, mean", "the mean time from answer to answer, all callers together");
    section.print("API", "", &rate(&samples));
    section.print("bare axum", "", &rate(&baseline));
    Ok(())
}

async fn read(url: &str, key: &str) -> Result<Vec<Duration>, Failure> {
    let callers = (0..CALLERS).map(|_| async {
        let client = Client::builder().no_proxy().build()?;
        let end = Instant::now() + SPAN;
        let mut samples = Vec::new();
        while Instant::now() < end {
            let start = Instant::now();
            let answer = client.get(url).header("x-api-key", key).send().await?.error_for_status()?;
            answer.bytes().await?;
            samples.push(start.elapsed());
        }
        Ok::<_, Failure>(samples)
    });
    Ok(try_join_all(callers).await?.concat())
}
