//! The typed client: one method a route, and run logs that resume by themselves.

use std::{fmt, time::Duration};

use astraforge_core::{
    id::{ApiKeyId, MergeRequestId, RepositoryLinkId, RequestId, RunId},
    repository::Secret,
    request::{Prompt, change_set::Digest},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Url;
use serde::{Serialize, de::DeserializeOwned};

mod error;
mod logs;
mod pages;
mod remote;
mod retry;
mod sandboxes;
mod sse;

pub use self::{error::ClientError, logs::LogOf, pages::Entries, remote::RemoteSandbox, sandboxes::GrepQuery};

use crate::wire::{
    api_key::{ApiKeyView, MintedApiKey, NewApiKey},
    change_set::ChangeSetView,
    chat::{ApproveBody, Approved, ChatBody},
    merge_request::MergeRequestView,
    outcome::{Cancelled, Health, Queued},
    plan::{PlanBody, PlanView},
    repository_link::{NewRepositoryLink, RepositoryLinkPatch, RepositoryLinkView},
    request::{ExecuteBody, NewRequest, RequestView},
    run::{RunDetail, RunSummary},
};

/// Talks to an AstraForge server. Clones share connections.
///
/// Calls are tried up to three times when the server can't be reached, or answers 502, 503 or 504. Those that change
/// something have a key of their own then (`Idempotency-Key`), by which the server carries them out once; they are not sent
/// again after a failure that the server itself tells of, unless it says that nothing was begun, and 429 is waited out.
/// Commands that are waited for, and bodies that come as a stream, are sent once, without a key. Redirects are not followed,
/// so that the API key goes nowhere else.
///
/// A program that makes one must have installed a `rustls` crypto provider, even for a server without TLS:
///
/// ```
/// use astraforge_http::{Client, client::ClientError, wire::request::NewRequest};
/// use futures::TryStreamExt;
/// # use astraforge_core::{access::{ApiKey, Role}, id::{ApiKeyId, UserId}};
/// # use astraforge_core::{forge::{Forge, Settings}, ports::store::Store, testing::{Spine, samples}, worker::Worker};
/// # use astraforge_http::{AppState, router};
///
/// # async fn serve() -> (String, String, astraforge_core::id::RepositoryLinkId) {
/// #     let spine = Spine::new().await;
/// #     let (key, hash) = astraforge_http::mint_api_key().unwrap();
/// #     spine.store.add_api_key(ApiKey { hash, ..samples::api_key() }).await.unwrap();
/// #     let forge = Forge::new(spine.ports(Settings::default()));
/// #     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
/// #     let url = format!("http://{}", listener.local_addr().unwrap());
/// #     let app = router(AppState::builder(forge.clone()).build());
/// #     tokio::spawn(async move { astraforge_http::server::Server::new(listener, app).run().await });
/// #     let worker = Worker::new(forge);
/// #     tokio::spawn(async move { worker.run(astraforge_core::cancel::Cancellation::never()).await });
/// #     (url, key.reveal().to_owned(), spine.link.id)
/// # }
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # let (url, key, project) = serve().await;
/// // Once, in `main`; an error says that there is one already.
/// rustls::crypto::ring::default_provider().install_default().ok();
///
/// let client = Client::new(&url, key)?;
/// let request = client.submit(&NewRequest::new(project, "Cache the loader results".parse()?)).await?;
/// let mut log = client.logs(request.id, 0);
/// while let Some(event) = log.try_next().await? {
///     println!("{} {:?}", event.seq, event.kind);
/// }
/// let change = client.diff(request.id).await?;
/// client.approve(request.id, Some(change.digest)).await?;
///
/// let refused = client.plan(request.id).await.unwrap_err();
/// assert_eq!(refused.status().map(|status| status.as_u16()), Some(409));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: Secret,
}

/// How long a call that is no stream may take: longer than the server's own limit, so that the server's answer is seen.
const TIMEOUT: Duration = Duration::from_secs(150);

/// How often a call is tried.
const TRIES: u32 = 3;

impl Client {
    /// A client of the server at `base_url`, such as `http://127.0.0.1:8001`.
    ///
    /// # Errors
    /// [`ClientError::NoCryptoProvider`] when the program has installed none, [`ClientError::BaseUrl`] for what is no
    /// http(s) address, [`ClientError::ApiKey`] for a key that fits in no header.
    pub fn new(base_url: &str, api_key: impl Into<String>) -> Result<Self, ClientError> {
        // reqwest panics in this case.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(ClientError::NoCryptoProvider);
        }
        let base = parse_base(base_url)?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            // Before the server closes it, so that no call that is sent once meets a closed connection.
            .pool_idle_timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("astraforge-http/", env!("CARGO_PKG_VERSION")));
        if base.scheme() == "http" {
            // No certificate will be looked at, so a machine without any will do.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(ClientError::transport("set up"))?;
        Self::with_http_client(base_url, api_key, http)
    }

    /// A client over an HTTP client of one's own, for proxies or certificates of one's own.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), but for the crypto provider.
    pub fn with_http_client(
        base_url: &str,
        api_key: impl Into<String>,
        http: reqwest::Client,
    ) -> Result<Self, ClientError> {
        let key = Secret::new(api_key);
        HeaderValue::from_str(key.reveal()).map_err(|_| ClientError::ApiKey)?;
        Ok(Self { http, base: parse_base(base_url)?, key })
    }

    /// Submits a request.
    ///
    /// # Errors
    /// Those of [`ClientError`], as with every method.
    pub async fn submit(&self, request: &NewRequest) -> Result<RequestView, ClientError> {
        self.send(Method::POST, "api/requests/", request).await
    }

    /// Lists requests, the newest first, without runs.
    pub async fn requests(&self) -> Result<Vec<RequestView>, ClientError> {
        self.get("api/requests/").await
    }

    /// Shows a request with everything about it.
    pub async fn request(&self, id: RequestId) -> Result<RequestView, ClientError> {
        self.get(&format!("api/requests/{id}/")).await
    }

    /// Lets an agent work on a request again.
    pub async fn execute(&self, id: RequestId, body: &ExecuteBody) -> Result<Queued, ClientError> {
        self.send(Method::POST, &format!("api/requests/{id}/execute/"), body).await
    }

    /// Cancels a request.
    pub async fn cancel_request(&self, id: RequestId) -> Result<Cancelled, ClientError> {
        self.send(Method::POST, &format!("api/requests/{id}/cancel/"), &()).await
    }

    /// Approves the change of a request: the one with that digest, or the one that is current, if `None`.
    pub async fn approve(&self, id: RequestId, digest: Option<Digest>) -> Result<Approved, ClientError> {
        self.send(Method::POST, &format!("api/requests/{id}/approve/"), &ApproveBody { digest }).await
    }

    /// Shows the latest change of a request.
    pub async fn diff(&self, id: RequestId) -> Result<ChangeSetView, ClientError> {
        self.get(&format!("api/requests/{id}/diff/")).await
    }

    /// Makes a plan for a request.
    pub async fn plan(&self, request_id: RequestId) -> Result<PlanView, ClientError> {
        self.send(Method::POST, "api/requests/plan/", &PlanBody { request_id }).await
    }

    /// Executes the plan of a request.
    pub async fn execute_plan(&self, request_id: RequestId) -> Result<Queued, ClientError> {
        self.send(Method::POST, "api/requests/execute/", &PlanBody { request_id }).await
    }

    /// Says something about a request; the agent goes on from it.
    pub async fn chat(&self, request_id: RequestId, message: Prompt) -> Result<Queued, ClientError> {
        self.send(Method::POST, "api/chat/", &ChatBody { request_id, message }).await
    }

    /// Approves like [`approve`](Self::approve), by the route that belongs to the conversation.
    pub async fn approve_in_chat(&self, id: RequestId, digest: Option<Digest>) -> Result<Approved, ClientError> {
        self.send(Method::POST, &format!("api/chat/{id}/approve/"), &ApproveBody { digest }).await
    }

    /// Lists runs, the newest first.
    pub async fn runs(&self) -> Result<Vec<RunSummary>, ClientError> {
        self.get("api/runs/").await
    }

    /// Shows a run with everything about it.
    pub async fn run(&self, id: RunId) -> Result<RunDetail, ClientError> {
        self.get(&format!("api/runs/{id}/")).await
    }

    /// Cancels a run.
    pub async fn cancel_run(&self, id: RunId) -> Result<Cancelled, ClientError> {
        self.send(Method::POST, &format!("api/runs/{id}/cancel/"), &()).await
    }

    /// Lists merge requests, the newest first.
    pub async fn merge_requests(&self) -> Result<Vec<MergeRequestView>, ClientError> {
        self.get("api/merge-requests/").await
    }

    /// Shows a merge request with its review.
    pub async fn merge_request(&self, id: MergeRequestId) -> Result<MergeRequestView, ClientError> {
        self.get(&format!("api/merge-requests/{id}/")).await
    }

    /// Lists repository links, the oldest first.
    pub async fn repository_links(&self) -> Result<Vec<RepositoryLinkView>, ClientError> {
        self.get("api/repository-links/").await
    }

    /// Links a repository.
    pub async fn link_repository(&self, link: &NewRepositoryLink) -> Result<RepositoryLinkView, ClientError> {
        self.send(Method::POST, "api/repository-links/", link).await
    }

    /// Shows a repository link.
    pub async fn repository_link(&self, id: RepositoryLinkId) -> Result<RepositoryLinkView, ClientError> {
        self.get(&format!("api/repository-links/{id}/")).await
    }

    /// Changes a repository link.
    pub async fn change_repository_link(
        &self,
        id: RepositoryLinkId,
        patch: &RepositoryLinkPatch,
    ) -> Result<RepositoryLinkView, ClientError> {
        self.send(Method::PATCH, &format!("api/repository-links/{id}/"), patch).await
    }

    /// Unlinks a repository.
    pub async fn unlink_repository(&self, id: RepositoryLinkId) -> Result<(), ClientError> {
        self.delete(&format!("api/repository-links/{id}/")).await
    }

    /// Lists API keys, the newest first.
    pub async fn api_keys(&self) -> Result<Vec<ApiKeyView>, ClientError> {
        self.get("api/api-keys/").await
    }

    /// Makes an API key.
    pub async fn make_api_key(&self, key: &NewApiKey) -> Result<MintedApiKey, ClientError> {
        self.send(Method::POST, "api/api-keys/", key).await
    }

    /// Revokes an API key.
    pub async fn revoke_api_key(&self, id: ApiKeyId) -> Result<(), ClientError> {
        self.delete(&format!("api/api-keys/{id}/")).await
    }

    /// Shows the server's OpenAPI document.
    pub async fn schema(&self) -> Result<serde_json::Value, ClientError> {
        self.get("api/schema/").await
    }

    /// Asks whether the server's process answers.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.get("healthz").await
    }

    /// Asks once whether the server can serve calls; the answer may be "no" with a reason.
    pub async fn ready(&self) -> Result<Health, ClientError> {
        let response = self.call(Method::GET, "readyz").send().await.map_err(ClientError::transport("reach"))?;
        match response.status() {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => read_json(response).await,
            _ => Err(ClientError::refused(response).await),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        Ok(read_again(self.call(Method::GET, path)).await?.0)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let call = self.call(method, path);
        // A unit is no body at all.
        let call = match serde_json::to_vec(body).map_err(ClientError::encode)? {
            null if null == b"null" => call,
            bytes => call.header(http::header::CONTENT_TYPE, "application/json").body(bytes),
        };
        decode(&retry::once(call, TIMEOUT).await?)
    }

    async fn delete(&self, path: &str) -> Result<(), ClientError> {
        retry::once(self.call(Method::DELETE, path), TIMEOUT).await.map(drop)
    }

    fn call(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.open_ended_call(method, path).timeout(TIMEOUT)
    }

    /// A call whose answer may take as long as it likes.
    fn open_ended_call(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        let mut headers = HeaderMap::new();
        if let Ok(mut key) = HeaderValue::from_str(self.key.reveal()) {
            key.set_sensitive(true);
            headers.insert("x-api-key", key);
        }
        self.http.request(method, url).headers(headers)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// Reads a base address; its path ends with a slash, so that paths can be put behind it.
fn parse_base(text: &str) -> Result<Url, ClientError> {
    let mut url: Url = text.parse().map_err(|_| ClientError::BaseUrl { text: text.to_owned() })?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(ClientError::BaseUrl { text: text.to_owned() });
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Carries out a call that only reads, and tries it again when that may help. Returns the headers of the answer too.
async fn read_again<T: DeserializeOwned>(call: reqwest::RequestBuilder) -> Result<(T, HeaderMap), ClientError> {
    let mut wait = Duration::from_millis(200);
    for once in (1..TRIES).filter_map(|_| call.try_clone()) {
        match read_once(once).await {
            Err(error) if error.is_retryable() => tokio::time::sleep(wait).await,
            outcome => return outcome,
        }
        wait *= 2;
    }
    read_once(call).await
}

async fn read_once<T: DeserializeOwned>(call: reqwest::RequestBuilder) -> Result<(T, HeaderMap), ClientError> {
    let response = call.send().await.map_err(ClientError::transport("reach"))?;
    let headers = response.headers().clone();
    Ok((read(response).await?, headers))
}

async fn read<T: DeserializeOwned>(response: reqwest::Response) -> Result<T, ClientError> {
    if response.status().is_success() { read_json(response).await } else { Err(ClientError::refused(response).await) }
}

async fn read_json<T: DeserializeOwned>(response: reqwest::Response) -> Result<T, ClientError> {
    let bytes = response.bytes().await.map_err(ClientError::transport("read the answer of"))?;
    decode(&bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(ClientError::decode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_base(text: &str, base: Option<&str>) {
        assert_eq!(parse_base(text).ok().as_ref().map(Url::as_str), base, "{text}");
    }

    #[test]
    fn a_base_address_ends_with_a_slash() {
        check_base("http://127.0.0.1:8001", Some("http://127.0.0.1:8001/"));
        check_base("https://forge.example.org/team?x#y", Some("https://forge.example.org/team/"));
        check_base("ftp://example.org", None);
        check_base("127.0.0.1:8001", None);
        check_base("", None);
    }

    #[test]
    fn a_program_without_a_crypto_provider_is_told_so() {
        // Nothing in this test program installs one.
        assert!(matches!(Client::new("http://127.0.0.1:8001", "k"), Err(ClientError::NoCryptoProvider)));
    }
}
