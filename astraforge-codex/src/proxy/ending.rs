//! The layer that sees to it that every stream ends with words.

use std::{
    error::Error,
    task::{Context, Poll},
    time::Duration,
};

use astraforge_core::{
    BoxError,
    ports::model::{Endpoint, ModelAnswer, ModelCall, UpstreamError},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use http::{HeaderValue, header};
use serde::Deserialize;
use tokio::time::timeout;
use tower::{Layer, Service};

use super::sse::{self, SseReader, is_event_stream};

/// Bounds how long an upstream may be silent, and ends streams that it does not end itself with `response.failed`.
///
/// Bytes pass as they come. A cut within an event is made good by a blank line, so that the rest of the event is
/// ignored; then the `response.failed` follows. An answer to a streaming call that is no event stream, such as the
/// HTML page of some other server, becomes a `response.failed` as a whole.
#[derive(Debug, Clone, Copy)]
pub struct EndingLayer {
    first_byte: Duration,
    idle: Duration,
}

impl EndingLayer {
    /// A layer with these limits: until the answer begins, and between its chunks.
    #[must_use]
    pub fn new(first_byte: Duration, idle: Duration) -> Self {
        Self { first_byte, idle }
    }
}

impl<S> Layer<S> for EndingLayer {
    type Service = Ending<S>;

    fn layer(&self, inner: S) -> Ending<S> {
        Ending { inner, limits: *self }
    }
}

/// The service of [`EndingLayer`].
#[derive(Debug, Clone)]
pub struct Ending<S> {
    inner: S,
    limits: EndingLayer,
}

impl<S> Service<ModelCall> for Ending<S>
where
    S: Service<ModelCall, Response = ModelAnswer, Error = UpstreamError>,
    S::Future: Send + 'static,
{
    type Response = ModelAnswer;
    type Error = UpstreamError;
    type Future = BoxFuture<'static, Result<ModelAnswer, UpstreamError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: ModelCall) -> Self::Future {
        let wants_stream = call.endpoint == Endpoint::Responses && asks_for_stream(&call.body);
        let EndingLayer { first_byte, idle } = self.limits;
        let answer = self.inner.call(call);
        async move {
            let answer = timeout(first_byte, answer).await.map_err(|_| UpstreamError::TimedOut {
                upstream: "model".to_owned(),
                seconds: first_byte.as_secs(),
            })??;
            Ok(if wants_stream && answer.status < 300 { well_ended(answer, idle) } else { bounded(answer, idle) })
        }
        .boxed()
    }
}

fn asks_for_stream(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        stream: bool,
    }
    serde_json::from_slice::<Body>(body).is_ok_and(|body| body.stream)
}

fn well_ended(mut answer: ModelAnswer, idle: Duration) -> ModelAnswer {
    let content_type = answer.headers.iter().find(|(name, _)| name == header::CONTENT_TYPE.as_str());
    match content_type.map(|(_, value)| value.clone()) {
        Some(value) if !is_event_stream(HeaderValue::from_str(&value).ok().as_ref()) => {
            tracing::warn!(content_type = %value, "the model upstream answered a streaming call with no event stream");
            let message = format!(
                "The model upstream answered with `{value}` where an event stream was asked for; check that its address is that of a Responses API."
            );
            answer.body = futures::stream::iter([Ok(sse::failed(None, 0, &message))]).boxed();
        }
        _ => answer.body = guarded(answer.body, idle),
    }
    answer.headers.retain(|(name, _)| name != header::CONTENT_TYPE.as_str());
    answer.headers.push((header::CONTENT_TYPE.to_string(), "text/event-stream".to_owned()));
    answer
}

/// A body that is no event stream: silence ends it with an error.
fn bounded(mut answer: ModelAnswer, idle: Duration) -> ModelAnswer {
    let mut chunks = answer.body;
    answer.body = async_stream::stream! {
        loop {
            match timeout(idle, chunks.next()).await {
                Ok(Some(chunk)) => yield chunk,
                Ok(None) => return,
                Err(_) => {
                    yield Err("the model upstream fell silent".into());
                    return;
                }
            }
        }
    }
    .boxed();
    answer
}

type Chunks = BoxStream<'static, Result<Bytes, BoxError>>;

fn guarded(mut chunks: Chunks, idle: Duration) -> Chunks {
    async_stream::stream! {
        let mut watch = Watch::default();
        let cut = loop {
            match timeout(idle, chunks.next()).await {
                Ok(Some(Ok(bytes))) => {
                    watch.push(&bytes);
                    yield Ok(bytes);
                }
                Ok(Some(Err(error))) => break Cut::Broken(error),
                Ok(None) => break Cut::Ended,
                Err(_) => break Cut::Silent(idle),
            }
        };
        if let Some(last_words) = watch.finish(&cut) {
            yield Ok(last_words);
        }
    }
    .boxed()
}

/// How a stream ended.
enum Cut {
    Ended,
    Broken(BoxError),
    Silent(Duration),
}

impl Cut {
    fn message(&self) -> String {
        match self {
            Self::Ended => "The model upstream ended its answer before it was complete.".to_owned(),
            Self::Broken(_) => "The connection to the model upstream broke before its answer was complete.".to_owned(),
            Self::Silent(idle) => {
                format!("The model upstream sent nothing for {} s in the middle of its answer.", idle.as_secs())
            }
        }
    }
}

/// What a stream said about itself so far.
#[derive(Default)]
struct Watch {
    reader: SseReader,
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    ended: bool,
    id: Option<String>,
    next_number: u64,
}

impl Seen {
    fn note(&mut self, event: sse::Event<'_>) {
        let Some(event) = event.read() else { return };
        self.ended |= event.is_terminal();
        if let Some(number) = event.sequence_number {
            self.next_number = number.saturating_add(1);
        }
        if let Some(id) = event.response.and_then(|response| response.id) {
            self.id = Some(id);
        }
    }
}

impl Watch {
    fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes, |event| self.seen.note(event));
    }

    /// Returns what must still be sent so that the stream ends well.
    fn finish(mut self, cut: &Cut) -> Option<Bytes> {
        if self.seen.ended {
            return None;
        }
        let mut last_words = Vec::new();
        if self.reader.is_open() {
            last_words.extend_from_slice(b"\n\n");
            self.reader.close(|event| self.seen.note(event));
        }
        if !self.seen.ended {
            let source: Option<&dyn Error> = match cut {
                Cut::Broken(error) => Some(&**error),
                _ => None,
            };
            tracing::warn!(error = source, "a model stream ended without an end: {}", cut.message());
            last_words.extend_from_slice(&sse::failed(self.seen.id.as_deref(), self.seen.next_number, &cut.message()));
        }
        Some(last_words.into())
    }
}
