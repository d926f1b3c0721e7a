//! Server-sent events of one connection, and when to try another.

use std::time::Duration;

use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures::{Stream, StreamExt};
use http::header::ACCEPT;
use reqwest::{RequestBuilder, Response};

use super::{ClientError, retry::HeldUp};

/// How long a stream may be silent. The server sends a comment every 15 s unless told otherwise.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// How often in a row a stream is resumed in vain before that is an error; with the waits between, about half a minute.
pub(super) const VAIN_TRIES: u32 = 8;

/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// A connection broke, or went silent, before its stream ended in order.
pub(super) struct Broken(pub(super) Option<ClientError>);

/// Opens a stream; `None` when the server is silent. Too many calls are waited out.
pub(super) async fn open(call: RequestBuilder) -> Result<Option<Response>, ClientError> {
    let (call, mut held_up) = (call.header(ACCEPT, "text/event-stream"), HeldUp::default());
    while let Some(again) = call.try_clone() {
        match open_once(again).await {
            Err(error) => held_up.wait_out(error).await?,
            opened => return opened,
        }
    }
    open_once(call).await
}

async fn open_once(call: RequestBuilder) -> Result<Option<Response>, ClientError> {
    let Ok(response) = tokio::time::timeout(SILENCE, call.send()).await else { return Ok(None) };
    let response = response.map_err(ClientError::transport("reach"))?;
    if response.status().is_success() { Ok(Some(response)) } else { Err(ClientError::refused(response).await) }
}

/// The events of one connection. A stream that breaks has that as its last item.
pub(super) fn events(response: Response) -> impl Stream<Item = Result<Event, Broken>> + Send {
    async_stream::stream! {
        // The silence is measured on bytes, since comments are no events.
        let mut bytes = response.bytes_stream().boxed();
        let bytes = async_stream::stream! {
            loop {
                match tokio::time::timeout(SILENCE, bytes.next()).await {
                    Ok(Some(Ok(chunk))) => yield Ok(chunk),
                    Ok(Some(Err(error))) => {
                        yield Err(Some(error));
                        return;
                    }
                    Ok(None) => return,
                    Err(_silence) => {
                        yield Err(None);
                        return;
                    }
                }
            }
        };
        let mut frames = std::pin::pin!(bytes.eventsource());
        while let Some(frame) = frames.next().await {
            match frame {
                Ok(frame) => yield Ok(frame),
                Err(EventStreamError::Transport(error)) => {
                    yield Err(Broken(error.map(ClientError::transport("read the events of"))));
                    return;
                }
                Err(_garbled) => {
                    yield Err(Broken(None));
                    return;
                }
            }
        }
    }
}

/// How long to wait before try number `n`, counted from 0.
pub(super) fn back_off(n: u32) -> Duration {
    (Duration::from_millis(100) * 2_u32.saturating_pow(n)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound() {
        assert_eq!(back_off(0), Duration::from_millis(100));
        assert_eq!(back_off(2), Duration::from_millis(400));
        assert_eq!(back_off(40), LONGEST_WAIT);
        let all: Duration = (0..VAIN_TRIES).map(back_off).sum();
        assert!((20..60).contains(&all.as_secs()), "{all:?}");
    }
}
