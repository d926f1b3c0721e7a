//! Run logs: server-sent events, resumed by the client whenever the connection breaks.

use astraforge_core::{
    event::{Envelope, RunEvent},
    id::{RequestId, RunId},
};
use eventsource_stream::Event;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream, FusedStream},
};
use http::Method;

use super::{
    Client, ClientError,
    sse::{self, VAIN_TRIES, back_off},
};

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
    /// A refusal ends the stream, unless it is of too many calls, which are waited out; so does a server that stays away for
    /// about half a minute.
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
        let response = sse::open(call).await?.ok_or(ClientError::LogBrokeOff { after, source: None })?;
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
    let events = sse::events(response).filter_map(async |frame| match frame {
        Ok(frame) => read_event(&frame).map(|event| event.map_err(Broken::Body)),
        Err(sse::Broken(error)) => Some(Err(Broken::Connection(error))),
    });
    events.chain(stream::iter([Err(Broken::End)]))
}

/// An event of the log; what has no id, such as the handshake, is none.
fn read_event(frame: &Event) -> Option<Result<RunEvent, ClientError>> {
    if frame.id.is_empty() {
        return None;
    }
    Some(serde_json::from_str(&frame.data).map(Envelope::into_event).map_err(ClientError::decode))
}
