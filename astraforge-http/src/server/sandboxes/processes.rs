//! `/api/sandbox/sessions/{id}/processes/`: commands that go on when nobody watches, and their output.

use std::convert::Infallible;

use astraforge_core::{
    error::chain,
    ports::sessions::{ExecControl, Execution, SessionError},
    process::{ParseProcessTagError, Process, ProcessName, ProcessTag},
    session::{Command, ExecEvent, PtySize, Signal},
};
use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{Sse, sse::Event},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{
        AppState,
        body::{JsonBody, read_bytes},
        error::ApiError,
        fields::{self, Fields, FromFields, Mistake, mistake},
        path::segment,
        query::QueryOf,
        refusals::{Elsewhere, Invalid, Missing, Refused},
    },
    exec::{command_body, settled, words},
    session::{Session, Workplace},
};
use crate::wire::sandbox::{
    exec::{Encoding, cause_of},
    process::{NewProcess, ProcessEvent, ProcessView, PtyBody, SignalBody},
};

/// A call about one process of a sandbox.
pub(in crate::server) struct One {
    session: Session,
    name: ProcessName,
}

impl One {
    /// Finds the process as it is now.
    async fn find(&self) -> Result<(Workplace, Process), ApiError> {
        let workplace = self.session.ready().await?;
        let mut processes = workplace.machine.processes().await?;
        let is_meant = |process: &Process| match &self.name {
            ProcessName::Id(id) => process.id == *id,
            ProcessName::Tag(tag) => process.tag.as_ref() == Some(tag),
        };
        let place = processes.iter().rposition(is_meant);
        let place = place.ok_or_else(|| SessionError::NoSuchProcess { name: self.name.clone() })?;
        Ok((workplace, processes.swap_remove(place)))
    }

    /// Follows the process from now on, to steer it. What steers it does so as long as it is followed.
    async fn follow(&self) -> Result<Execution, ApiError> {
        let (workplace, process) = self.find().await?;
        Ok(workplace.machine.attach(ProcessName::Id(process.id), process.next_sequence).await?)
    }
}

impl FromRequestParts<AppState> for One {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let session = Session::from_request_parts(parts, state).await?;
        let name = segment(parts, state, "name").await.parse();
        let name = name.map_err(|error: ParseProcessTagError| ApiError::not_found(error.to_string()))?;
        Ok(Self { session, name })
    }
}

/// Start a command that goes on when nobody watches, until it ends or the sandbox does.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/processes/", tag = "processes", operation_id = "start_process",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = NewProcess,
    responses((status = 201, description = "Started.", body = ProcessView), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn start(
    session: Session,
    JsonBody(body): JsonBody<NewProcess>,
) -> Result<(StatusCode, Json<ProcessView>), ApiError> {
    let tag = body.tag.as_deref().map(str::parse::<ProcessTag>).transpose();
    let tag = tag.map_err(|error| ApiError::field("tag", error.to_string()))?;
    let process = session.ready().await?.machine.spawn(command_of(&body), tag).await?;
    Ok((StatusCode::CREATED, Json(process.into())))
}

/// The command that a body describes.
pub(super) fn command_of(body: &NewProcess) -> Command {
    let command = settled(words(&body.command), body.cwd.as_deref(), &body.env, body.timeout_sec);
    let command = if body.open_stdin { command.with_open_stdin() } else { command };
    let size = body.pty.map(|PtyBody { rows, columns }| PtySize { rows, columns });
    size.into_iter().fold(command, Command::with_pty)
}

/// List the commands that were started so, the oldest first; the last of those that ended too.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/processes/", tag = "processes", operation_id = "list_processes",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    responses((status = 200, description = "The commands.", body = Vec<ProcessView>), Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn list(session: Session) -> Result<Json<Vec<ProcessView>>, ApiError> {
    let processes = session.ready().await?.machine.processes().await?;
    Ok(Json(processes.into_iter().map(ProcessView::from).collect()))
}

/// Show one command.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/processes/{name}/", tag = "processes", operation_id = "show_process",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("name" = String, Path, description = "Its id, or its tag: the youngest of that tag."),
    ),
    responses((status = 200, description = "The command.", body = ProcessView), Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn show(one: One) -> Result<Json<ProcessView>, ApiError> {
    Ok(Json(one.find().await?.1.into()))
}

/// Send a signal to a command. One that has ended is left alone.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/processes/{name}/signal/", tag = "processes", operation_id = "signal_process",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("name" = String, Path, description = "Its id, or its tag: the youngest of that tag."),
    ),
    request_body = SignalBody,
    responses((status = 204, description = "Sent."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn signal(
    one: One,
    JsonBody(Sent(signal)): JsonBody<Sent>,
) -> Result<StatusCode, ApiError> {
    one.session.ready().await?.machine.signal(one.name.clone(), signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Write to the input of a command that was started with it open; waits while the command reads slowly.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/processes/{name}/input/", tag = "processes", operation_id = "write_input",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("name" = String, Path, description = "Its id, or its tag: the youngest of that tag."),
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
    let process = one.follow().await?;
    give(&one.session, process.control.as_ref(), bytes, query).await
}

/// Gives a command its input, for as long as its sandbox is there, and ends it if that is asked for.
pub(super) async fn give(
    session: &Session,
    command: &dyn ExecControl,
    bytes: Bytes,
    InputQuery { close }: InputQuery,
) -> Result<StatusCode, ApiError> {
    if !bytes.is_empty() {
        session.during(command.write_stdin(bytes)).await??;
    }
    if close {
        command.close_stdin().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What follows what is written.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct InputQuery {
    #[serde(default)]
    close: bool,
}

/// Change the size of a command's terminal. One without a terminal is left alone.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/processes/{name}/resize/", tag = "processes", operation_id = "resize_terminal",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("name" = String, Path, description = "Its id, or its tag: the youngest of that tag."),
    ),
    request_body = PtyBody,
    responses((status = 204, description = "Changed."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn resize(
    one: One,
    JsonBody(PtyBody { rows, columns }): JsonBody<PtyBody>,
) -> Result<StatusCode, ApiError> {
    let process = one.follow().await?;
    process.control.resize(PtySize { rows, columns }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where output is read from.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct OutputQuery {
    from: Option<u64>,
}

impl OutputQuery {
    /// The byte to begin with: what a reader has seen counts more than what it asked for once.
    pub(super) fn position(&self, headers: &HeaderMap) -> u64 {
        let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse().ok());
        seen.or(self.from).unwrap_or(0)
    }
}

/// Follow the output of a command from its beginning, or from a byte on, to its end.
///
/// The id of each event counts the bytes up to its end, over both streams: with it as `Last-Event-ID` the stream goes on
/// without a loss. What is no longer kept is told as such.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/processes/{name}/output/", tag = "processes", operation_id = "follow_process",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("name" = String, Path, description = "Its id, or its tag: the youngest of that tag."),
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
    let execution = one.session.ready().await?.machine.attach(one.name.clone(), from).await?;
    Ok(state.live(one.session.while_read(told(execution, from))))
}

/// What a command does, as events. An error ends them; the caller resumes where it was.
fn told(execution: Execution, from: u64) -> impl Stream<Item = Event> + Send {
    let mut seen = from;
    execution.events.filter_map(move |event| {
        let event =
            event.inspect_err(|error| tracing::info!(error = chain(error), "the output of a command broke off"));
        let event = event.ok().map(|event| frame(event, &mut seen));
        std::future::ready(event)
    })
}

/// An event as it is sent; `seen` counts the bytes up to its end.
pub(super) fn frame(event: ExecEvent, seen: &mut u64) -> Event {
    let event = match event {
        ExecEvent::Stdout(bytes) => {
            *seen += bytes.len() as u64;
            let (data, encoding) = written(&bytes);
            ProcessEvent::Stdout { data, encoding }
        }
        ExecEvent::Stderr(bytes) => {
            *seen += bytes.len() as u64;
            let (data, encoding) = written(&bytes);
            ProcessEvent::Stderr { data, encoding }
        }
        ExecEvent::Lost(n_bytes) => {
            *seen += n_bytes;
            ProcessEvent::Lost { n_bytes }
        }
        ExecEvent::Exited(exit) => ProcessEvent::Exited { exit_code: exit.code(), cause: cause_of(exit).to_owned() },
    };
    let frame = Event::default().id(seen.to_string());
    frame.json_data(&event).unwrap_or_else(|_| Event::default().comment("an event that cannot be written"))
}

/// Bytes as text where they are, else in base64.
fn written(bytes: &Bytes) -> (String, Encoding) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), Encoding::Utf8),
        Err(_) => (BASE64_STANDARD.encode(bytes), Encoding::Base64),
    }
}

impl FromFields for NewProcess {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let command = fields.required("command", command_body);
        let tag = fields.optional("tag", fields::name(64));
        let cwd = fields.optional("cwd", fields::raw).filter(|cwd| !cwd.trim().is_empty());
        let timeout_sec = fields.nullable("timeout_sec", fields::seconds(1)).flatten();
        let env = fields.optional("env", fields::variables).unwrap_or_default();
        let open_stdin = fields.optional("open_stdin", fields::boolean).unwrap_or_default();
        let pty = fields.nullable("pty", fields::object).flatten();
        Some(Self { command: command?, tag, cwd, timeout_sec, env, open_stdin, pty })
    }
}

impl FromFields for PtyBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let (rows, columns) = (fields.required("rows", characters), fields.required("columns", characters));
        Some(Self { rows: rows?, columns: columns? })
    }
}

fn characters(value: Value) -> Result<u16, Mistake> {
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| mistake("A number from 1 to 65535 is required."))
}

/// A signal to send.
pub(in crate::server) struct Sent(pub(super) Signal);

impl FromFields for Sent {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let named = |name: &str| match name {
            "interrupt" => Some(Signal::Interrupt),
            "terminate" => Some(Signal::Terminate),
            "kill" => Some(Signal::Kill),
            _ => None,
        };
        fields.required("signal", fields::choice(named)).map(Self)
    }
}
