//! Run logs with many watchers: how long after its commit an event is there, and how much memory that takes.

use std::time::{Duration, Instant};

use astraforge_core::id::{RequestId, RunId};
use futures::{StreamExt as _, stream};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

use crate::{
    forge::{Node, fresh},
    peer::Peer,
    samples::{Failure, Section},
};

/// How many watchers there are, over at most [`LOGS`] logs.
const CROWDS: [usize; 4] = [1, 100, 1000, 10_000];
const LOGS: usize = 1000;

/// How many events are told to each crowd.
const EVENTS: usize = 100;

/// How often all of ten thousand are told something.
const TO_ALL: usize = 10;

pub(crate) async fn measure(url: &str) -> Result<(), Failure> {
    let database = fresh(url).await?;
    let node = Node::open(&database).await?;
    let key = node.add_key().await?;
    let mut logs = Vec::new();
    for _ in 0..LOGS {
        logs.push(node.add_request().await?);
    }
    for crowd in CROWDS {
        let watched = &logs[..crowd.min(LOGS)];
        let api = Peer::start(&["--serve", &database]).await?;
        let idle = api.memory()?;
        let of = |n: usize| stream_of(watched[n % watched.len()].0, &key);
        let mut arrivals = gather(&api.address, crowd, of).await?;
        let mut delays = Vec::new();
        for n in 0..EVENTS {
            let (request, run) = watched[n * 7 % watched.len()];
            let n_watchers = crowd / watched.len();
            delays.extend(told(&node, request, run, &mut arrivals, n_watchers).await?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let memory = api.memory()?;
        // One after the other: both together are more files than a process may have open.
        drop((arrivals, api));

        let bare = Peer::start(&["--serve-bare", &database]).await?;
        let n_watchers = crowd / watched.len();
        let mut arrivals = gather(&bare.address, n_watchers, |_| "GET /stream".to_owned()).await?;
        let mut baseline = Vec::new();
        for _ in 0..EVENTS {
            baseline.extend(emitted(&bare.address, &mut arrivals, n_watchers).await?);
        }
        let others = gather(&bare.address, crowd - n_watchers, |_| "GET /stream".to_owned()).await?;
        let bare_memory = bare.memory()?;
        drop(others);
        let section = Section::new(
            format!("{crowd} watchers"),
            "from an event's commit to each watcher of its log, over up to 1,000 logs",
        );
        section.print("run logs", "GET /api/runs/ID/logs/stream", &delays);
        section.print("bare axum", "as many on a broadcast channel as watch one log, no rows", &baseline);
        let section = Section::new(format!("{crowd} watchers, memory"), "what the process of the server takes");
        section.print_sizes("run logs", "with all of them", &[memory]);
        section.print_sizes("bare axum", "with as many", &[bare_memory]);
        section.print_sizes("before", "run logs without any", &[idle]);
    }
    all_of_one(&node, &database, &key, logs[0]).await
}

/// Ten thousand watch one log.
async fn all_of_one(node: &Node, database: &str, key: &str, log: (RequestId, RunId)) -> Result<(), Failure> {
    const CROWD: usize = 10_000;
    let api = Peer::start(&["--serve", database]).await?;
    let mut watchers = gather(&api.address, CROWD, |_| stream_of(log.0, key)).await?;
    let mut ours = Vec::new();
    for _ in 0..TO_ALL {
        ours.extend(told(node, log.0, log.1, &mut watchers, CROWD).await?.into_iter().max());
    }
    let memory = api.memory()?;
    drop((watchers, api));
    let bare = Peer::start(&["--serve-bare", database]).await?;
    let mut watchers = gather(&bare.address, CROWD, |_| "GET /stream".to_owned()).await?;
    let mut theirs = Vec::new();
    for _ in 0..TO_ALL {
        theirs.extend(emitted(&bare.address, &mut watchers, CROWD).await?.into_iter().max());
    }
    let section = Section::new("10,000 of one log", "from an event's commit to the last of ten thousand watchers");
    section.print("run log", "GET /api/runs/ID/logs/stream", &ours);
    section.print("bare axum", "a broadcast channel, no rows", &theirs);
    let section = Section::new("10,000 of one log, memory", "what the process of the server takes");
    section.print_sizes("run log", "", &[memory]);
    section.print_sizes("bare axum", "", &[bare.memory()?]);
    Ok(())
}

fn stream_of(request: RequestId, key: &str) -> String {
    format!("GET /api/runs/{request}/logs/stream?follow=1 HTTP/1.1\r\nx-api-key: {key}")
}

/// Writes an event, and tells how long after that each watcher had it.
async fn told(
    node: &Node,
    request: RequestId,
    run: RunId,
    arrivals: &mut mpsc::UnboundedReceiver<Instant>,
    n_watchers: usize,
) -> Result<Vec<Duration>, Failure> {
    node.tell(request, run).await?;
    arrived(Instant::now(), arrivals, n_watchers).await
}

async fn emitted(
    address: &str,
    arrivals: &mut mpsc::UnboundedReceiver<Instant>,
    n_watchers: usize,
) -> Result<Vec<Duration>, Failure> {
    let mut socket = TcpStream::connect(address).await?;
    let head = format!("POST /emit HTTP/1.1\r\nhost: {address}\r\ncontent-length: 128\r\n\r\n");
    socket.write_all(&[head.as_bytes(), &[b'x'; 128]].concat()).await?;
    let mut answer = BufReader::new(socket).lines();
    answer.next_line().await?.ok_or("no answer")?;
    arrived(Instant::now(), arrivals, n_watchers).await
}

async fn arrived(
    since: Instant,
    arrivals: &mut mpsc::UnboundedReceiver<Instant>,
    n: usize,
) -> Result<Vec<Duration>, Failure> {
    let mut delays = Vec::with_capacity(n);
    for _ in 0..n {
        let arrival = tokio::time::timeout(Duration::from_secs(30), arrivals.recv()).await?;
        // What arrived before the writer had its answer was there at once.
        delays.push(arrival.ok_or("a stream ended")?.saturating_duration_since(since));
    }
    Ok(delays)
}

/// Opens streams, waits until each has begun and is silent, and tells from then on when an event arrives on any of them.
async fn gather(
    address: &str,
    n_streams: usize,
    request: impl Fn(usize) -> String,
) -> Result<mpsc::UnboundedReceiver<Instant>, Failure> {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let opened = stream::iter((0..n_streams).map(|n| open(address, request(n)))).buffer_unordered(64);
    let mut opened = std::pin::pin!(opened);
    while let Some(stream) = opened.next().await {
        let (mut lines, writer) = stream?;
        let arrived = arrived.clone();
        tokio::spawn(async move {
            let _open = writer;
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("data:") && arrived.send(Instant::now()).is_err() {
                    break;
                }
            }
        });
    }
    // What was there before.
    while tokio::time::timeout(Duration::from_millis(1500), arrivals.recv()).await.is_ok() {}
    Ok(arrivals)
}

async fn open(address: &str, request: String) -> Result<(Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf), Failure> {
    let (reader, mut writer) = TcpStream::connect(address).await?.into_split();
    let request = if request.contains("HTTP/1.1") { request } else { format!("{request} HTTP/1.1") };
    writer.write_all(format!("{request}\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
    let mut lines = BufReader::with_capacity(512, reader).lines();
    let status = lines.next_line().await?.ok_or("the server hung up")?;
    if !status.contains(" 200 ") {
        return Err(format!("the server answered {status}").into());
    }
    Ok((lines, writer))
}
