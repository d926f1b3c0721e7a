//! `/api/runs/{id}/logs/stream`: run logs as server-sent events, read from rows and archives as fast as the client takes
//! them.

use std::sync::Arc;

use astraforge_core::{
    access::Caller,
    cancel::Cancellation,
    error::chain,
    event::{Envelope, RunEvent},
    id::{RequestId, RunId},
    journal::Journal,
    ports::store::StoreError,
};
use axum::{
    Extension,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, StatusCode, header::ACCEPT},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures::{Stream, StreamExt, TryStreamExt, future::Either};
use serde::Deserialize;
use tracing::error;

use super::{
    AppState,
    caller::Authenticated,
    error::ApiError,
    path::{Named, PathId},
    refusals::{Missing, Refused},
    serve::LongAnswer,
};
use crate::wire::outcome::Problem;

mod tail;

use self::tail::Next;
pub(super) use self::tail::Tails;

/// Tells whether the log may grow without a person acting: `live` or `settled`, as it was when the stream began.
const RUN_LOG: HeaderName = HeaderName::from_static("x-run-log");

/// How many events are read from rows at a time, which a watcher holds until its client has them.
const BATCH: u32 = 32;

/// About how many bytes of frames a watcher holds until its client has them.
const MOST_HELD: usize = 64 * 1024;

/// How the stream is to behave.
#[derive(Debug, Deserialize)]
pub(super) struct Options {
    follow: Option<String>,
}

impl Options {
    fn stays_open(&self) -> bool {
        self.follow.as_deref().is_some_and(|value| matches!(value, "" | "1" | "true"))
    }
}

/// Stream a run log.
///
/// The first frame is a heartbeat without an id. Then come the stored events from the start, or from after
/// `Last-Event-ID`, and then new ones as they happen. Each has its sequence number as `id` and an event of the log as
/// JSON in `data`; comments keep a silent stream alive. For a request it ends when nothing more is queued or at work;
/// for a run, after the run's last event. The header `X-Run-Log` is `settled` when that was so at the start.
#[utoipa::path(
    get, path = "/api/runs/{id}/logs/stream", tag = "runs", operation_id = "stream_run_log",
    params(
        ("id" = uuid::Uuid, Path, description = "A request, for the log of all its runs, or one run."),
        ("follow" = Option<String>, Query, description = "`1` keeps the stream open when nothing is at work."),
        ("Last-Event-ID" = Option<u64>, Header, description = "The last sequence number seen; only later events come."),
    ),
    responses(
        (status = 200, description = "The log.", body = String, content_type = "text/event-stream"), Refused, Missing,
        (status = 406, description = "The caller does not take `text/event-stream`.", body = Problem),
    ),
)]
pub(super) async fn stream(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    query: Result<Query<Options>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let log = Log::find(&state, &caller, &id).await?;
    if !takes_events(&headers) {
        let detail = "Could not satisfy the request Accept header.";
        return Err(ApiError::new(StatusCode::NOT_ACCEPTABLE, detail));
    }
    let after = last_event_id(&headers);
    let stays_open = query.is_ok_and(|Query(options)| options.stays_open());
    let settled = !stays_open && !log.may_grow().await?;
    let keep_alive = state.limits.keep_alive();
    let body = if settled {
        // A log that cannot be read is refused, and not taken for an empty one.
        let first = log.read(after).await?;
        Sse::new(frames(log.request, log.clone().stored(first)).boxed()).keep_alive(keep_alive)
    } else {
        let live = log.clone().live(&state.tails, after, stays_open, state.shutdown.clone());
        Sse::new(frames(log.request, live).boxed()).keep_alive(keep_alive)
    };
    let run_log = if settled { "settled" } else { "live" };
    let is_long = (!settled).then_some(Extension(LongAnswer));
    let headers = [(RUN_LOG, run_log), (HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((is_long, headers, body).into_response())
}

fn takes_events(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    let takes = |list: &str| {
        let mut types = list.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
        types.any(|range| matches!(range, "*/*" | "text/*" | "text/event-stream"))
    };
    accepted.peek().is_none() || accepted.any(takes)
}

/// The last sequence number that the caller saw. What is not a number is taken for "none", as browsers send any text.
fn last_event_id(headers: &HeaderMap) -> u64 {
    headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse().ok()).unwrap_or(0)
}

/// The log of a request, or the part of it that belongs to one run.
#[derive(Debug, Clone)]
struct Log {
    journal: Journal,
    request: RequestId,
    run: Option<RunId>,
    caller: Caller,
}

impl Log {
    /// Finds the log that `id`, a request's or a run's, names.
    async fn find(state: &AppState, caller: &Caller, id: &str) -> Result<Self, ApiError> {
        let journal = state.forge().journal().clone();
        let id: RequestId = PathId::parse(id)?;
        let request = journal.store().request(&caller.tenant, id).await?;
        if request.is_some() {
            return Ok(Self { journal, request: id, run: None, caller: caller.clone() });
        }
        let run = journal.store().run(&caller.tenant, RunId::from(id.as_uuid())).await?;
        match run {
            Some(run) => Ok(Self { journal, request: run.request, run: Some(run.id), caller: caller.clone() }),
            None => Err(ApiError::not_found(RequestId::not_found(&id.to_string()))),
        }
    }

    /// Tells whether events may come without a person acting. A request that never ran waits for its first run.
    async fn may_grow(&self) -> Result<bool, StoreError> {
        let store = self.journal.store();
        if let Some(id) = self.run {
            let run = store.run(&self.caller.tenant, id).await?;
            return Ok(run.is_some_and(|run| !run.status.is_over()));
        }
        Ok(store.log_states(&[self.request]).await?.iter().any(|state| state.may_grow))
    }

    /// Tells whether everything was sent and nothing more comes unless a person acts.
    async fn is_over(&self, last: u64) -> Result<bool, StoreError> {
        let states = self.journal.store().log_states(&[self.request]).await?;
        Ok(states.iter().all(|state| !state.may_grow && state.end.last <= last))
    }

    fn has(&self, frame: &Frame) -> bool {
        self.run.is_none() || self.run == frame.run
    }

    /// These frames, and the stored ones after them.
    fn stored(self, mut frames: Vec<Arc<Frame>>) -> impl Stream<Item = Result<Event, StoreError>> + Send {
        async_stream::try_stream! {
            while let Some(last) = frames.last().map(|newest| newest.seq) {
                for frame in frames.iter().filter(|frame| self.has(frame)) {
                    yield frame.event.clone();
                }
                frames = self.read(last).await?;
            }
        }
    }

    /// The frames after `last`, those that are still to come too. What is not in memory any more is read from rows, so a
    /// client that is slow takes nobody's room.
    fn live(
        self,
        tails: &Tails,
        mut last: u64,
        stays_open: bool,
        shutdown: Cancellation,
    ) -> impl Stream<Item = Result<Event, StoreError>> + Send + use<> {
        let mut watcher = tails.watch(self.request);
        async_stream::try_stream! {
            let mut shut_down = std::pin::pin!(shutdown.cancelled());
            loop {
                let next = watcher.after(last);
                let may_end = matches!(next, Next::Rest) && !stays_open;
                // What is known of the end may be older than this watcher.
                if may_end && self.is_over(last).await? {
                    break;
                }
                let frames = match next {
                    Next::Frames(frames) => frames,
                    Next::Rows => self.read(last).await?,
                    Next::Nothing | Next::Rest => {
                        let changed = std::pin::pin!(watcher.changed(may_end));
                        match futures::future::select(changed, shut_down.as_mut()).await {
                            Either::Left(_) => continue,
                            Either::Right(_) => break,
                        }
                    }
                };
                let mut is_over = false;
                for frame in frames {
                    last = frame.seq;
                    if self.has(&frame) {
                        yield frame.event.clone();
                        is_over |= self.run.is_some() && frame.ends_run;
                    }
                }
                if is_over && !stays_open {
                    break;
                }
            }
        }
    }

    async fn read(&self, last: u64) -> Result<Vec<Arc<Frame>>, StoreError> {
        let events = self.journal.logs().events(self.request, last, BATCH).await?;
        let mut frames: Vec<_> = events.into_iter().map(|event| Arc::new(Frame::of(event))).collect();
        let mut size = 0;
        let fits = |frame: &&Arc<Frame>| {
            size += frame.size;
            size <= MOST_HELD
        };
        let n_held = frames.iter().take_while(fits).count();
        frames.truncate(n_held.max(1));
        Ok(frames)
    }
}

/// An event as it is sent.
#[derive(Debug)]
struct Frame {
    seq: u64,
    run: Option<RunId>,
    ends_run: bool,
    event: Event,
    /// About how many bytes it takes.
    size: usize,
}

impl Frame {
    fn of(event: RunEvent) -> Self {
        let RunEvent { seq, run_id: run, .. } = event;
        let ends_run = event.kind.ends_run();
        let frame = Event::default().id(seq.to_string());
        let (event, size) = match serde_json::to_string(&Envelope::from(event)) {
            Ok(data) => (frame.event("message").data(&data), data.len()),
            Err(error) => {
                error!(error = chain(&error), event.seq = seq, "an event cannot be written as JSON");
                (frame.comment("this event cannot be written as JSON"), 0)
            }
        };
        Self { seq, run, ends_run, event, size }
    }
}

/// The handshake, then the frames of a log. An error breaks the connection, so that nobody takes what came for all of it;
/// the client resumes where it was.
fn frames(
    request: RequestId,
    frames: impl Stream<Item = Result<Event, StoreError>> + Send,
) -> impl Stream<Item = Result<Event, StoreError>> + Send {
    let handshake = format!(r#"{{"request_id":"{request}","type":"heartbeat","message":"stream_ready"}}"#);
    let handshake = Event::default().event("message").data(handshake);
    let frames = frames.inspect_err(|error| error!(error = chain(error), "a run log broke off"));
    futures::stream::iter([Ok(handshake)]).chain(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_accept(accept: &[&'static str], takes: bool) {
        let headers = accept.iter().map(|value| (ACCEPT, value.parse().unwrap())).collect();
        assert_eq!(takes_events(&headers), takes, "{accept:?}");
    }

    #[test]
    fn callers_that_do_not_take_events_are_found_out() {
        check_accept(&[], true);
        check_accept(&["text/event-stream"], true);
        check_accept(&["application/json, text/*;q=0.5"], true);
        check_accept(&["application/json", "*/*"], true);
        check_accept(&["application/json"], false);
    }
}
