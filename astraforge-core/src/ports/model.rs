//! The port for language models, in the dialect of the Responses API.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::BoxError;

/// Answers `POST /responses` and `GET /models`. Bodies pass through byte for byte, so unknown fields survive.
///
/// # Contract
/// - A status of 400 or more is an answer, not an error; [`UpstreamError`] is for an upstream that gave none.
/// - The provider's credential is the upstream's own; callers never have one to send.
#[async_trait]
pub trait ModelUpstream: fmt::Debug + Send + Sync + 'static {
    /// Names the upstream in logs and errors.
    fn name(&self) -> &str;

    /// Sends one call and returns as soon as the answer's head is there.
    async fn call(&self, call: ModelCall) -> Result<ModelAnswer, UpstreamError>;
}

/// One call to a model.
#[derive(Debug, Clone)]
pub struct ModelCall {
    /// What is called.
    pub endpoint: Endpoint,
    /// Request headers that may be passed on, lower-case names. Never a credential.
    pub headers: Vec<(String, String)>,
    /// The body, as it came.
    pub body: Bytes,
}

/// What can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /responses`.
    Responses,
    /// `GET /models`.
    Models,
}

/// The answer of a model.
pub struct ModelAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Response headers that may be passed on, lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body, as it comes. An error ends it: the upstream broke off.
    pub body: BoxStream<'static, Result<Bytes, BoxError>>,
}

impl fmt::Debug for ModelAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// It could not be reached.
    #[error("model upstream `{upstream}` cannot be reached")]
    Unreachable {
        /// The upstream's name.
        upstream: String,
        /// What came of it.
        #[source]
        source: BoxError,
    },
    /// It did not begin to answer in time.
    #[error("model upstream `{upstream}` did not begin to answer within {seconds} s")]
    TimedOut {
        /// The upstream's name.
        upstream: String,
        /// How long it was given.
        seconds: u64,
    },
    /// It is not set up.
    #[error("model upstream `{upstream}` is not configured: {reason}")]
    NotConfigured {
        /// The upstream's name.
        upstream: String,
        /// What is missing, and how to set it.
        reason: String,
    },
}
