//! The LLM proxy: the stack, in the order a request meets it, and nothing else.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use astraforge_core::{
    BoxError,
    id::RunId,
    ports::{guest_service::GuestService, model::ModelUpstream, usage::UsageLog},
    repository::Secret,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower::{Layer, Service, ServiceBuilder, util::BoxCloneSyncService};

pub mod ending;
mod guest;
pub mod health;
pub mod in_flight;
mod refusal;
pub mod route;
pub mod run_token;
mod sse;
mod upstream;
pub mod usage;
pub mod worker_token;

pub use run_token::{Authorized, Caller, RunToken, RunTokens};
pub use upstream::Upstream;

/// Bodies that the proxy takes and gives.
pub type ProxyBody = UnsyncBoxBody<Bytes, BoxError>;

/// The proxy as one service of HTTP requests. Every failure is an answer, so it never fails itself.
pub type HttpService = BoxCloneSyncService<Request<ProxyBody>, Response<ProxyBody>, Infallible>;

/// Answers the model calls of runs: `POST /v1/responses`, `GET /v1/models` (both also without `/v1`), `GET /healthz`.
///
/// A caller proves with a [`RunToken`] which run it belongs to; the key of the model's provider is the upstream's own
/// and is never seen here. Answers pass byte for byte. A stream that its upstream does not end gets an end: a
/// `response.failed` event.
///
/// It is a [`tower::Service`] of HTTP requests, so it can be served by hyper, or nested into an axum router with
/// `nest_service`. [`guest_service`](Self::guest_service) serves it to one sandbox.
///
/// ```
/// use std::sync::Arc;
/// use astraforge_codex::LlmProxy;
/// use astraforge_core::ports::model::ModelUpstream;
/// use tower::ServiceExt;
///
/// async fn is_healthy(upstream: Arc<dyn ModelUpstream>) -> bool {
///     let proxy = LlmProxy::builder(upstream).with_max_in_flight(64).build();
///     let request = http::Request::get("/healthz").body(String::new()).expect("a request");
///     let Ok(answer) = proxy.oneshot(request).await;
///     answer.status() == 200
/// }
/// ```
#[derive(Clone)]
pub struct LlmProxy {
    service: HttpService,
    tokens: RunTokens,
}

impl LlmProxy {
    /// Begins a proxy in front of a model.
    #[must_use]
    pub fn builder(upstream: Arc<dyn ModelUpstream>) -> ProxyBuilder {
        ProxyBuilder {
            upstream,
            config: ProxyConfig::default(),
            tokens: RunTokens::default(),
            usage: None,
            layers: Layers::default(),
        }
    }

    /// Wraps a stack of your own. It must check itself who calls: by `tokens`, as [`run_token::RunTokenLayer`] does, or in
    /// another way.
    #[must_use]
    pub fn from_service(service: HttpService, tokens: RunTokens) -> Self {
        Self { service, tokens }
    }

    /// The tokens that it takes.
    #[must_use]
    pub fn tokens(&self) -> &RunTokens {
        &self.tokens
    }

    /// Serves the sandbox of one run: calls with another run's token are refused there.
    #[must_use]
    pub fn guest_service(&self, run: RunId) -> Arc<dyn GuestService> {
        Arc::new(guest::ProxyForRun::new(self.clone(), run))
    }
}

impl<B> Service<Request<B>> for LlmProxy
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ProxyBody>;
    type Error = Infallible;
    type Future = <HttpService as Service<Request<ProxyBody>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.service.call(request.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}

impl fmt::Debug for LlmProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmProxy").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

/// The limits of a proxy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProxyConfig {
    /// Calls that may be under way at once, streams included; one more is answered 503. Default 256.
    pub max_in_flight: usize,
    /// Longest request body in bytes. Default 64 MiB.
    pub max_body: usize,
    /// How long the upstream may take until it begins to answer. Default 180 s.
    pub first_byte_timeout: Duration,
    /// How long a stream may be silent. Default 300 s.
    pub idle_timeout: Duration,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 256,
            max_body: 64 * 1024 * 1024,
            first_byte_timeout: Duration::from_secs(180),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// The default stack over any upstream. Layers read top to bottom in the order a request meets them.
#[must_use]
pub fn default_stack(
    config: &ProxyConfig,
    tokens: RunTokens,
    usage: Option<Arc<dyn UsageLog>>,
    upstream: Arc<dyn ModelUpstream>,
) -> HttpService {
    let stack = ServiceBuilder::new()
        .layer(health::HealthLayer) // outermost: a full proxy is still a healthy one
        .layer(in_flight::InFlightLayer::new(config.max_in_flight)) // sheds before anything is read
        .layer(run_token::RunTokenLayer::new(tokens)) // nobody without a run gets further
        .layer(usage::UsageLayer::new(usage)) // sees what the caller sees
        .layer(route::RouteLayer::new(config.max_body)) // HTTP in, model calls out
        .layer(ending::EndingLayer::new(config.first_byte_timeout, config.idle_timeout)) // every stream ends well
        .service(Upstream::new(upstream)); // its own key inside: no other layer sees it
    BoxCloneSyncService::new(stack)
}

/// The stack of a proxy that is a server of its own, for workers: each has the proxy of its runs before this one, and
/// proves with `token` that it is one. The provider's key then is with nobody else.
#[must_use]
pub fn stack_for_workers(config: &ProxyConfig, token: &Secret, upstream: Arc<dyn ModelUpstream>) -> HttpService {
    let stack = ServiceBuilder::new()
        .layer(health::HealthLayer) // outermost: a full proxy is still a healthy one
        .layer(in_flight::InFlightLayer::new(config.max_in_flight)) // sheds before anything is read
        .layer(worker_token::WorkerTokenLayer::new(token)) // nobody else gets further
        .layer(route::RouteLayer::new(config.max_body)) // HTTP in, model calls out
        .layer(ending::EndingLayer::new(config.first_byte_timeout, config.idle_timeout)) // every stream ends well
        .service(Upstream::new(upstream)); // its own key inside: no other layer sees it
    BoxCloneSyncService::new(stack)
}

/// Puts a proxy together.
#[derive(Debug)]
pub struct ProxyBuilder {
    upstream: Arc<dyn ModelUpstream>,
    config: ProxyConfig,
    tokens: RunTokens,
    usage: Option<Arc<dyn UsageLog>>,
    layers: Layers,
}

/// Wraps a service into one more layer.
type Wrap = Box<dyn FnOnce(HttpService) -> HttpService + Send>;

#[derive(Default)]
struct Layers(Vec<Wrap>);

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} layers", self.0.len())
    }
}

impl ProxyBuilder {
    /// Replaces all limits.
    #[must_use]
    pub fn with_config(mut self, config: ProxyConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets how many calls may be under way at once; one more is answered 503.
    #[must_use]
    pub fn with_max_in_flight(mut self, max: usize) -> Self {
        self.config.max_in_flight = max;
        self
    }

    /// Sets the longest request body, in bytes.
    #[must_use]
    pub fn with_max_body(mut self, bytes: usize) -> Self {
        self.config.max_body = bytes;
        self
    }

    /// Sets how long the upstream may take until it begins to answer.
    #[must_use]
    pub fn with_first_byte_timeout(mut self, timeout: Duration) -> Self {
        self.config.first_byte_timeout = timeout;
        self
    }

    /// Sets how long a stream may be silent.
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout = timeout;
        self
    }

    /// Keeps what runs use.
    #[must_use]
    pub fn with_usage_log(mut self, log: Arc<dyn UsageLog>) -> Self {
        self.usage = Some(log);
        self
    }

    /// Takes the tokens of an existing set instead of one of its own.
    #[must_use]
    pub fn with_tokens(mut self, tokens: RunTokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// Puts a layer of your own around all that was there before.
    #[must_use]
    pub fn with_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<HttpService> + Send + 'static,
        L::Service: Service<Request<ProxyBody>, Response = Response<ProxyBody>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<Request<ProxyBody>>>::Future: Send + 'static,
    {
        self.layers.0.push(Box::new(move |service| BoxCloneSyncService::new(layer.layer(service))));
        self
    }

    /// Builds the proxy.
    #[must_use]
    pub fn build(self) -> LlmProxy {
        let stack = default_stack(&self.config, self.tokens.clone(), self.usage, self.upstream);
        let service = self.layers.0.into_iter().fold(stack, |service, wrap| wrap(service));
        LlmProxy { service, tokens: self.tokens }
    }
}
