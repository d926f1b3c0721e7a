//! The other servers of an installation: calls for a sandbox go to the one that has its machine.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use astraforge_core::{
    control_plane::ControlPlane,
    error::{ForgeError, chain},
    id::{NodeId, SandboxId},
    node::Node,
};
use axum::{
    body::{Body, HttpBody as _},
    extract::{FromRequestParts as _, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::warn;

use super::{
    AppState,
    caller::Authenticated,
    error::ApiError,
    idempotency,
    layers::{CallId, REQUEST_ID},
};

/// Says for which node a call was passed on. It is not passed on again, and whoever else gets it refuses it.
const PASSED_ON: HeaderName = HeaderName::from_static("x-astraforge-passed-on");
/// How long it is believed which servers there are.
const FRESH: Duration = Duration::from_secs(5);
/// How long is waited for an answer that rows could give too.
const SOON: Duration = Duration::from_secs(10);
/// What is between two servers only, and not between caller and server.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
];

/// Marks an answer that another server gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnsweredElsewhere;

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

    /// Ends when a node is gone.
    async fn gone(&self, state: &AppState, plane: &ControlPlane, id: NodeId) {
        loop {
            tokio::time::sleep(FRESH).await;
            let now = state.forge.journal().clock().now();
            // A database that is away tells nothing of it.
            let Ok(others) = self.others(plane).await else { continue };
            if others.iter().all(|node| node.id != id || node.is_gone(now)) {
                return;
            }
        }
    }
}

/// Passes a call for a sandbox on to the server that has it, and its answer back, both as they come. What rows answer is
/// answered here when that server cannot be reached.
pub(super) async fn pass_on(
    State(state): State<AppState>,
    segments: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    // A segment that is not UTF-8 names no sandbox.
    let id = segments.ok().and_then(|segments| {
        segments.iter().find(|(name, _)| *name == "id").and_then(|(_, id)| id.parse::<SandboxId>().ok())
    });
    let (Some(id), Some(peers), Some(plane)) = (id, state.peers.clone(), state.sandboxes.clone()) else {
        return next.run(request).await;
    };
    if let Some(meant) = request.headers().get(PASSED_ON) {
        let own = plane.node().map(|node| node.to_string());
        if meant.to_str().ok() == own.as_deref() {
            return next.run(request).await;
        }
        let detail = "This call was passed on for another server; its address leads here.";
        return ApiError::new(StatusCode::MISDIRECTED_REQUEST, detail).with_code("wrong_node").into_response();
    }
    let (mut parts, body) = request.into_parts();
    let node = match other_with(&state, &peers, &plane, &mut parts, id).await {
        Ok(Some(node)) => node,
        Ok(None) => return next.run(Request::from_parts(parts, body)).await,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let answered_here = is_answered_by_rows(&parts);
    let passed = peers.pass(&state, &plane, &node, &parts, body);
    let passed = if answered_here && parts.method == Method::GET {
        tokio::time::timeout(SOON, passed).await.unwrap_or_else(|_| Err(unreachable(&node)))
    } else {
        passed.await
    };
    match passed {
        Ok(answer) => answer,
        // It has no body.
        Err(_) if answered_here => next.run(Request::from_parts(parts, Body::empty())).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Passes a call on to a node that an answer named, with a body that was read. It is remembered here already, by the key
/// that its caller gave it, so the other server learns of none.
pub(super) async fn pass_to(state: &AppState, id: NodeId, mut parts: Parts, body: Body) -> Result<Response, ApiError> {
    parts.headers.remove(idempotency::KEY);
    let detail = format!("The sandbox is on node {id}, which this server does not reach.");
    let misdirected = || ApiError::new(StatusCode::MISDIRECTED_REQUEST, detail.clone()).with_code("wrong_node");
    let (Some(peers), Some(plane)) = (&state.peers, &state.sandboxes) else { return Err(misdirected()) };
    let others = peers.others(plane).await?;
    let node = others.iter().find(|node| node.id == id && !parts.headers.contains_key(PASSED_ON));
    peers.pass(state, plane, node.ok_or_else(misdirected)?, &parts, body).await
}

/// The other server that has a sandbox of the caller's. Whoever is not known, or has no such sandbox, is told so here.
async fn other_with(
    state: &AppState,
    peers: &Peers,
    plane: &ControlPlane,
    parts: &mut Parts,
    id: SandboxId,
) -> Result<Option<Node>, ForgeError> {
    let others = peers.others(plane).await?;
    if others.is_empty() {
        return Ok(None);
    }
    let Ok(Authenticated(caller)) = Authenticated::from_request_parts(parts, state).await else { return Ok(None) };
    match plane.elsewhere(&caller, id).await {
        Ok(node) => Ok(others.iter().find(|other| Some(other.id) == node).cloned()),
        Err(ForgeError::NoSandbox { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether rows are enough to answer a call, which has no body then.
fn is_answered_by_rows(parts: &Parts) -> bool {
    let path = parts.uri.path();
    let rest = path.split_once("/sessions/").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, rest)| rest);
    match parts.method {
        Method::GET => matches!(rest, "" | "artifacts/" | "snapshots/"),
        Method::DELETE => rest.is_empty(),
        _ => false,
    }
}

impl Peers {
    /// Passes a call on, for as long as its node is there.
    async fn pass(
        &self,
        state: &AppState,
        plane: &ControlPlane,
        node: &Node,
        parts: &Parts,
        body: Body,
    ) -> Result<Response, ApiError> {
        let is_gone = node.is_gone(state.forge.journal().clock().now());
        let Some(url) = node.url.as_deref().filter(|_| !is_gone) else { return Err(unreachable(node)) };
        let address = address(url, parts)?;
        tokio::select! {
            sent = self.send(address, node.id, parts, body) => sent.map_err(|error| {
                // Its address holds what the caller asks for.
                warn!(node = %node.id, url, error = chain(&error.without_url()), "a call cannot be passed on");
                unreachable(node)
            }),
            () = self.gone(state, plane, node.id) => Err(unreachable(node)),
        }
    }

    async fn send(&self, address: reqwest::Url, node: NodeId, parts: &Parts, body: Body) -> reqwest::Result<Response> {
        let mut headers = between_ends(&parts.headers);
        // It was compared with this server's own address, which is not the other's.
        headers.remove(header::ORIGIN);
        let call_id = parts.extensions.get::<CallId>().and_then(|CallId(id)| HeaderValue::try_from(id).ok());
        headers.extend(call_id.map(|id| (REQUEST_ID, id)));
        if let Ok(node) = HeaderValue::try_from(node.to_string()) {
            headers.insert(PASSED_ON, node);
        }
        let call = self.http.request(parts.method.clone(), address).headers(headers);
        let is_empty = body.is_end_stream();
        let call = if is_empty { call } else { call.body(reqwest::Body::wrap_stream(body.into_data_stream())) };
        let answer = call.send().await?;
        let (status, headers) = (answer.status(), between_ends(answer.headers()));
        let mut answer = (status, headers, Body::from_stream(answer.bytes_stream())).into_response();
        answer.extensions_mut().insert(AnsweredElsewhere);
        Ok(answer)
    }
}

/// Where a call is passed on to: the very path that came. One that would be read differently leads nowhere.
fn address(url: &str, parts: &Parts) -> Result<reqwest::Url, ApiError> {
    let not_found = || ApiError::not_found("Not found.");
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let base = reqwest::Url::parse(url).map_err(|_| not_found())?;
    let address = reqwest::Url::parse(&format!("{}{path}", url.trim_end_matches('/'))).map_err(|_| not_found())?;
    let expected = format!("{}{}", base.path().trim_end_matches('/'), parts.uri.path());
    if address.path() == expected && address.origin() == base.origin() { Ok(address) } else { Err(not_found()) }
}

/// The headers that are meant for the other end.
fn between_ends(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    for name in named.flat_map(|names| names.split(',')) {
        kept.remove(name.trim());
    }
    for name in &HOP_BY_HOP {
        kept.remove(name);
    }
    kept
}

fn unreachable(node: &Node) -> ApiError {
    let detail = format!(
        "The server that has this sandbox, node {}, cannot be reached; it was last seen at {}. Try again when it is \
         there, or make a new sandbox from a snapshot.",
        node.id,
        node.seen_at.format("%Y-%m-%d %H:%M:%S UTC"),
    );
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_code("node_unreachable")
}
