//! A tower layer of the embedder's own: it tells every command that passes, and how it ended.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use astraforge_core::command::Command;
use tower::{Layer, Service};

/// Puts [`Audit`] around a service.
#[derive(Clone, Debug, Default)]
pub struct AuditLayer(());

impl<S> Layer<S> for AuditLayer {
    type Service = Audit<S>;

    fn layer(&self, inner: S) -> Audit<S> {
        Audit { inner }
    }
}

/// Tells what passes.
#[derive(Clone, Debug)]
pub struct Audit<S> {
    inner: S,
}

impl<C, S> Service<C> for Audit<S>
where
    C: Command,
    S: Service<C, Response = C::Answer>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, command: C) -> Self::Future {
        let answer = self.inner.call(command);
        Box::pin(async move {
            let answer = answer.await;
            println!("audit: {} {}", C::NAME, if answer.is_ok() { "done" } else { "refused" });
            answer
        })
    }
}
