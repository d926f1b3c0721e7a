//! The way to a guest: its relay, run in the container by the engine, whose streams become one.

use std::io;

use astraforge_core::{BoxError, ports::guest_service::GuestStream};
use bollard::{
    container::LogOutput,
    errors::Error,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, future::ready, stream};
use tokio::{
    io::join,
    time::{Duration, timeout},
};
use tokio_util::{compat::TokioAsyncReadCompatExt, io::StreamReader};

use super::engine::Engine;
use crate::container::GUEST;

/// Who the relay runs as: not as the agent, who could end it otherwise.
const USER: &str = "65534:65534";

/// How long the guest may take to say its first word.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most that a relay's complaint is read of.
const MOST_WORDS: usize = 2048;

/// Opens a stream to the guest of a container, and returns once the guest has said its first word.
///
/// The inner result is what came instead of it, in words.
pub(super) async fn open(engine: &Engine, container: &str) -> Result<Result<GuestStream, BoxError>, Error> {
    let command = CreateExecOptions {
        cmd: Some(vec![GUEST, "connect"]),
        user: Some(USER),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let exec = engine.0.create_exec(container, command).await?;
    let options = StartExecOptions { output_capacity: Some(64 * 1024), ..Default::default() };
    let StartExecResults::Attached { output, input } = engine.0.start_exec(&exec.id, Some(options)).await? else {
        return Ok(Err("the engine has detached the relay".into()));
    };
    let mut output = output;
    let first = match timeout(PATIENCE, first_word(&mut output)).await {
        Ok(Ok(first)) => first,
        Ok(Err(reason)) => return Ok(Err(reason)),
        Err(_) => return Ok(Err(format!("the guest was silent for {} s", PATIENCE.as_secs()).into())),
    };
    let rest = output.filter_map(|chunk| ready(guests(chunk).transpose()));
    let from_guest = StreamReader::new(stream::once(ready(Ok(first))).chain(rest).boxed());
    Ok(Ok(Box::pin(join(from_guest, input).compat())))
}

/// What a chunk of the relay's output brings of the guest.
fn guests(chunk: Result<LogOutput, Error>) -> io::Result<Option<Bytes>> {
    match chunk {
        Ok(LogOutput::StdOut { message }) => Ok(Some(message)),
        Ok(other) => {
            tracing::debug!(text = %other, "a relay complains");
            Ok(None)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

async fn first_word(output: &mut (impl Stream<Item = Result<LogOutput, Error>> + Unpin)) -> Result<Bytes, BoxError> {
    let mut complaint = String::new();
    while let Some(chunk) = output.next().await {
        match chunk? {
            LogOutput::StdOut { message } if complaint.is_empty() => return Ok(message),
            other if complaint.len() < MOST_WORDS => complaint.push_str(&other.to_string()),
            _ => {}
        }
    }
    let complaint = complaint.trim();
    Err(if complaint.is_empty() { "the guest hung up".into() } else { complaint.to_owned().into() })
}
