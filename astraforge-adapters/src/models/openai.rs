//! OpenAI, and servers that speak its Responses API: requests and answers pass byte for byte.

use std::{fmt, time::Duration};

use astraforge_core::{
    BoxError,
    ports::model::{Endpoint, ModelAnswer, ModelCall, ModelUpstream, UpstreamError},
    repository::Secret,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use reqwest::{
    Client, Proxy, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect,
};

/// Names the upstream in errors.
const NAME: &str = "openai";

/// How many redirects within the same server are followed.
const MAX_REDIRECTS: usize = 3;

/// How to reach an upstream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OpenAiConfig {
    /// The address below which `/responses` and `/models` lie. Default `https://api.openai.com/v1`.
    pub base_url: String,
    /// The key. Without one, every call is [`UpstreamError::NotConfigured`]; a server that needs none ignores any text.
    pub api_key: Option<Secret>,
    /// Sent as `openai-organization`.
    pub organization: Option<String>,
    /// Sent as `openai-project`.
    pub project: Option<String>,
    /// Sent as `openai-beta` where the caller sends none.
    pub beta: Option<String>,
    /// An HTTP proxy to go through, as a URL. Proxy variables of the environment are not looked at.
    pub proxy: Option<String>,
    /// How long connecting may take. Default 10 s.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take, connecting included. Default 300 s: reasoning is slow.
    pub first_byte_timeout: Duration,
    /// How long an answer may pause before it counts as broken off. Default 300 s.
    pub idle_timeout: Duration,
}

impl Default for OpenAiConfig {
    fn default() -> Self {
        Self {
            base_url: "https://api.openai.com/v1".into(),
            api_key: None,
            organization: None,
            project: None,
            beta: None,
            proxy: None,
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// Calls OpenAI or a server that speaks its dialect.
///
/// Only headers on a list go up and come down: request ids, rate limits and `retry-after` are kept, credentials and
/// cookies never cross. A redirect to another server is an error, because the key must not follow it.
///
/// The process must have a TLS crypto provider before the first upstream is made; the library installs none:
///
/// ```
/// use astraforge_adapters::models::{OpenAiConfig, OpenAiUpstream};
/// use astraforge_core::repository::Secret;
///
/// let _already_there = rustls::crypto::ring::default_provider().install_default();
/// let mut config = OpenAiConfig::default();
/// config.api_key = Some(Secret::new("the key"));
/// let upstream = OpenAiUpstream::new(config)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct OpenAiUpstream {
    client: Client,
    base_url: Url,
    /// Sent with every call, the credential among them.
    headers: Option<HeaderMap>,
    beta: Option<HeaderValue>,
    first_byte_timeout: Duration,
    idle_timeout: Duration,
}

impl OpenAiUpstream {
    /// Makes an upstream; nothing is connected yet.
    ///
    /// # Errors
    /// [`UpstreamError::NotConfigured`] for a value that cannot be used, or when the process has no crypto provider.
    pub fn new(config: OpenAiConfig) -> Result<Self, UpstreamError> {
        Ok(Self {
            client: client(&config)?,
            base_url: base_url(&config.base_url)?,
            headers: own_headers(&config)?,
            beta: config.beta.as_deref().map(|beta| header("beta", beta)).transpose()?,
            first_byte_timeout: config.first_byte_timeout,
            idle_timeout: config.idle_timeout,
        })
    }

    fn request(&self, call: ModelCall) -> Result<reqwest::RequestBuilder, UpstreamError> {
        let own = self.headers.as_ref().ok_or_else(|| not_configured("it has no API key; set OPENAI_API_KEY"))?;
        let (request, body) = match call.endpoint {
            Endpoint::Responses => (self.client.post(below(&self.base_url, "responses")), Some(call.body)),
            Endpoint::Models => (self.client.get(below(&self.base_url, "models")), None),
        };
        let mut headers = passed_up(&call.headers);
        if let Some(beta) = &self.beta {
            headers.entry("openai-beta").or_insert_with(|| beta.clone());
        }
        headers.extend(own.clone());
        Ok(match body {
            Some(body) => {
                headers.entry("content-type").or_insert(HeaderValue::from_static("application/json"));
                request.headers(headers).body(body)
            }
            None => request.headers(headers),
        })
    }
}

#[async_trait]
impl ModelUpstream for OpenAiUpstream {
    fn name(&self) -> &str {
        NAME
    }

    /// # Cancel safety
    /// A dropped call closes the connection; the provider may still have begun to work.
    async fn call(&self, call: ModelCall) -> Result<ModelAnswer, UpstreamError> {
        let request = self.request(call)?;
        let answer = match tokio::time::timeout(self.first_byte_timeout, request.send()).await {
            Err(_) => {
                let seconds = self.first_byte_timeout.as_secs();
                return Err(UpstreamError::TimedOut { upstream: NAME.into(), seconds });
            }
            Ok(Err(error)) => return Err(unreachable(error)),
            Ok(Ok(answer)) => answer,
        };
        Ok(ModelAnswer {
            status: answer.status().as_u16(),
            headers: passed_down(answer.headers()),
            body: with_idle_timeout(answer.bytes_stream().boxed(), self.idle_timeout),
        })
    }
}

impl fmt::Debug for OpenAiUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiUpstream").field("base_url", &self.base_url.as_str()).finish_non_exhaustive()
    }
}

fn client(config: &OpenAiConfig) -> Result<Client, UpstreamError> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(not_configured(
            "the process has no TLS crypto provider; \
             call `rustls::crypto::ring::default_provider().install_default()` when it starts",
        ));
    }
    let mut builder = Client::builder()
        .redirect(redirect::Policy::custom(same_server))
        .connect_timeout(config.connect_timeout)
        // Before our own proxy closes it, which is a model's server too.
        .pool_idle_timeout(Duration::from_secs(60))
        .referer(false)
        .no_proxy();
    if let Some(proxy) = &config.proxy {
        builder = builder.proxy(Proxy::all(proxy).map_err(|_| not_configured("its proxy is not a URL"))?);
    }
    builder.build().map_err(|error| UpstreamError::Unreachable { upstream: NAME.into(), source: error.into() })
}

fn same_server(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let server = |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    let stays = attempt.previous().first().is_some_and(|first| server(first) == server(attempt.url()));
    match (stays, attempt.previous().len() > MAX_REDIRECTS) {
        (true, false) => attempt.follow(),
        (true, true) => attempt.error("it redirects in circles"),
        (false, _) => attempt.error("it redirects to another server; set its base URL to the address itself"),
    }
}

fn base_url(text: &str) -> Result<Url, UpstreamError> {
    let url = Url::parse(text).map_err(|_| not_configured("its base URL is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(not_configured("its base URL must begin with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(not_configured("its base URL holds a user name or password; give the key as OPENAI_API_KEY"));
    }
    Ok(url)
}

/// Appends to the path and keeps the query: some hosts want a version there.
fn below(base: &Url, name: &str) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push(name);
    }
    url
}

fn own_headers(config: &OpenAiConfig) -> Result<Option<HeaderMap>, UpstreamError> {
    let Some(key) = &config.api_key else { return Ok(None) };
    let mut headers = HeaderMap::new();
    let mut bearer = header("API key", &format!("Bearer {}", key.reveal()))?;
    bearer.set_sensitive(true);
    headers.insert("authorization", bearer);
    for (name, value) in [("openai-organization", &config.organization), ("openai-project", &config.project)] {
        if let Some(value) = value {
            headers.insert(name, header(name, value)?);
        }
    }
    Ok(Some(headers))
}

fn header(what: &str, value: &str) -> Result<HeaderValue, UpstreamError> {
    HeaderValue::from_str(value)
        .map_err(|_| not_configured(&format!("its {what} has characters that no header may hold")))
}

fn not_configured(reason: &str) -> UpstreamError {
    UpstreamError::NotConfigured { upstream: NAME.into(), reason: reason.into() }
}

fn unreachable(error: reqwest::Error) -> UpstreamError {
    UpstreamError::Unreachable { upstream: NAME.into(), source: error.without_url().into() }
}

/// Picks what may go up. Never a credential: the caller's own token is for us.
fn passed_up(headers: &[(String, String)]) -> HeaderMap {
    const NAMES: [&str; 9] = [
        "accept",
        "content-type",
        "idempotency-key",
        "openai-beta",
        "originator",
        "session-id",
        "thread-id",
        "user-agent",
        "x-client-request-id",
    ];
    const PREFIXES: [&str; 3] = ["x-codex-", "x-openai-", "x-stainless-"];
    let mut passed = HeaderMap::new();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        if !NAMES.contains(&name.as_str()) && !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            passed.append(name, value);
        }
    }
    passed
}

/// Picks what may come down. Lengths and encodings belong to the connection, cookies and organisation to nobody below.
fn passed_down(headers: &HeaderMap) -> Vec<(String, String)> {
    const NAMES: [&str; 8] = [
        "content-type",
        "openai-model",
        "openai-processing-ms",
        "openai-version",
        "retry-after",
        "retry-after-ms",
        "x-request-id",
        "x-should-retry",
    ];
    const PREFIXES: [&str; 3] = ["x-codex-", "x-ratelimit-", "x-openai-"];
    let passes = |name: &str| NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).ok();
    let passed = headers.iter().filter(|(name, _)| passes(name.as_str()));
    passed.filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?))).collect()
}

/// Ends a body in an error when it pauses for too long or breaks off.
fn with_idle_timeout(
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    idle_timeout: Duration,
) -> BoxStream<'static, Result<Bytes, BoxError>> {
    stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(idle_timeout, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(error))) => Some((Err(error.without_url().into()), None)),
            Err(_) => {
                let error = format!("the model's answer paused for more than {} s", idle_timeout.as_secs());
                Some((Err(error.into()), None))
            }
        }
    })
    .boxed()
}
