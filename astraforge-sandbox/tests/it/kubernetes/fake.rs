//! A small API server: pods with versions, watches that end, exec over websockets; and every way to misbehave that
//! a test asks for.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use astraforge_core::id::SandboxId;
use astraforge_sandbox::{driver::SandboxDriver, guest::GuestConfig, kubernetes::ClusterConfig};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::process_driver::ProcessDriver;

/// Clones share the server.
#[derive(Clone)]
pub(super) struct FakeCluster {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<Inner>,
    changed: Notify,
    guests: ProcessDriver,
}

/// What the server holds, and how it is to behave.
#[derive(Default)]
pub(super) struct Inner {
    version: u64,
    pub(super) pods: BTreeMap<String, Value>,
    pub(super) policies: BTreeMap<String, Value>,
    events: Vec<(u64, &'static str, String, Value)>,
    /// Answers to the next requests to make a pod, in place of the pod.
    pub(super) create_answers: VecDeque<Answer>,
    /// The statuses that a new pod takes one after the other; by default it runs at once.
    pub(super) lives: Vec<fn(&str) -> Vec<Value>>,
    /// How many events a watch gives before it ends; none means that it goes on.
    pub(super) watch_length: Option<usize>,
    /// How many watches are told that their version is too old.
    pub(super) forgotten: u32,
    /// How many watches were begun.
    pub(super) n_watches: u32,
    /// What the next execs meet; afterwards they reach a guest.
    pub(super) execs: VecDeque<Exec>,
    /// The protocol that is spoken in execs.
    pub(super) protocol: Option<&'static str>,
}

/// An answer that is no pod.
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) message: &'static str,
    /// Whether the pod is made all the same.
    pub(super) makes: bool,
}

/// What an exec meets.
pub(super) enum Exec {
    /// An answer with that code.
    Refused(u16, &'static str),
    /// A guest, until so many bytes have come from it; then the connection breaks.
    CutAfter(usize),
}

impl FakeCluster {
    /// Starts the server, on a port of its own; it ends with the test's runtime.
    pub(super) async fn start() -> Self {
        let shared = Shared { state: Mutex::default(), changed: Notify::new(), guests: ProcessDriver::new() };
        Self { shared: Arc::new(shared) }
    }

    /// How to reach it.
    pub(super) async fn config(&self) -> ClusterConfig {
        let pods = "/api/v1/namespaces/agents/pods";
        let policies = "/apis/networking.k8s.io/v1/namespaces/agents/networkpolicies";
        let app = Router::new()
            .route(pods, get(list).post(create))
            .route(&format!("{pods}/{{name}}"), get(read).delete(delete))
            .route(&format!("{pods}/{{name}}/exec"), get(exec))
            .route(policies, axum::routing::post(create_policy))
            .route(&format!("{policies}/{{name}}"), get(read_policy))
            .with_state(self.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        ClusterConfig::new(format!("http://{address}").parse().unwrap())
    }

    /// How to reach it by way of a gate.
    pub(super) async fn gated(&self) -> (ClusterConfig, Gate) {
        let mut config = self.config().await;
        let server = config.cluster_url.authority().unwrap().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        config.cluster_url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let gate = Gate::default();
        tokio::spawn(gate.clone().pass(listener, server));
        (config, gate)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.state.lock().unwrap()
    }

    /// Makes a pod that somebody else might have made.
    pub(super) fn put(&self, pod: Value) {
        self.lock().change("ADDED", pod);
        self.shared.changed.notify_waiters();
    }
}

/// A way to the server that can be cut.
#[derive(Clone, Default)]
pub(super) struct Gate {
    n_to_drop: Arc<AtomicUsize>,
    /// How long each connection that is to be broken stays open.
    delay: Arc<Mutex<Duration>>,
    open: Arc<Mutex<JoinSet<()>>>,
}

impl Gate {
    /// Breaks all connections, and the next `n` ones.
    pub(super) fn drop_next(&self, n: usize) {
        self.drop_next_after(n, Duration::ZERO);
    }

    /// Breaks all connections, and the next `n` ones when nothing has come of them for that long.
    pub(super) fn drop_next_after(&self, n: usize, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
        self.n_to_drop.store(n, Ordering::SeqCst);
        self.open.lock().unwrap().abort_all();
    }

    /// How many connections are still to be broken.
    pub(super) fn left(&self) -> usize {
        self.n_to_drop.load(Ordering::SeqCst)
    }

    async fn pass(self, listener: TcpListener, server: String) {
        while let Ok((mut client, _)) = listener.accept().await {
            let one_less = |n: usize| n.checked_sub(1);
            if self.n_to_drop.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                let delay = *self.delay.lock().unwrap();
                tokio::time::sleep(delay).await;
                continue;
            }
            let server = server.clone();
            self.open.lock().unwrap().spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    }
}

impl Inner {
    fn change(&mut self, kind: &'static str, mut pod: Value) -> Value {
        self.version += 1;
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if pod["metadata"]["uid"].is_null() {
            pod["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        match kind {
            "DELETED" => drop(self.pods.remove(&name)),
            _ => drop(self.pods.insert(name.clone(), pod.clone())),
        }
        self.events.push((self.version, kind, name, pod.clone()));
        pod
    }
}

/// The status of a pod whose container runs.
pub(super) fn running() -> Value {
    json!({ "phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [container(json!({ "running": {} }))] })
}

/// The status of a pod whose container waits.
pub(super) fn waiting(reason: &str) -> Value {
    json!({ "phase": "Pending", "containerStatuses": [container(json!({ "waiting": { "reason": reason } }))] })
}

fn container(state: Value) -> Value {
    json!({ "name": "codex", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": state })
}

fn status(code: u16, message: &str) -> Response {
    let reason = match code {
        404 => "NotFound",
        409 => "AlreadyExists",
        _ => "Other",
    };
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message });
    let mut response = (StatusCode::from_u16(code).unwrap(), Json(body)).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("0"));
    response
}

async fn create(State(cluster): State<FakeCluster>, Json(mut pod): Json<Value>) -> Response {
    let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
    let answer = cluster.lock().create_answers.pop_front();
    if let Some(answer) = &answer
        && !answer.makes
    {
        return status(answer.code, answer.message);
    }
    let mut state = cluster.lock();
    if state.pods.contains_key(&name) {
        return status(409, "pods already exists");
    }
    pod["status"] = json!({ "phase": "Pending" });
    let made = state.change("ADDED", pod.clone());
    let life = state.lives.last().map_or_else(|| vec![running()], |life| life(&name));
    for status in life {
        let mut next = made.clone();
        next["status"] = status;
        state.change("MODIFIED", next);
    }
    drop(state);
    start_guest(&cluster, &made);
    cluster.shared.changed.notify_waiters();
    match answer {
        Some(answer) => status(answer.code, answer.message),
        None => (StatusCode::CREATED, Json(made)).into_response(),
    }
}

/// Starts the daemon that execs of the pod reach.
fn start_guest(cluster: &FakeCluster, pod: &Value) {
    let Some(id) = sandbox(pod["metadata"]["name"].as_str().unwrap()) else { return };
    let settings = pod["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap().replace("$$", "$");
    let settings: Value = serde_json::from_str(&settings).unwrap();
    let mut config: GuestConfig = serde_json::from_value(settings["guest"].clone()).unwrap();
    config.orphan_timeout = Duration::from_secs(20);
    cluster.shared.guests.start(id, &config);
}

fn sandbox(pod: &str) -> Option<SandboxId> {
    pod.strip_prefix("sandbox-")?.strip_suffix("-sandbox")?.parse().ok()
}

async fn read(State(cluster): State<FakeCluster>, Path(name): Path<String>) -> Response {
    match cluster.lock().pods.get(&name) {
        Some(pod) => Json(pod.clone()).into_response(),
        None => status(404, "pods not found"),
    }
}

async fn delete(State(cluster): State<FakeCluster>, Path(name): Path<String>, body: Bytes) -> Response {
    let parameters: Value = serde_json::from_slice(&body).unwrap();
    let found = cluster.lock().pods.get(&name).cloned();
    let Some(pod) = found else { return status(404, "pods not found") };
    let wanted = &parameters["preconditions"]["uid"];
    if !wanted.is_null() && *wanted != pod["metadata"]["uid"] {
        return status(409, "the UID in the precondition is another");
    }
    if let Some(id) = sandbox(&name) {
        cluster.shared.guests.destroy(id).await.unwrap();
    }
    let gone = cluster.lock().change("DELETED", pod);
    cluster.shared.changed.notify_waiters();
    Json(gone).into_response()
}

async fn list(State(cluster): State<FakeCluster>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    if query.contains_key("watch") {
        return watch(cluster, &query);
    }
    let selector = query.get("labelSelector").cloned().unwrap_or_default();
    let state = cluster.lock();
    let items: Vec<&Value> = state.pods.values().filter(|pod| selects(&selector, pod)).collect();
    let metadata = json!({ "resourceVersion": state.version.to_string() });
    Json(json!({ "kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items })).into_response()
}

fn selects(selector: &str, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    selector.split(',').filter(|it| !it.is_empty()).all(|term| match term.split_once('=') {
        Some((name, value)) => labels[name] == value,
        None => !labels[term].is_null(),
    })
}

fn watch(cluster: FakeCluster, query: &BTreeMap<String, String>) -> Response {
    let from: u64 = query["resourceVersion"].parse().unwrap();
    let name = query["fieldSelector"].strip_prefix("metadata.name=").unwrap().to_owned();
    let length = {
        let mut state = cluster.lock();
        state.n_watches += 1;
        if state.forgotten > 0 {
            state.forgotten -= 1;
            let gone =
                json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version" });
            return Body::from(format!("{}\n", json!({ "type": "ERROR", "object": gone }))).into_response();
        }
        state.watch_length.unwrap_or(usize::MAX)
    };
    let events = futures::stream::unfold((from, 0), move |(seen, n_given)| {
        let (cluster, name) = (cluster.clone(), name.clone());
        async move {
            if n_given == length {
                return None;
            }
            loop {
                let changed = cluster.shared.changed.notified();
                let next = cluster.lock().events.iter().find(|(at, _, of, _)| *at > seen && *of == name).cloned();
                match next {
                    Some((at, kind, _, pod)) => {
                        let line = format!("{}\n", json!({ "type": kind, "object": pod }));
                        return Some((Ok::<_, Infallible>(line), (at, n_given + 1)));
                    }
                    None => changed.await,
                }
            }
        }
    });
    Body::from_stream(events).into_response()
}

async fn exec(
    State(cluster): State<FakeCluster>,
    Path(name): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let (met, protocol) = {
        let mut state = cluster.lock();
        (state.execs.pop_front(), state.protocol.unwrap_or("v5.channel.k8s.io"))
    };
    let limit = match met {
        Some(Exec::Refused(code, message)) => return status(code, message),
        Some(Exec::CutAfter(n_bytes)) => n_bytes,
        None => usize::MAX,
    };
    let Some(id) = sandbox(&name) else { return status(400, "no sandbox") };
    let accept = derive_accept_key(headers[header::SEC_WEBSOCKET_KEY].as_bytes());
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.unwrap();
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        relay(&cluster, id, socket, limit).await;
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(Body::empty())
        .unwrap()
}

/// Joins the websocket's channels with the guest of `id`; after `limit` bytes from the guest, or with its end, the
/// connection breaks without a status.
async fn relay(
    cluster: &FakeCluster,
    id: SandboxId,
    socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    limit: usize,
) {
    let Ok(guest) = cluster.shared.guests.connect(id).await else { return };
    let (mut from_guest, mut to_guest) = tokio::io::split(guest.compat());
    let (mut to_host, mut from_host) = socket.split();
    let inward = async {
        while let Some(Ok(message)) = from_host.next().await {
            if let Message::Binary(bytes) = message
                && bytes.first() == Some(&0)
                && to_guest.write_all(&bytes[1..]).await.is_err()
            {
                break;
            }
        }
    };
    let outward = async {
        let (mut buffer, mut n_sent) = (vec![0; 8192], 0);
        while let Ok(n @ 1..) = from_guest.read(&mut buffer[1..]).await {
            buffer[0] = 1;
            n_sent += n;
            let message = Message::Binary(Bytes::copy_from_slice(&buffer[..=n]));
            if n_sent > limit || to_host.send(message).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

async fn create_policy(State(cluster): State<FakeCluster>, Json(policy): Json<Value>) -> Response {
    let name = policy["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.lock().policies.insert(name, policy.clone());
    (StatusCode::CREATED, Json(policy)).into_response()
}

async fn read_policy(State(cluster): State<FakeCluster>, Path(name): Path<String>) -> Response {
    match cluster.lock().policies.get(&name) {
        Some(policy) => Json(policy.clone()).into_response(),
        None => status(404, "networkpolicies not found"),
    }
}
