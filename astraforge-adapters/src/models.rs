//! Model upstreams: bytes in, bytes out, in the dialect of the Responses API.

pub mod scripted;
pub mod sse;

pub use scripted::ScriptedUpstream;
