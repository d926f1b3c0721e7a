//! Model upstreams: bytes in, bytes out, in the dialect of the Responses API.

pub mod openai;
pub mod review;
pub mod scripted;
pub mod sse;

pub use openai::{OpenAiConfig, OpenAiUpstream};
pub use review::ModelReviewer;
pub use scripted::ScriptedUpstream;
