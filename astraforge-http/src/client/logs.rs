//! Run logs: server-sent events, resumed by the client whenever the connection breaks.

use std::time::Duration;

use astraforge_core::{
    event::{Envelope, RunEvent},
    id::{RequestId, RunId},
};
use eventsource_stream::{Event, Eventsource};
use futures::{
    Stream, StreamExt,
    stream::{BoxStream, FusedStream},
};
use http::{Method, header::ACCEPT};

use super::{Client, ClientError};

/// Which log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOf {
    /// All runs of a request, later ones too.
    Request(RequestId),
    /// One run.
    Run(RunId),
}

impl From<RequestId> for LogOf {
    fn from(id: RequestId) -> Self {
        Self::Request(id)
    }
}

impl From<RunId> for LogOf {
    fn from(id: RunId) -> Self {
        Self::Run(id)
    }
}

/// How long a log may be silent. The server sends a comment every 15 s unless told otherwise.
const SILENCE: Duration = Duration::from_secs(60);

/// How often in a row a log is resumed in vain before that is an error; with the waits between, about half a minute.
const VAIN_TRIES: u32 = 8;

/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// What one connection came to.
enum Connection {
    /// The server had nothing more to say.
    Complete,
    /// It ended although more may come: the server went away, or something in between cut it.
    Cut(Option<ClientError>),
}

impl Client {
    /// Reads a run log from after sequence number `after` until nothing more is queued or at work.
    ///
    /// When the connection breaks it is made again, and the log goes on where it was: no event is lost or doubled.
    /// A refusal ends the stream, and so does a server that stays away for about half a minute.
    ///
    /// # Cancel safety
    /// Dropping the stream closes the connection; read on later from the last event's `seq`.
    pub fn logs(&self, log: impl Into<LogOf>, after: u64) -> BoxStream<'static, Result<RunEvent, ClientError>> {
        self.clone().read_log(log.into(), after, false).boxed()
    }

    /// Reads a run log like [`logs`](Self::logs), and stays when nothing is at work, for whatever comes later.
    pub fn follow_logs(&self, log: impl Into<LogOf>, after: u64) -> BoxStream<'static, Result<RunEvent, ClientError>> {
        self.clone().read_log(log.into(), after, true).boxed()
    }

    fn read_log(
        self,
        log: LogOf,
        mut after: u64,
        follow: bool,
    ) -> impl FusedStream<Item = Result<RunEvent, ClientError>> + Send {
        let events = async_stream::stream! {
            let mut vain_tries = 0;
            loop {
                let came = after;
                let mut outcome = Connection::Cut(None);
                match self.connect(log, after, follow).await {
                    Err(error) if error.is_retryable() => outcome = Connection::Cut(Some(error)),
                    Err(error) => {
                        yield Err(error);
                        return;
                    }
                    Ok((settled, events)) => {
                        let mut events = std::pin::pin!(events);
                        while let Some(next) = events.next().await {
                            match next {
                                Ok(event) => {
                                    after = event.seq;
                                    yield Ok(event);
                                }
                                Err(Broken::Body(error)) => {
                                    yield Err(error);
                                    return;
                                }
                                Err(Broken::Connection(error)) => {
                                    outcome = Connection::Cut(error);
                                    break;
                                }
                                Err(Broken::End) => {
                                    outcome = if settled { Connection::Complete } else { Connection::Cut(None) };
                                    break;
                                }
                            }
                        }
                    }
                }
                match outcome {
                    Connection::Complete => return,
                    Connection::Cut(error) => {
                        vain_tries = if after > came { 0 } else { vain_tries + 1 };
                        if vain_tries >= VAIN_TRIES {
                            yield Err(ClientError::LogBrokeOff { after, source: error.map(Box::new) });
                            return;
                        }
                        // The first try after a stream that ended in order asks only whether that was all.
                        if error.is_some() || vain_tries > 1 {
                            tokio::time::sleep(back_off(vain_tries)).await;
                        }
                    }
                }
            }
        };
        events.fuse()
    }

    /// Opens the stream once; tells whether the log was settled when it began.
    async fn connect(
        &self,
        log: LogOf,
        after: u64,
        follow: bool,
    ) -> Result<(bool, impl Stream<Item = Result<RunEvent, Broken>> + Send + use<>), ClientError> {
        let id = match log {
            LogOf::Request(id) => id.to_string(),
            LogOf::Run(id) => id.to_string(),
        };
        let mut call = self.open_ended_call(Method::GET, &format!("api/runs/{id}/logs/stream"));
        if follow {
            call = call.query(&[("follow", "1")]);
        }
        if after > 0 {
            call = call.header("last-event-id", after);
        }
        let response = call.header(ACCEPT, "text/event-stream").send();
        let response = tokio::time::timeout(SILENCE, response).await;
        let response = response
            .map_err(|_elapsed| ClientError::LogBrokeOff { after, source: None })?
            .map_err(ClientError::transport("reach"))?;
        if !response.status().is_success() {
            return Err(ClientError::refused(response).await);
        }
        let settled = response.headers().get("x-run-log").is_some_and(|state| state == "settled");
        Ok((settled, events(response)))
    }
}

/// Why no more events come from a connection.
enum Broken {
    /// It ended in order.
    End,
    /// It broke, or went silent.
    Connection(Option<ClientError>),
    /// An event can't be read.
    Body(ClientError),
}

/// The events of one connection, and last why there are no more.
fn events(response: reqwest::Response) -> impl Stream<Item = Result<RunEvent, Broken>> + Send {
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
                Ok(frame) => match read_event(&frame) {
                    Some(Ok(event)) => yield Ok(event),
                    Some(Err(error)) => yield Err(Broken::Body(error)),
                    None => {}
                },
                Err(eventsource_stream::EventStreamError::Transport(error)) => {
                    yield Err(Broken::Connection(error.map(ClientError::transport("read the log of"))));
                    return;
                }
                Err(_garbled) => {
                    yield Err(Broken::Connection(None));
                    return;
                }
            }
        }
        yield Err(Broken::End);
    }
}

/// An event of the log; what has no id, such as the handshake, is none.
fn read_event(frame: &Event) -> Option<Result<RunEvent, ClientError>> {
    if frame.id.is_empty() {
        return None;
    }
    Some(serde_json::from_str(&frame.data).map(Envelope::into_event).map_err(ClientError::decode))
}

/// How long to wait before try number `n`, counted from 0.
fn back_off(n: u32) -> Duration {
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
