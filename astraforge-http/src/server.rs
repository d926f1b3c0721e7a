//! The axum server: a router over the request facade.

use std::{convert::Infallible, fmt, time::Duration};

use astraforge_core::{
    BoxError, cancel::Cancellation, control_plane::ControlPlane, egress::EgressEvent, forge::Forge, id::SandboxId,
    ports::store::Store, run_log::RunLogs,
};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
    response::sse::{Event, KeepAlive, Sse},
    routing::get,
};
use futures::{Stream, StreamExt};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

mod accounts;
mod actions;
mod api_keys;
mod audit;
pub mod auth;
mod body;
mod caller;
mod chat;
mod deepagent;
mod disposition;
mod docs;
mod error;
mod fields;
mod health;
mod idempotency;
mod layers;
mod merge_requests;
mod openapi;
mod paging;
mod path;
mod peers;
mod plans;
mod query;
mod rate_limits;
mod refusals;
mod repository_links;
mod requests;
mod root;
mod run_log;
mod runs;
mod sandboxes;
mod serve;

pub use self::{
    accounts::{Accounts, PasswordError, hash_password},
    health::Need,
    openapi::openapi,
    rate_limits::{NotANetwork, Rate, RateLimits, TrustedProxies},
    serve::Server,
};

/// How many entries of a list are put together at a time.
const AT_A_TIME: usize = 8;

/// What the server's handlers share. Clones share it.
///
/// ```
/// use std::time::Duration;
///
/// use astraforge_http::server::{AppState, router};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # use astraforge_core::{forge::{Forge, Settings}, testing::Spine};
/// # let forge = Forge::new(Spine::new().await.ports(Settings::default()));
/// let state = AppState::builder(forge).with_timeout(Duration::from_secs(30)).build();
/// let app: axum::Router = router(state);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct AppState {
    forge: Forge,
    tails: run_log::Tails,
    sandboxes: Option<ControlPlane>,
    executions: sandboxes::executions::Executions,
    grace: Duration,
    egress_log: Option<sandboxes::egress::EgressLog>,
    link_base: String,
    peers: Option<peers::Peers>,
    accounts: Option<Accounts>,
    rates: rate_limits::Limiters,
    keyed_calls: idempotency::Places,
    limits: Limits,
    shutdown: Cancellation,
    parts: Vec<health::Part>,
}

/// Bounds that keep one caller from taking everything.
#[derive(Debug, Clone, Copy)]
struct Limits {
    body_bytes: usize,
    timeout: Duration,
    keep_alive: Duration,
}

impl Limits {
    /// Comments that keep a silent stream alive.
    fn keep_alive(&self) -> KeepAlive {
        KeepAlive::new().interval(self.keep_alive).text("keep-alive")
    }
}

impl AppState {
    /// Begins to set up a server for `forge`.
    pub fn builder(forge: Forge) -> AppStateBuilder {
        let limits = Limits {
            body_bytes: 16 * 1024 * 1024,
            timeout: Duration::from_secs(120),
            keep_alive: Duration::from_secs(15),
        };
        let tails = run_log::Tails::new(forge.journal().clone());
        let shutdown = Cancellation::never();
        AppStateBuilder(Self {
            forge,
            tails,
            sandboxes: None,
            executions: sandboxes::executions::Executions::default(),
            grace: sandboxes::executions::GRACE,
            egress_log: None,
            link_base: String::new(),
            peers: None,
            accounts: None,
            rates: rate_limits::Limiters::default(),
            keyed_calls: idempotency::Places::default(),
            limits,
            shutdown,
            parts: Vec::new(),
        })
    }

    /// Tells what happens as it happens, until this server is stopped.
    fn live<S: Stream<Item = Event> + Send + 'static>(
        &self,
        events: S,
    ) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<S>> {
        let until = self.shutdown.clone();
        let events = events.take_until(async move { until.cancelled().await }).map(Ok);
        Sse::new(events).keep_alive(self.limits.keep_alive())
    }

    fn forge(&self) -> &Forge {
        &self.forge
    }

    fn accounts(&self) -> Result<&Accounts, error::ApiError> {
        self.accounts.as_ref().ok_or_else(|| error::ApiError::not_found("Nobody logs in here; use an API key."))
    }

    fn store(&self) -> &dyn Store {
        self.forge.store()
    }

    fn logs(&self) -> &RunLogs {
        self.forge.journal().logs()
    }
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Builds an [`AppState`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct AppStateBuilder(AppState);

impl AppStateBuilder {
    /// Serves sandboxes too.
    pub fn with_sandboxes(mut self, sandboxes: ControlPlane) -> Self {
        self.0.sandboxes = Some(sandboxes);
        self
    }

    /// Sets how long a command that ends with its caller outlives the connection of whoever follows it, so that they can come
    /// back; 15 s unless set.
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.0.grace = grace;
        self
    }

    /// Tells of the connections of sandboxes by what `read` says: the last so many of a sandbox, oldest first. Unless set,
    /// what this process remembers is told.
    pub fn with_egress_log(
        mut self,
        read: impl Fn(SandboxId, usize) -> Result<Vec<EgressEvent>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.0.egress_log = Some(sandboxes::egress::EgressLog::new(read));
        self
    }

    /// Sets what links to exported files begin with, such as `https://forge.example.com`; unless set they are paths of
    /// this server.
    pub fn with_link_base(mut self, url: impl Into<String>) -> Self {
        self.0.link_base = url.into();
        self
    }

    /// Passes calls for sandboxes that are with another node on to it, by way of `http`. It has to follow no redirects: what
    /// is passed on has the caller's key.
    pub fn with_peers(mut self, http: reqwest::Client) -> Self {
        self.0.peers = Some(peers::Peers::new(http));
        self
    }

    /// Lets people log in with a name and a password.
    pub fn with_accounts(mut self, accounts: Accounts) -> Self {
        self.0.accounts = Some(accounts);
        self
    }

    /// Takes only so many calls from each; unless set, all are taken.
    pub fn with_rate_limits(mut self, limits: RateLimits) -> Self {
        self.0.rates = limits.into();
        self
    }

    /// Has `/readyz` tell of a part of the server: `probe` says at once, from what is known already, what is wrong with
    /// it. Without one that is [`Need::Needed`] the server is not ready; any other is only told.
    pub fn with_part(
        mut self,
        name: &'static str,
        need: Need,
        probe: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.0.parts.push(health::Part { name, need, probe: std::sync::Arc::new(probe) });
        self
    }

    /// Sets the largest body that is read, in bytes; 16 MiB unless set.
    pub fn with_body_limit(mut self, bytes: usize) -> Self {
        self.0.limits.body_bytes = bytes;
        self
    }

    /// Sets how long a call may take before it is answered with 503; 120 s unless set. Run logs are not bound by it, and
    /// calls that use a sandbox take as long as what is asked for does.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.0.limits.timeout = timeout;
        self
    }

    /// Sets how often a silent run log sends a comment; every 15 s unless set.
    pub fn with_keep_alive(mut self, interval: Duration) -> Self {
        self.0.limits.keep_alive = interval;
        self
    }

    /// Ends all run logs when `shutdown` is called, so that a graceful shutdown need not wait for their readers.
    pub fn with_shutdown(mut self, shutdown: Cancellation) -> Self {
        self.0.shutdown = shutdown;
        self
    }

    /// Builds the state.
    #[must_use]
    pub fn build(self) -> AppState {
        self.0
    }
}

/// What tells whether a process works that takes no other calls: `/healthz` and `/readyz`.
pub fn health_router(state: AppState) -> Router {
    health::routes().with_state(state)
}

/// The server: everything under `/api`, `/healthz` and `/readyz`.
///
/// Paths outside those are left to the caller: the router can be merged with others, or be given a fallback.
pub fn router(state: AppState) -> Router {
    let (routes, _document) = openapi::routes().split_for_parts();
    let (quick, _document) = openapi::quick_sandbox_routes().split_for_parts();
    let (long, _document) = openapi::long_sandbox_routes().split_for_parts();
    let (links, _document) = openapi::link_routes().split_for_parts();
    let deadline = from_fn_with_state(state.clone(), layers::deadline);
    let once = from_fn_with_state(state.clone(), idempotency::once);
    // A call is remembered where it is carried out, so after it was passed on.
    let sandboxes = quick.layer(deadline.clone()).merge(long).layer(once.clone());
    let sandboxes = sandboxes.layer(from_fn_with_state(state.clone(), peers::pass_on));
    let routes = routes
        .layer(deadline) // bounds the handlers
        .layer(once)
        .merge(sandboxes)
        .merge(links)
        .fallback(layers::unknown_path)
        .method_not_allowed_fallback(layers::wrong_method)
        // `body::JsonBody` has its own limit, which answers in JSON.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn(actions::authorize)) // before a sandbox's node is asked or a body is read
        .layer(from_fn_with_state(state.clone(), audit::calls::record)) // sees every answer of a known caller
        .layer(from_fn_with_state(state.clone(), caller::identify)) // for all that asks who calls; counts calls
        .with_state(state.clone());
    let api = ServiceBuilder::new()
        .layer(from_fn(path::canonical)) // first: what follows knows each route by one path only
        .layer(from_fn(layers::observe)) // sees every answer, those of the layers below too
        .layer(from_fn(layers::security_headers))
        .layer(CatchPanicLayer::custom(layers::panicked)) // inside the observer, so that a panic is logged with its path
        .service(routes);
    let metrics = Router::new()
        .route("/metrics", get(sandboxes::metrics::metrics))
        .layer(from_fn(actions::authorize))
        .layer(from_fn_with_state(state.clone(), caller::identify));
    health::routes().merge(metrics).with_state(state).nest_service("/api", api)
}
