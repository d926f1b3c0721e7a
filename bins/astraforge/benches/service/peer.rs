//! The servers that are measured, in processes of their own: the API, and one that does the least.

use std::{convert::Infallible, process::Stdio, sync::Arc};

use astraforge_http::{AppState, router, server::Server};
use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Sse, sse::Event},
    routing::{get, post},
};
use futures::StreamExt as _;
use sqlx::{PgPool, Row as _, postgres::PgPoolOptions};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::broadcast,
};

use crate::{
    forge::{Node, listen},
    samples::Failure,
};

/// A server of this program's.
pub(crate) struct Peer {
    child: Child,
    pub(crate) address: String,
}

impl Peer {
    /// Starts this program again, as the server that `words` name.
    pub(crate) async fn start(words: &[&str]) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(words).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let output = child.stdout.take().ok_or("it has no output")?;
        let address = BufReader::new(output).lines().next_line().await?.ok_or("the server ended")?;
        Ok(Self { child, address })
    }

    /// How much memory it has in use, in bytes.
    pub(crate) fn memory(&self) -> Result<f64, Failure> {
        let pid = self.child.id().ok_or("the server ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kibibytes: u32 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(f64::from(kibibytes) * 1024.0)
    }
}

/// Serves the API on a database.
pub(crate) async fn serve(database: &str) -> Result<(), Failure> {
    let node = Node::open(database).await?;
    let (listener, address) = listen().await?;
    println!("{address}");
    Server::new(listener, router(AppState::builder(node.forge).build())).run().await;
    Ok(())
}

/// Serves what the API is compared with: a stream of events that come from memory, and a request's row as JSON.
pub(crate) async fn serve_bare(database: &str) -> Result<(), Failure> {
    let (listener, address) = listen().await?;
    let (events, _) = broadcast::channel::<Arc<str>>(64);
    let pool = PgPoolOptions::new().max_connections(10).connect(database).await?;
    let app = Router::new()
        .route("/stream", get(bare_stream))
        .route("/emit", post(emit))
        .with_state(events)
        .route("/requests/{id}", get(bare_request).with_state(pool));
    println!("{address}");
    Ok(axum::serve(listener, app.into_make_service()).await?)
}

async fn emit(State(events): State<broadcast::Sender<Arc<str>>>, line: String) {
    _ = events.send(line.into());
}

async fn bare_stream(State(events): State<broadcast::Sender<Arc<str>>>) -> impl IntoResponse {
    let received = tokio_stream::wrappers::BroadcastStream::new(events.subscribe());
    let begin = futures::stream::iter([Ok::<_, Infallible>(Event::default().data("ready"))]);
    let frames = received.filter_map(async |line| line.ok().map(|line| Ok(Event::default().data(line))));
    Sse::new(begin.chain(frames))
}

/// What the API asks its database for one request.
const STATEMENTS: [&str; 6] = [
    "SELECT * FROM links WHERE id = $1",
    "SELECT * FROM merge_requests WHERE request = $1 ORDER BY created_at DESC, position DESC LIMIT 1",
    "SELECT * FROM messages WHERE request = $1 ORDER BY created_at, position",
    "SELECT * FROM attachments WHERE request = $1 ORDER BY position",
    "SELECT * FROM runs WHERE request = $1 ORDER BY created_at, position",
    "SELECT events.* FROM runs JOIN events ON events.run = runs.id WHERE runs.request = $1 ORDER BY events.seq",
];

async fn bare_request(
    State(pool): State<PgPool>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, StatusCode> {
    let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
    let key = headers.get("x-api-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    let found = sqlx::query("SELECT * FROM api_keys WHERE hash = $1 AND is_active").bind(key.to_owned());
    found.fetch_optional(&pool).await.map_err(failed)?;
    for statement in STATEMENTS {
        sqlx::query(statement).bind(&id).fetch_all(&pool).await.map_err(failed)?;
    }
    let row = sqlx::query("SELECT title, prompt, state FROM requests WHERE id = $1").bind(&id);
    let row = row.fetch_one(&pool).await.map_err(failed)?;
    let text = |column: &str| row.get::<String, _>(column);
    Ok(axum::Json(serde_json::json!({ "title": text("title"), "prompt": text("prompt"), "state": text("state") })))
}
