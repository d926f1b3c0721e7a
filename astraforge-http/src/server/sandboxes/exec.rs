//! `/api/sandbox/sessions/{id}/exec/`: commands that are waited for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use astraforge_core::{
    ports::sessions::{Execution, SessionError},
    session::{Command, ExecEvent, ExecOutput},
};
use axum::Json;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::StreamExt;
use serde_json::Value;

use super::{
    super::{
        body::JsonBody,
        error::ApiError,
        fields::{self, Fields, FromFields, Mistake, mistake},
        refusals::{Elsewhere, Invalid, Missing, Refused},
    },
    session::{Session, absolute},
};
use crate::wire::sandbox::exec::{CommandBody, Encoding, ExecBody, ExecView, cause_of};

/// The most that is answered of each stream, in bytes.
const MAX_OUTPUT: usize = 8 * 1024 * 1024;
/// What a shell answers for a program that is not there.
const NOT_FOUND: i32 = 127;

/// Run a command and wait for its end. When the caller goes away, it is ended with all it started, unless the call has an `Idempotency-Key`.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/exec/", tag = "sandboxes", operation_id = "exec",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = ExecBody,
    responses(
        (status = 200, description = "It ended, or could not be started.", body = ExecView),
        Invalid, Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn exec(
    session: Session,
    JsonBody(body): JsonBody<ExecBody>,
) -> Result<Json<ExecView>, ApiError> {
    let workplace = session.ready().await?;
    let began = Instant::now();
    let running = async { collected(workplace.machine.exec(command(&body)).await?, &body).await };
    let output = session.during(running).await?;
    let duration_sec = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    let view = match output {
        Ok(output) => ended(&body, output, duration_sec),
        Err(error @ SessionError::Spawn { .. }) => not_started(&body, &error, duration_sec),
        Err(error) => return Err(error.into()),
    };
    Ok(Json(view))
}

/// The same as `exec`, by the contract's other name.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/shell/", tag = "sandboxes", operation_id = "shell",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = ExecBody,
    responses(
        (status = 200, description = "It ended, or could not be started.", body = ExecView),
        Invalid, Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn shell(session: Session, body: JsonBody<ExecBody>) -> Result<Json<ExecView>, ApiError> {
    exec(session, body).await
}

/// Reads what a command writes to its end, and keeps what is wanted of it, up to a bound.
async fn collected(mut execution: Execution, body: &ExecBody) -> Result<ExecOutput, SessionError> {
    let (mut stdout, mut stderr, mut truncated) = (Vec::new(), Vec::new(), false);
    while let Some(event) = execution.events.next().await.transpose()? {
        let (kept, bytes, is_wanted) = match event {
            ExecEvent::Stdout(bytes) => (&mut stdout, bytes, body.capture_stdout),
            ExecEvent::Stderr(bytes) => (&mut stderr, bytes, body.capture_stderr),
            ExecEvent::Lost(_) => {
                truncated = true;
                continue;
            }
            ExecEvent::Exited(exit) => return Ok(ExecOutput { stdout, stderr, exit, truncated }),
        };
        if is_wanted {
            let room = MAX_OUTPUT - kept.len();
            truncated |= bytes.len() > room;
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
    Err(SessionError::Lost)
}

fn command(body: &ExecBody) -> Command {
    let command = words(&body.command).with_stdin(body.stdin.clone().into_bytes());
    settled(command, body.cwd.as_deref(), &body.env, body.timeout_sec)
}

/// A line for a shell, or a program and its arguments.
pub(super) fn words(command: &CommandBody) -> Command {
    match command {
        CommandBody::Line(line) => Command::shell(line),
        CommandBody::Words(words) => Command::new(words),
    }
}

/// The command with where and for how long it runs.
pub(super) fn settled(
    command: Command,
    cwd: Option<&str>,
    env: &BTreeMap<String, String>,
    timeout_sec: Option<u64>,
) -> Command {
    let command = env.iter().fold(command, |command, (name, value)| command.with_env(name, value));
    let command = cwd.iter().fold(command, |command, cwd| command.with_cwd(absolute(cwd)));
    timeout_sec.into_iter().fold(command, |command, seconds| command.with_timeout(Duration::from_secs(seconds)))
}

fn ended(body: &ExecBody, output: ExecOutput, duration_sec: f64) -> ExecView {
    ExecView {
        exit_code: output.exit.code(),
        stdout: written(output.stdout, body.encoding),
        stderr: written(output.stderr, body.encoding),
        duration_sec,
        truncated: output.truncated,
        cause: cause_of(output.exit).to_owned(),
    }
}

fn not_started(body: &ExecBody, error: &SessionError, duration_sec: f64) -> ExecView {
    let stderr =
        if body.capture_stderr { written(error.to_string().into_bytes(), body.encoding) } else { String::new() };
    ExecView {
        exit_code: NOT_FOUND,
        stdout: String::new(),
        stderr,
        duration_sec,
        truncated: false,
        cause: "not_started".to_owned(),
    }
}

/// Bytes as text.
fn written(bytes: Vec<u8>, encoding: Encoding) -> String {
    match encoding {
        Encoding::Utf8 => {
            String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        }
        Encoding::Base64 => BASE64_STANDARD.encode(bytes),
    }
}

impl FromFields for ExecBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let command = fields.required("command", command_body);
        let cwd = fields.optional("cwd", fields::raw).filter(|cwd| !cwd.trim().is_empty());
        let timeout_sec = fields.nullable("timeout_sec", fields::seconds(1)).flatten();
        let capture_stdout = fields.optional("capture_stdout", fields::boolean).unwrap_or(true);
        let capture_stderr = fields.optional("capture_stderr", fields::boolean).unwrap_or(true);
        let env = fields.optional("env", fields::variables).unwrap_or_default();
        let stdin = fields.optional("stdin", fields::anything).unwrap_or_default();
        let encoding = fields.optional("encoding", fields::choice(Encoding::named)).unwrap_or_default();
        let command = command?;
        Some(Self { command, cwd, timeout_sec, capture_stdout, capture_stderr, env, stdin, encoding })
    }
}

/// Reads a command.
pub(super) fn command_body(value: Value) -> Result<CommandBody, Mistake> {
    match value {
        Value::String(_) => fields::raw(value).map(CommandBody::Line),
        Value::Array(words) if words.is_empty() => Err(mistake("This list may not be empty.")),
        Value::Array(words) if words.iter().all(Value::is_string) => {
            words.into_iter().map(fields::raw).collect::<Result<_, _>>().map(CommandBody::Words)
        }
        _ => Err(mistake("Must be a string or list of strings")),
    }
}
