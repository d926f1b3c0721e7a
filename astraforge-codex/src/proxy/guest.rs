//! Serves the proxy to the sandbox of one run.

use std::{convert::Infallible, time::Duration};

use astraforge_core::{
    id::RunId,
    ports::guest_service::{GuestService, GuestStream},
};
use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tower::ServiceExt;

use super::{LlmProxy, ProxyBody, refusal::Refusal};

/// How long a connection may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of a request.
const MAX_HEAD: usize = 64 * 1024;

/// The proxy as it is seen from the sandbox of one run.
#[derive(Debug, Clone)]
pub(super) struct ProxyForRun {
    proxy: LlmProxy,
    run: RunId,
}

impl ProxyForRun {
    pub(super) fn new(proxy: LlmProxy, run: RunId) -> Self {
        Self { proxy, run }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<ProxyBody>, Infallible> {
        // A token that found its way here from another run opens nothing, although the proxy itself knows it.
        if let Ok(caller) = self.proxy.tokens().caller(request.headers())
            && caller.run() != self.run
        {
            return Ok(foreign().into_response());
        }
        self.proxy.oneshot(request).await
    }
}

fn foreign() -> Refusal {
    Refusal::last_word("foreign_run_token", "This run token belongs to another run; it is of no use in this sandbox.")
}

#[async_trait]
impl GuestService for ProxyForRun {
    async fn serve(&self, stream: GuestStream) {
        let service = hyper::service::service_fn(|request| self.clone().answer(request));
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream.compat()), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(run.id = %self.run, error = &error as &dyn std::error::Error, "a connection to the LLM proxy broke");
        }
    }
}
