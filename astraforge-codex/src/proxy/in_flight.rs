//! The layer that bounds how many calls are under way at once.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::{Layer, Service};

use super::{ProxyBody, refusal::Refusal};

/// Answers 503 at once when too many calls are under way; it does not queue.
///
/// tower's own limit gives the place back when the head of the answer is there. Here a call holds its place until its
/// stream ended, because that is what uses sockets and memory.
#[derive(Debug, Clone)]
pub struct InFlightLayer {
    places: Arc<Semaphore>,
}

impl InFlightLayer {
    /// A layer that lets `max` calls through at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))) }
    }
}

impl<S> Layer<S> for InFlightLayer {
    type Service = InFlight<S>;

    fn layer(&self, inner: S) -> InFlight<S> {
        InFlight { inner, places: self.places.clone() }
    }
}

/// The service of [`InFlightLayer`].
#[derive(Debug, Clone)]
pub struct InFlight<S> {
    inner: S,
    places: Arc<Semaphore>,
}

impl<S, B> Service<Request<B>> for InFlight<S>
where
    S: Service<Request<B>, Response = Response<ProxyBody>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<ProxyBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<ProxyBody>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return std::future::ready(Ok(full().into_response())).boxed();
        };
        let answer = self.inner.call(request);
        async move { Ok(answer.await?.map(|body| holding(body, place))) }.boxed()
    }
}

fn full() -> Refusal {
    Refusal::for_now(
        StatusCode::SERVICE_UNAVAILABLE,
        "server_is_overloaded",
        "The LLM proxy is at its limit of calls at once.",
    )
}

/// A body that keeps `held` for as long as it lives.
pub(super) fn holding(body: ProxyBody, held: impl Send + 'static) -> ProxyBody {
    body.map_frame(move |frame| {
        let _held = &held;
        frame
    })
    .boxed_unsync()
}
