//! `/api/sandbox/sessions/{id}/executions/`: commands that end with whoever started them, and whose output loses nothing.
//!
//! A process that goes on when nobody watches is another thing: [`processes`](super::processes).

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astraforge_core::{id::SandboxId, ports::sessions::Execution, session::PtySize};
use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{Sse, sse::Event},
};
use futures::{Stream, StreamExt, stream};
use uuid::Uuid;

use self::held::{Held, Next};
use super::{
    super::{
        AppState,
        body::{JsonBody, read_bytes},
        error::ApiError,
        path::segment,
        query::QueryOf,
        refusals::{Elsewhere, Invalid, Missing, Refused},
    },
    processes::{InputQuery, OutputQuery, Sent, command_of, frame, give},
    session::Session,
};
use crate::wire::sandbox::{
    execution::ExecutionView,
    process::{NewProcess, ProcessEvent, PtyBody, SignalBody},
};

mod held;

/// How long a command outlives the connection of whoever follows it, unless the server is told otherwise.
pub(in crate::server) const GRACE: Duration = Duration::from_secs(15);
/// How many commands of one sandbox are held at once.
const MOST: usize = 256;

/// The commands that this server holds. Clones share them; they end with it.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Executions(Arc<Mutex<Table>>);

/// Each by its sandbox and its own id.
type Table = BTreeMap<(SandboxId, Uuid), Arc<Held>>;

impl Executions {
    fn all(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that one more command of a sandbox can be held: of those whose end was told, the oldest goes for it.
    fn make_room(&self, sandbox: SandboxId) -> Result<(), ApiError> {
        let mut all = self.all();
        let of_it: Vec<_> = all.range((sandbox, Uuid::nil())..=(sandbox, Uuid::max())).collect();
        if of_it.len() < MOST {
            return Ok(());
        }
        let told = of_it.iter().find(|(_, held)| held.was_told()).map(|(key, _)| **key);
        let detail = format!("{MOST} commands of this sandbox are followed already; end one first.");
        let refusal = || ApiError::new(StatusCode::CONFLICT, detail);
        all.remove(&told.ok_or_else(refusal)?).iter().for_each(|held| held.dismiss());
        Ok(())
    }

    /// Holds a command until it is given up.
    fn hold(&self, sandbox: SandboxId, execution: Execution, grace: Duration) -> Uuid {
        let key = (sandbox, Uuid::now_v7());
        let held = Arc::new(Held::new(Arc::clone(&execution.control)));
        self.all().insert(key, Arc::clone(&held));
        let this = self.clone();
        tokio::spawn(async move {
            held.keep(execution, grace).await;
            this.all().remove(&key);
        });
        key.1
    }
}

/// A call about one command.
pub(in crate::server) struct One {
    session: Session,
    held: Arc<Held>,
}

impl FromRequestParts<AppState> for One {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let session = Session::from_request_parts(parts, state).await?;
        // Whoever may use the sandbox is there. One that was stopped is not woken: its commands have ended.
        session.plane.heartbeat(&session.caller, session.id).await?;
        let id = segment(parts, state, "execution").await.parse::<Uuid>().ok();
        let held = id.and_then(|id| state.executions.all().get(&(session.id, id)).cloned());
        let held = held.ok_or_else(|| {
            let detail = "There is no such command any more: it ended with whoever followed it, or with its server.";
            ApiError::not_found(detail).with_code("no_such_execution")
        })?;
        Ok(Self { session, held })
    }
}

/// Start a command that ends, with all it started, when nobody follows its output for a while.
///
/// It waits while its output is not read, so that none of it is lost.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/executions/", tag = "processes", operation_id = "start_execution",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = NewProcess,
    responses((status = 201, description = "Started.", body = ExecutionView), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn start(
    State(state): State<AppState>,
    session: Session,
    JsonBody(body): JsonBody<NewProcess>,
) -> Result<(StatusCode, Json<ExecutionView>), ApiError> {
    if body.tag.is_some() {
        return Err(ApiError::field("tag", "A command that ends with its caller has none; start it as a process."));
    }
    let workplace = session.ready().await?;
    state.executions.make_room(session.id)?;
    let execution = session.during(workplace.machine.exec(command_of(&body))).await??;
    let id = state.executions.hold(session.id, execution, state.grace);
    Ok((StatusCode::CREATED, Json(ExecutionView { id })))
}

/// Follow the output of a command that was started so.
///
/// The id of each event counts the bytes up to its end, over both streams. A stream says so much at most and then ends:
/// with the last id as `Last-Event-ID` the next goes on without a loss, and what lies before it is let go. The last event is
/// `exited`.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/executions/{execution}/output/", tag = "processes",
    operation_id = "follow_execution",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("execution" = uuid::Uuid, Path, description = "The command."),
        ("from" = Option<u64>, Query, description = "How many bytes of output are left out before the first."),
        ("Last-Event-ID" = Option<u64>, Header, description = "The id of the last event that was seen; counts more."),
    ),
    responses(
        (status = 200, description = "Its output, each event a `ProcessEvent`.", body = ProcessEvent,
            content_type = "text/event-stream"),
        Invalid, Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn output(
    State(state): State<AppState>,
    one: One,
    QueryOf(query): QueryOf<OutputQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let from = query.position(&headers);
    one.held.let_go_before(from)?;
    Ok(state.live(one.session.while_read(told(one.held, from))))
}

/// What a command does from byte `from` on, for as long as somebody reads it.
fn told(held: Arc<Held>, from: u64) -> impl Stream<Item = Event> + Send {
    let reader = held.reader();
    let pieces = stream::unfold(Some((reader, from)), move |place| async move {
        let (reader, mut position) = place?;
        match reader.next(position, from).await {
            Next::Output(event) => {
                let told = frame(event, &mut position);
                Some((told, Some((reader, position))))
            }
            Next::Ended(exit) => Some((frame(exit, &mut position), None)),
            Next::Nothing => None,
        }
    });
    pieces.boxed()
}

/// Write to the input of a command that was started so; waits while the command reads slowly.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/executions/{execution}/input/", tag = "processes",
    operation_id = "write_execution_input",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("execution" = uuid::Uuid, Path, description = "The command."),
        ("close" = Option<bool>, Query, description = "Whether its input ends after this."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "Written."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn input(
    State(state): State<AppState>,
    one: One,
    QueryOf(query): QueryOf<InputQuery>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let bytes = read_bytes(body, state.limits.body_bytes).await?;
    give(&one.session, one.held.control(), bytes, query).await
}

/// Send a signal to a command that was started so. One that has ended is left alone.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/executions/{execution}/signal/", tag = "processes",
    operation_id = "signal_execution",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("execution" = uuid::Uuid, Path, description = "The command."),
    ),
    request_body = SignalBody,
    responses((status = 204, description = "Sent."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn signal(
    one: One,
    JsonBody(Sent(signal)): JsonBody<Sent>,
) -> Result<StatusCode, ApiError> {
    one.held.control().signal(signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change the size of the terminal of a command that was started so. One without a terminal is left alone.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/executions/{execution}/resize/", tag = "processes",
    operation_id = "resize_execution",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("execution" = uuid::Uuid, Path, description = "The command."),
    ),
    request_body = PtyBody,
    responses((status = 204, description = "Changed."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn resize(
    one: One,
    JsonBody(PtyBody { rows, columns }): JsonBody<PtyBody>,
) -> Result<StatusCode, ApiError> {
    one.held.control().resize(PtySize { rows, columns }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End a command that was started so, with all it started, and forget it.
#[utoipa::path(
    delete, path = "/api/sandbox/sessions/{id}/executions/{execution}/", tag = "processes", operation_id = "end_execution",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("execution" = uuid::Uuid, Path, description = "The command."),
    ),
    responses((status = 204, description = "It is being ended."), Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn end(one: One) -> StatusCode {
    one.held.dismiss();
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use astraforge_core::session::{ExecEvent, Exit};

    use super::{held::tests::Mute, *};

    #[tokio::test]
    async fn those_whose_end_was_told_make_room_for_others_the_oldest_first() {
        let (executions, sandbox) = (Executions::default(), SandboxId::random());
        let hold = || {
            executions.make_room(sandbox)?;
            let events = stream::iter([Ok(ExecEvent::Exited(Exit::Exited { code: 0 }))]).boxed();
            Ok::<_, ApiError>(executions.hold(sandbox, Execution { events, control: Arc::new(Mute) }, GRACE))
        };
        let ids: Vec<Uuid> = (0..MOST).map(|_| hold().unwrap()).collect();
        hold().expect_err("nobody was told of any end");
        for id in [ids[5], ids[3]] {
            let held = executions.all()[&(sandbox, id)].clone();
            assert!(matches!(held.reader().next(0, 0).await, Next::Ended(_)));
        }
        let new = hold().unwrap();
        let all = executions.all();
        let is_held = |id| all.contains_key(&(sandbox, id));
        assert_eq!((is_held(ids[3]), is_held(ids[5]), is_held(new)), (false, true, true));
    }
}
