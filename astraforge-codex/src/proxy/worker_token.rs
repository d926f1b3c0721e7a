//! The layer that lets workers of an installation through, who tell runs apart themselves.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    task::{Context, Poll},
};

use astraforge_core::repository::Secret;
use futures::future::Either;
use http::{HeaderMap, Request, Response, header};
use tower::{Layer, Service};

use super::{
    ProxyBody,
    refusal::Refusal,
    run_token::{Fingerprint, bearer, fingerprint},
};

/// Lets calls through that send `Authorization: Bearer TOKEN`; the header goes no further.
///
/// Without it the answer is 401: its callers are servers, whose own proxies tell Codex that as the last word.
#[derive(Clone)]
pub struct WorkerTokenLayer {
    /// `None` where there is no token, and so nobody who has it.
    token: Option<Fingerprint>,
}

impl WorkerTokenLayer {
    /// A layer that takes this token, which all workers of an installation share. One that is empty admits nobody.
    #[must_use]
    pub fn new(token: &Secret) -> Self {
        let token = token.reveal().trim().as_bytes();
        Self { token: (!token.is_empty()).then(|| fingerprint(token)) }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        self.token.is_some() && bearer(headers).map(fingerprint) == self.token
    }
}

impl fmt::Debug for WorkerTokenLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerTokenLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for WorkerTokenLayer {
    type Service = WorkerTokenAuth<S>;

    fn layer(&self, inner: S) -> WorkerTokenAuth<S> {
        WorkerTokenAuth { inner, layer: self.clone() }
    }
}

/// The service of [`WorkerTokenLayer`].
#[derive(Debug, Clone)]
pub struct WorkerTokenAuth<S> {
    inner: S,
    layer: WorkerTokenLayer,
}

impl<S, B> Service<Request<B>> for WorkerTokenAuth<S>
where
    S: Service<Request<B>, Response = Response<ProxyBody>, Error = Infallible>,
{
    type Response = Response<ProxyBody>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<ProxyBody>, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if !self.layer.admits(request.headers()) {
            let refusal = Refusal::unauthorized(
                "wrong_worker_token",
                "This proxy takes calls of its installation's workers only: set LLM_PROXY_TOKEN there as it is here.",
            );
            return Either::Left(ready(Ok(refusal.into_response())));
        }
        request.headers_mut().remove(header::AUTHORIZATION);
        Either::Right(self.inner.call(request))
    }
}
