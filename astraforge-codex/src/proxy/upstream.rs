//! The end of the stack: the model port as a tower service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use astraforge_core::ports::model::{ModelAnswer, ModelCall, ModelUpstream, UpstreamError};
use futures::{FutureExt, future::BoxFuture};
use tower::Service;

/// A model as a service of model calls.
#[derive(Debug, Clone)]
pub struct Upstream(Arc<dyn ModelUpstream>);

impl Upstream {
    /// The service of a model.
    #[must_use]
    pub fn new(model: Arc<dyn ModelUpstream>) -> Self {
        Self(model)
    }
}

impl Service<ModelCall> for Upstream {
    type Response = ModelAnswer;
    type Error = UpstreamError;
    type Future = BoxFuture<'static, Result<ModelAnswer, UpstreamError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: ModelCall) -> Self::Future {
        let model = self.0.clone();
        async move { model.call(call).await }.boxed()
    }
}
