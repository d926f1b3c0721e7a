//! The layer that says the proxy is alive.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures::future::Either;
use http::{Method, Request, Response};
use tower::{Layer, Service};

use super::{ProxyBody, refusal::json};

/// Answers `GET /healthz` and passes everything else on.
#[derive(Debug, Clone, Copy, Default)]
pub struct HealthLayer;

impl<S> Layer<S> for HealthLayer {
    type Service = Health<S>;

    fn layer(&self, inner: S) -> Health<S> {
        Health { inner }
    }
}

/// The service of [`HealthLayer`].
#[derive(Debug, Clone)]
pub struct Health<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Health<S>
where
    S: Service<Request<B>, Response = Response<ProxyBody>, Error = Infallible>,
{
    type Response = Response<ProxyBody>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<ProxyBody>, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.method() == Method::GET && request.uri().path() == "/healthz" {
            return Either::Left(ready(Ok(json(http::StatusCode::OK, &serde_json::json!({"status": "ok"})))));
        }
        Either::Right(self.inner.call(request))
    }
}
