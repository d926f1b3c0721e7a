//! `/api/runs/{id}/logs/stream`: run logs as server-sent events, read from rows as fast as the client takes them.

use std::{convert::Infallible, time::Duration};

use astraforge_core::{
    access::{Action, Caller},
    cancel::Cancellation,
    error::ForgeError,
    error::chain,
    event::{Envelope, RunEvent},
    id::{RequestId, RunId},
    job::JobKind,
    journal::Journal,
    ports::store::StoreError,
};
use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, StatusCode, header::ACCEPT},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, future::Either};
use serde::Deserialize;
use tracing::error;

use super::{
    AppState,
    caller::Authenticated,
    error::ApiError,
    path::{Named, PathId},
    refusals::{Missing, Refused},
};
use crate::wire::outcome::Problem;

/// Tells whether the log may grow without a person acting: `live` or `settled`, as it was when the stream began.
const RUN_LOG: HeaderName = HeaderName::from_static("x-run-log");

/// How long a live log has to be silent before it is checked whether it is over; twice as long each time in a row.
const SILENCE: Duration = Duration::from_millis(250);

/// The longest time between two such checks.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// How many events are read at a time when only stored ones are wanted.
const BATCH: u32 = 256;

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
    let keep_alive = KeepAlive::new().interval(state.limits.keep_alive).text("keep-alive");
    let body = if settled {
        Sse::new(frames(log.request, log.clone().stored(after)).boxed()).keep_alive(keep_alive)
    } else {
        let live = log.clone().live(after, stays_open, state.shutdown.clone());
        Sse::new(frames(log.request, live).boxed()).keep_alive(keep_alive)
    };
    let run_log = if settled { "settled" } else { "live" };
    Ok(([(RUN_LOG, run_log), (HeaderName::from_static("x-accel-buffering"), "no")], body).into_response())
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
        caller.may(Action::Read).map_err(ForgeError::from)?;
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
        let runs = store.runs_of(self.request).await?;
        if runs.is_empty() || runs.iter().any(|run| !run.status.is_over()) {
            return Ok(true);
        }
        // The jobs of runs are known by the runs; those of publications and reviews are not.
        let waiting = store.waiting_jobs(self.request).await?;
        let running = store.running_jobs().await?;
        let jobs = waiting.iter().chain(running.iter().filter(|job| job.request == self.request));
        Ok(jobs.into_iter().any(|job| !matches!(job.kind, JobKind::Execute { .. })))
    }

    /// Tells whether everything was sent and nothing more may come.
    async fn is_over(&self, last: u64) -> Result<bool, StoreError> {
        // In this order: what ended after the first question has its events before the second.
        if self.may_grow().await? {
            return Ok(false);
        }
        let store = self.journal.store();
        match self.run {
            Some(run) => Ok(store.events_of_run(run).await?.last().is_none_or(|event| event.seq <= last)),
            None => Ok(store.events(self.request, last, 1).await?.is_empty()),
        }
    }

    fn has(&self, event: &RunEvent) -> bool {
        self.run.is_none() || self.run == event.run_id
    }

    /// The stored events after `last`.
    fn stored(self, mut last: u64) -> impl Stream<Item = Result<RunEvent, StoreError>> + Send {
        async_stream::try_stream! {
            loop {
                let events = self.journal.store().events(self.request, last, BATCH).await?;
                let Some(newest) = events.last() else { break };
                last = newest.seq;
                for event in events {
                    if self.has(&event) {
                        yield event;
                    }
                }
            }
        }
    }

    /// The events after `last`, those that are still to come too.
    fn live(
        self,
        mut last: u64,
        stays_open: bool,
        shutdown: Cancellation,
    ) -> impl Stream<Item = Result<RunEvent, StoreError>> + Send {
        async_stream::try_stream! {
            let mut events = std::pin::pin!(self.journal.follow(self.request, last));
            let mut shut_down = std::pin::pin!(shutdown.cancelled());
            let mut silence = SILENCE;
            loop {
                let next = tokio::time::timeout(silence, events.next());
                let next = match futures::future::select(std::pin::pin!(next), shut_down.as_mut()).await {
                    Either::Left((next, _)) => next,
                    Either::Right(_) => break,
                };
                let may_be_last = match next {
                    Ok(None) => break,
                    Ok(Some(event)) => {
                        let event = event?;
                        last = event.seq;
                        silence = SILENCE;
                        let ends_run = event.kind.ends_run();
                        if self.has(&event) {
                            yield event;
                        }
                        ends_run
                    }
                    Err(_elapsed) => {
                        silence = (2 * silence).min(LONGEST_SILENCE);
                        true
                    }
                };
                if may_be_last && !stays_open && self.is_over(last).await? {
                    break;
                }
            }
        }
    }
}

/// The frames of a log: the handshake, then one for each event. An error ends them; the client resumes where it was.
fn frames(
    request: RequestId,
    events: impl Stream<Item = Result<RunEvent, StoreError>> + Send,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let handshake = format!(r#"{{"request_id":"{request}","type":"heartbeat","message":"stream_ready"}}"#);
    let handshake = Event::default().event("message").data(handshake);
    let events = events.filter_map(|event| async {
        match event {
            Ok(event) => frame(event),
            Err(error) => {
                error!(error = chain(&error), "a run log broke off");
                None
            }
        }
    });
    futures::stream::iter([handshake]).chain(events).map(Ok)
}

fn frame(event: RunEvent) -> Option<Event> {
    let seq = event.seq;
    let frame = Event::default().event("message").id(seq.to_string()).json_data(Envelope::from(event));
    frame.inspect_err(|error| error!(error = chain(error), event.seq = seq, "an event cannot be written as JSON")).ok()
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
