//! Serves the LLM proxy on a port of this machine, in front of a model that plays a short script.
//!
//! `cargo run -p astraforge-codex --example llm_proxy` prints an address and a run token; point Codex or any client of
//! the Responses API at them. A first call is answered with a command to run, the next with a few words.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::sync::Arc;

use astraforge_codex::LlmProxy;
use astraforge_core::{
    BoxError,
    id::{RunId, TenantId},
    ports::model::{Endpoint, ModelAnswer, ModelCall, ModelUpstream, UpstreamError},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};

#[derive(Debug)]
struct Script;

#[async_trait]
impl ModelUpstream for Script {
    fn name(&self) -> &str {
        "script"
    }

    async fn call(&self, call: ModelCall) -> Result<ModelAnswer, UpstreamError> {
        let body = match call.endpoint {
            Endpoint::Models => r#"{"object":"list","data":[]}"#.to_owned(),
            Endpoint::Responses => answer(&call.body),
        };
        let kind = if call.endpoint == Endpoint::Models { "application/json" } else { "text/event-stream" };
        let chunks = futures::stream::iter([Ok::<_, BoxError>(Bytes::from(body))]);
        Ok(ModelAnswer { status: 200, headers: vec![("content-type".into(), kind.into())], body: chunks.boxed() })
    }
}

fn answer(asked: &[u8]) -> String {
    let has_run = String::from_utf8_lossy(asked).contains("function_call_output");
    let item = if has_run {
        serde_json::json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Said hello in hello.txt."}]})
    } else {
        serde_json::json!({"type": "function_call", "name": "exec_command", "call_id": "call_1",
            "arguments": r#"{"cmd":"echo hello >> hello.txt; env | sort; git status --short"}"#})
    };
    let events = [
        serde_json::json!({"type": "response.created", "response": {"id": "resp_1"}}),
        serde_json::json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        serde_json::json!({"type": "response.completed", "response": {"id": "resp_1", "usage":
            {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}}}),
    ];
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let proxy = LlmProxy::builder(Arc::new(Script)).build();
    let token = proxy.tokens().mint(RunId::random(), TenantId::new("example"))?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/v1 {}", listener.local_addr()?, token.secret().reveal());
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(proxy.clone());
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no news.
            _ = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
