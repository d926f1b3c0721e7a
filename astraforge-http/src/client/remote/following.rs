//! The output of a command on another server: one stream, however often the connection breaks.

use std::time::Duration;

use astraforge_core::{id::SandboxId, ports::sessions::SessionError, sandbox::SandboxStatus, session::ExecEvent};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use eventsource_stream::Event;
use futures::{StreamExt, stream::BoxStream};
use http::Method;
use tokio::time::Instant;

use super::super::{
    Client, ClientError,
    retry::HeldUp,
    sandboxes::{answer, path},
    sse::{self, Broken, VAIN_TRIES, back_off},
};
use crate::wire::sandbox::{
    exec::{Encoding, exit_of},
    process::{ProcessEvent, ProcessView},
};

/// How long a connection lasts that was none in vain, though the command wrote nothing.
const LASTING: Duration = Duration::from_secs(10);

/// Follows a process that goes on, from byte `from` of its output to its end.
pub(in crate::client) fn follow(
    client: &Client,
    sandbox: SandboxId,
    process: &ProcessView,
    from: u64,
) -> BoxStream<'static, Result<ExecEvent, SessionError>> {
    let place = format!("processes/{}/", process.id);
    follow_output(client, sandbox, place, from, Followed::Process { started_at: process.started_at })
}

/// What is followed, so that it is known again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Followed {
    /// A command that ends with its follower. It has an id that no other has.
    Execution,
    /// A process. When the sandbox was stopped meanwhile, another may have its number.
    Process { started_at: DateTime<Utc> },
}

/// Follows the output of whatever is at `place` below the sandbox.
pub(super) fn follow_output(
    client: &Client,
    sandbox: SandboxId,
    place: String,
    from: u64,
    followed: Followed,
) -> BoxStream<'static, Result<ExecEvent, SessionError>> {
    let source = Source { client: client.clone(), sandbox, place, followed };
    let events = async_stream::stream! {
        let (mut position, mut vain_tries) = (from, 0);
        loop {
            let began = position;
            let (mut cut, mut opened_at) = (None, None);
            match source.open(position).await {
                Err(error) if error.is_retryable() => cut = Some(error),
                Err(error) => {
                    yield Err(error.into_session_error());
                    return;
                }
                Ok(None) => {} // silence
                Ok(Some(response)) => {
                    opened_at = Some(Instant::now());
                    let mut frames = std::pin::pin!(sse::events(response));
                    while let Some(frame) = frames.next().await {
                        match frame.map(|frame| read(&frame)) {
                            Ok(Some(Ok((end, event)))) => {
                                position = end;
                                let is_last = matches!(event, ExecEvent::Exited(_));
                                yield Ok(event);
                                if is_last {
                                    return;
                                }
                            }
                            Ok(Some(Err(error))) => {
                                yield Err(error.into_session_error());
                                return;
                            }
                            Ok(None) => {}
                            Err(Broken(error)) => {
                                cut = error;
                                break;
                            }
                        }
                    }
                }
            }
            let has_lasted = opened_at.is_some_and(|opened_at: Instant| opened_at.elapsed() >= LASTING);
            vain_tries = if position > began || has_lasted { 0 } else { vain_tries + 1 };
            if vain_tries >= VAIN_TRIES {
                yield Err(cut.map_or(SessionError::Lost, ClientError::into_session_error));
                return;
            }
            if vain_tries > 0 {
                tokio::time::sleep(back_off(vain_tries - 1)).await;
            }
            match source.is_there().await {
                Err(error) if error.is_retryable() => {}
                Err(error) => {
                    yield Err(error.into_session_error());
                    return;
                }
                Ok(true) => {}
                Ok(false) => {
                    yield Err(SessionError::Lost);
                    return;
                }
            }
        }
    };
    events.boxed()
}

/// Where output comes from.
struct Source {
    client: Client,
    sandbox: SandboxId,
    place: String,
    followed: Followed,
}

impl Source {
    async fn open(&self, position: u64) -> Result<Option<reqwest::Response>, ClientError> {
        let call = self.client.open_ended_call(Method::GET, &path(self.sandbox, &format!("{}output/", self.place)));
        sse::open(call.header("last-event-id", position)).await
    }

    /// Whether what was followed is still there, without waking a sandbox that was stopped. Too many calls are waited out.
    async fn is_there(&self) -> Result<bool, ClientError> {
        let mut held_up = HeldUp::default();
        loop {
            match self.look().await {
                Err(error) => held_up.wait_out(error).await?,
                found => return found,
            }
        }
    }

    async fn look(&self) -> Result<bool, ClientError> {
        let Followed::Process { started_at } = self.followed else { return Ok(true) };
        if self.client.sandbox(self.sandbox).await?.status != SandboxStatus::Ready {
            return Ok(false);
        }
        let call = self.client.open_ended_call(Method::GET, &path(self.sandbox, &self.place));
        Ok(answer::<ProcessView>(call).await?.started_at == started_at)
    }
}

/// An event and the byte that it ends at; what has no id is none.
fn read(frame: &Event) -> Option<Result<(u64, ExecEvent), ClientError>> {
    let end = frame.id.parse().ok()?;
    let event = serde_json::from_str(&frame.data).map_err(ClientError::decode);
    Some(event.and_then(|event| Ok((end, exec_event(event)?))))
}

fn exec_event(event: ProcessEvent) -> Result<ExecEvent, ClientError> {
    Ok(match event {
        ProcessEvent::Stdout { data, encoding } => ExecEvent::Stdout(bytes_of(data, encoding)?),
        ProcessEvent::Stderr { data, encoding } => ExecEvent::Stderr(bytes_of(data, encoding)?),
        ProcessEvent::Lost { n_bytes } => ExecEvent::Lost(n_bytes),
        ProcessEvent::Exited { exit_code, cause } => ExecEvent::Exited(exit_of(exit_code, &cause)),
    })
}

fn bytes_of(data: String, encoding: Encoding) -> Result<Bytes, ClientError> {
    match encoding {
        Encoding::Utf8 => Ok(data.into()),
        Encoding::Base64 => match BASE64_STANDARD.decode(data) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(ClientError::decode(serde::de::Error::custom(error))),
        },
    }
}
