//! The other servers of an installation: calls for a sandbox go to the one that has its machine.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use astraforge_core::{control_plane::ControlPlane, error::ForgeError, id::SandboxId, node::Node};
use axum::{
    body::Body,
    extract::{RawPathParams, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::warn;

use super::{AppState, error::ApiError};

/// Says that a call came from another server: it is not passed on again.
const PASSED_ON: HeaderName = HeaderName::from_static("x-astraforge-passed-on");
/// How long it is believed which servers there are.
const FRESH: Duration = Duration::from_secs(5);
/// What is between two servers only, and not between caller and server.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
];

/// What is known of the other servers. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    http: reqwest::Client,
    known: Arc<Mutex<Option<Known>>>,
}

/// The other servers, as they were once.
#[derive(Debug, Clone)]
struct Known {
    at: Instant,
    nodes: Arc<[Node]>,
}

impl Peers {
    pub(super) fn new(http: reqwest::Client) -> Self {
        Self { http, known: Arc::default() }
    }

    /// The other servers, as of a few seconds ago.
    async fn others(&self, plane: &ControlPlane) -> Result<Arc<[Node]>, ForgeError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.at.elapsed() < FRESH) {
            return Ok(known.nodes);
        }
        let nodes: Arc<[Node]> = plane.other_nodes().await?.into();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Known { at: Instant::now(), nodes: nodes.clone() });
        Ok(nodes)
    }
}

/// Passes a call for a sandbox on to the server that has it, and its answer back, both as they come. What rows answer is
/// answered here when that server cannot be reached.
pub(super) async fn pass_on(
    State(state): State<AppState>,
    segments: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let id = segments.iter().find(|(name, _)| *name == "id").and_then(|(_, id)| id.parse::<SandboxId>().ok());
    let Some(id) = id.filter(|_| !request.headers().contains_key(PASSED_ON)) else { return next.run(request).await };
    let node = match other_with(&state, id).await {
        Ok(Some(node)) => node,
        Ok(None) => return next.run(request).await,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let (parts, body) = request.into_parts();
    let answered_here = is_of_rows(&parts);
    let Some(peers) = state.peers.filter(|_| !node.is_gone(state.forge.journal().clock().now())) else {
        return if answered_here { next.run(Request::from_parts(parts, body)).await } else { unreachable(&node) };
    };
    match send(&peers.http, &node, &parts, body).await {
        Ok(answer) => answer,
        Err(error) => {
            warn!(node = %node.id, url = node.url, %error, "a call cannot be passed on");
            // Its body was none.
            if answered_here { next.run(Request::from_parts(parts, Body::empty())).await } else { unreachable(&node) }
        }
    }
}

/// The other server that has a sandbox.
async fn other_with(state: &AppState, id: SandboxId) -> Result<Option<Node>, ForgeError> {
    let (Some(peers), Some(plane)) = (&state.peers, &state.sandboxes) else { return Ok(None) };
    let others = peers.others(plane).await?;
    if others.is_empty() {
        return Ok(None);
    }
    let node = plane.elsewhere(id).await?;
    Ok(others.iter().find(|other| Some(other.id) == node).cloned())
}

/// Whether rows are enough to answer a call, which has no body then.
fn is_of_rows(parts: &Parts) -> bool {
    let path = parts.uri.path();
    let rest = path.split_once("/sessions/").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, rest)| rest);
    parts.method == Method::GET && matches!(rest, "" | "artifacts/" | "snapshots/")
}

async fn send(http: &reqwest::Client, node: &Node, parts: &Parts, body: Body) -> reqwest::Result<Response> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = between_ends(&parts.headers);
    headers.insert(PASSED_ON, HeaderValue::from_static("1"));
    let call = http.request(parts.method.clone(), format!("{}{path}", node.url.trim_end_matches('/'))).headers(headers);
    let has_body = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|it| parts.headers.contains_key(it));
    let call = if has_body { call.body(reqwest::Body::wrap_stream(body.into_data_stream())) } else { call };
    let answer = call.send().await?;
    let (status, headers) = (answer.status(), between_ends(answer.headers()));
    Ok((status, headers, Body::from_stream(answer.bytes_stream())).into_response())
}

/// The headers that are meant for the other end.
fn between_ends(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in &HOP_BY_HOP {
        kept.remove(name);
    }
    kept
}

fn unreachable(node: &Node) -> Response {
    let detail = format!(
        "The server that has this sandbox, node {}, cannot be reached; it was last seen at {}. Try again when it is \
         there, or make a new sandbox from a snapshot.",
        node.id,
        node.seen_at.format("%Y-%m-%d %H:%M:%S UTC"),
    );
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_code("node_unreachable").into_response()
}
