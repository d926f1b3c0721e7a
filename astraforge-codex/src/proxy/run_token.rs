//! The layer that knows which run a call belongs to.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use astraforge_core::{
    BoxError,
    id::{RunId, TenantId},
    repository::Secret,
    run::Usage,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use http::{HeaderMap, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use super::{
    ProxyBody,
    in_flight::holding,
    refusal::Refusal,
    sse::{self, is_event_stream},
};

/// Calls that one run may have under way at once, so that one agent can't take all places of the proxy.
const MAX_CALLS_OF_A_RUN: usize = 16;

/// The tokens that are good now. Clones share them; nothing is kept on disk, so none outlives the process.
///
/// ```
/// use astraforge_codex::proxy::RunTokens;
/// use astraforge_core::id::{RunId, TenantId};
///
/// let tokens = RunTokens::default();
/// let token = tokens.mint(RunId::random(), TenantId::new("default"))?;
/// assert!(token.secret().reveal().starts_with("afr_"));
/// drop(token); // from here on it opens nothing
/// # Ok::<(), astraforge_codex::proxy::run_token::NoRandomness>(())
/// ```
#[derive(Clone, Default)]
pub struct RunTokens {
    live: Arc<Mutex<HashMap<Fingerprint, Caller>>>,
}

/// The SHA-256 of a token. Looking up or comparing a hash takes the same time however much of a guess is right.
pub(super) type Fingerprint = [u8; 32];

impl RunTokens {
    /// Makes a token for a run.
    ///
    /// # Errors
    /// [`NoRandomness`] when the system gives no random bytes.
    pub fn mint(&self, run: RunId, tenant: TenantId) -> Result<RunToken, NoRandomness> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| NoRandomness(e.to_string()))?;
        let secret = bytes.iter().fold("afr_".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        let fingerprint = fingerprint(secret.as_bytes());
        let caller = Caller {
            run,
            tenant,
            ended: CancellationToken::new(),
            used: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_CALLS_OF_A_RUN)),
        };
        self.with(|live| live.insert(fingerprint, caller.clone()));
        Ok(RunToken { secret: Secret::new(secret), fingerprint, caller, tokens: self.clone() })
    }

    /// Finds out who sends `Authorization: Bearer …`.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let token = bearer(headers).ok_or_else(|| {
            Refusal::last_word(
                "missing_run_token",
                "This proxy takes model calls of running runs only: send the run's token as `Authorization: Bearer …`.",
            )
        })?;
        self.with(|live| live.get(&fingerprint(token)).cloned()).ok_or_else(ended)
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Fingerprint, Caller>) -> T) -> T {
        act(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for RunTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunTokens").field("live", &self.with(|live| live.len())).finish()
    }
}

/// The system gave no random bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no random bytes for a run token: {0}")]
pub struct NoRandomness(String);

/// The token of one run. Dropping it makes it useless at once, and ends the streams that were opened with it.
pub struct RunToken {
    secret: Secret,
    fingerprint: Fingerprint,
    caller: Caller,
    tokens: RunTokens,
}

impl RunToken {
    /// The text to send as `Authorization: Bearer …`.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What the run's model calls used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.caller.usage()
    }

    /// Makes it useless at once, as dropping does.
    pub fn revoke(self) {}
}

impl Drop for RunToken {
    fn drop(&mut self) {
        self.tokens.with(|live| live.remove(&self.fingerprint));
        self.caller.ended.cancel();
    }
}

impl fmt::Debug for RunToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunToken").field("run", &self.caller.run).finish_non_exhaustive()
    }
}

/// Whose call it is.
#[derive(Debug, Clone)]
pub struct Caller {
    run: RunId,
    tenant: TenantId,
    ended: CancellationToken,
    used: Arc<Mutex<Usage>>,
    places: Arc<Semaphore>,
}

impl Caller {
    /// The run.
    #[must_use]
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The tenant that the run belongs to.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// What the run's calls used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, usage: Usage) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) += usage;
    }
}

/// A request, and whose it is.
#[derive(Debug)]
pub struct Authorized<R> {
    /// Whose it is.
    pub caller: Caller,
    /// The request itself.
    pub request: R,
}

/// Lets calls with a live run token through, and tells the service below whose they are.
///
/// Without one the answer is 400, not 401: Codex tries six times again after a 401, and once is enough to learn that a
/// run is over.
#[derive(Debug, Clone)]
pub struct RunTokenLayer {
    tokens: RunTokens,
}

impl RunTokenLayer {
    /// A layer that takes these tokens.
    #[must_use]
    pub fn new(tokens: RunTokens) -> Self {
        Self { tokens }
    }
}

impl<S> Layer<S> for RunTokenLayer {
    type Service = RunTokenAuth<S>;

    fn layer(&self, inner: S) -> RunTokenAuth<S> {
        RunTokenAuth { inner, tokens: self.tokens.clone() }
    }
}

/// The service of [`RunTokenLayer`].
#[derive(Debug, Clone)]
pub struct RunTokenAuth<S> {
    inner: S,
    tokens: RunTokens,
}

impl<S, B> Service<Request<B>> for RunTokenAuth<S>
where
    S: Service<Authorized<Request<B>>, Response = Response<ProxyBody>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<ProxyBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<ProxyBody>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let admitted = self.tokens.caller(request.headers()).and_then(|caller| {
            let place = caller.places.clone().try_acquire_owned().map_err(|_| too_many())?;
            Ok((caller, place))
        });
        let (caller, place) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => return std::future::ready(Ok(refusal.into_response())).boxed(),
        };
        // It has done its work; nothing below needs to see it.
        request.headers_mut().remove(header::AUTHORIZATION);
        let over = caller.ended.clone();
        let answer = self.inner.call(Authorized { caller, request });
        async move {
            tokio::select! {
                biased;
                () = over.cancelled() => Ok(ended().into_response()),
                answer = answer => Ok(holding_while(answer?, over.clone(), place)),
            }
        }
        .boxed()
    }
}

fn ended() -> Refusal {
    Refusal::last_word(
        "unknown_run_token",
        "This run token is not valid: its run is over, or never was. Model calls are possible only while a run is at work.",
    )
}

fn too_many() -> Refusal {
    Refusal::for_now(
        http::StatusCode::SERVICE_UNAVAILABLE,
        "too_many_calls",
        format!("This run has {MAX_CALLS_OF_A_RUN} model calls under way; wait for one to end."),
    )
}

/// Ends the body when the run is over, with words where the form of the body has room for them.
fn holding_while(
    answer: Response<ProxyBody>,
    over: CancellationToken,
    place: impl Send + 'static,
) -> Response<ProxyBody> {
    let events = is_event_stream(answer.headers().get(header::CONTENT_TYPE));
    answer.map(|body| holding(until(body, over, events), place))
}

fn until(body: ProxyBody, over: CancellationToken, events: bool) -> ProxyBody {
    const MESSAGE: &str = "The run that this answer was for is over.";
    let last_words = move || -> Result<Bytes, BoxError> {
        if events { Ok(sse::failed_after_cut(MESSAGE)) } else { Err(MESSAGE.into()) }
    };
    let stream = async_stream::stream! {
        let mut chunks = std::pin::pin!(body.into_data_stream());
        loop {
            tokio::select! {
                biased;
                () = over.cancelled() => {
                    yield last_words().map(Frame::data);
                    return;
                }
                chunk = chunks.next() => match chunk {
                    Some(chunk) => yield chunk.map(Frame::data),
                    None => return,
                },
            }
        }
    };
    BodyExt::boxed_unsync(StreamBody::new(stream))
}

/// The token of `Authorization: Bearer …`, whose scheme may be spelled in any case.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// The fingerprint of a token as it is sent.
pub(super) fn fingerprint(token: &[u8]) -> Fingerprint {
    Sha256::digest(token).into()
}
