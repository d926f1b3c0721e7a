//! Runs the OpenAI Codex CLI in an isolated workspace, and proxies its model calls.
//!
//! - [`LlmProxy`] stands between a workspace and a model: a workspace holds a token of its run, never a key.
//! - [`CodexRunner`] carries out runs: clone, agent, commit, push to the quarantine, tests.
//!
//! Both are tower services that take layers of your own, and both stand behind ports of `astraforge-core`.
//!
//! ```
//! use std::sync::Arc;
//!
//! use astraforge_codex::LlmProxy;
//! use astraforge_core::{
//!     id::{RunId, TenantId},
//!     ports::model::{ModelAnswer, ModelCall, ModelUpstream, UpstreamError},
//! };
//! use http_body_util::BodyExt;
//! use tower::ServiceExt;
//!
//! /// A model that breaks off in the middle of its answer.
//! #[derive(Debug)]
//! struct Unreliable;
//!
//! #[async_trait::async_trait]
//! impl ModelUpstream for Unreliable {
//!     fn name(&self) -> &str {
//!         "unreliable"
//!     }
//!
//!     async fn call(&self, _: ModelCall) -> Result<ModelAnswer, UpstreamError> {
//!         let chunks = [Ok("data: {\"type\":\"response.crea".into())];
//!         Ok(ModelAnswer { status: 200, headers: vec![], body: Box::pin(futures::stream::iter(chunks)) })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let proxy = LlmProxy::builder(Arc::new(Unreliable)).build();
//! let token = proxy.tokens().mint(RunId::random(), TenantId::new("acme"))?;
//! let request = http::Request::post("/v1/responses")
//!     .header("authorization", format!("Bearer {}", token.secret().reveal()))
//!     .body(r#"{"model": "any", "stream": true, "input": "hello"}"#.to_owned())?;
//!
//! let answer = proxy.oneshot(request).await?.into_body().collect().await.map_err(|e| e.to_string())?;
//! assert!(String::from_utf8_lossy(&answer.to_bytes()).contains("response.failed"));
//! # Ok(()) }
//! ```

pub mod proxy;
pub mod runner;

pub use proxy::{LlmProxy, ProxyBuilder};
pub use runner::{CodexProgram, CodexRunner, RunSettings, StubExecutor};
