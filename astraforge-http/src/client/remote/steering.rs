//! Commands in a sandbox of another server: how they are started, steered and ended.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{ExecControl, Execution, SessionError},
    process::{ProcessId, ProcessTag},
    session::{Command, PtySize, Signal, StdinEnd},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, StatusCode, header::CONTENT_TYPE};
use tokio::{
    runtime::Handle,
    sync::{Mutex, oneshot},
    task::JoinHandle,
};

use super::{
    super::{
        Client, ClientError,
        sandboxes::{answer, done, path},
    },
    following::{Followed, follow_output},
};
use crate::wire::sandbox::{
    exec::CommandBody,
    execution::ExecutionView,
    process::{NewProcess, PtyBody, SignalBody},
};

/// The most input that is sent in one call, in bytes.
const MOST_INPUT: usize = 256 * 1024;

/// Starts a command that ends with its execution, and when its first input cannot be given.
pub(super) async fn exec(client: &Client, sandbox: SandboxId, command: Command) -> Result<Execution, SessionError> {
    let call = client.open_ended_call(Method::POST, &path(sandbox, "executions/")).json(&new_process(&command, None));
    let view: ExecutionView = answer(call).await.map_err(ClientError::into_session_error)?;
    let steering = Arc::new(Steering::new(client, sandbox, format!("executions/{}/", view.id)));
    let mut leash = Leash { steering: Arc::clone(&steering), feeding: None, failure: None };
    if !command.stdin.is_empty() {
        // What comes later waits until the first of it is there.
        let turn = Arc::clone(&steering.input).lock_owned().await;
        let feeding = Arc::clone(&steering);
        let (failed, failure) = oneshot::channel();
        leash.failure = Some(failure);
        leash.feeding = Some(tokio::spawn(async move {
            let given = feeding.send_input(command.stdin, command.stdin_end == StdinEnd::AtOnce).await;
            drop(turn);
            match given {
                // A command that takes no more has ended, which its output tells, or has closed its input.
                Ok(()) | Err(SessionError::Lost) => {}
                // It would wait for the rest for ever.
                Err(error) => {
                    drop(failed.send(error));
                    feeding.end().await;
                }
            }
        }));
    }
    let events = follow_output(client, sandbox, steering.place.clone(), 0, Followed::Execution);
    // The leash is held for as long as the events are.
    let events = stream::unfold(Some((events, leash)), |place| async move {
        let (mut events, mut leash) = place?;
        tokio::select! {
            biased;
            error = leash.failure() => Some((Err(error), None)),
            event = events.next() => Some((event?, Some((events, leash)))),
        }
    });
    Ok(Execution { events: events.boxed(), control: steering })
}

/// A command, as the server is told of it.
pub(super) fn new_process(command: &Command, tag: Option<ProcessTag>) -> NewProcess {
    let env: BTreeMap<String, String> = command.env.clone();
    NewProcess {
        command: CommandBody::Words(command.argv.clone()),
        tag: tag.map(String::from),
        cwd: Some(command.cwd.to_string_lossy().into_owned()),
        timeout_sec: command.timeout.map(whole_seconds),
        env,
        open_stdin: command.stdin_end == StdinEnd::WhenClosed || !command.stdin.is_empty(),
        pty: command.pty.map(|PtySize { rows, columns }| PtyBody { rows, columns }),
    }
}

/// Seconds, at least one: a command has rather more time than less.
fn whole_seconds(timeout: Duration) -> u64 {
    timeout.as_secs().saturating_add(u64::from(timeout.subsec_nanos() > 0)).max(1)
}

/// The name of a signal on the wire.
pub(super) const fn word_of(signal: Signal) -> &'static str {
    match signal {
        Signal::Interrupt => "interrupt",
        Signal::Terminate => "terminate",
        Signal::Kill => "kill",
    }
}

/// Steers a command of another server.
pub(super) struct Steering {
    client: Client,
    sandbox: SandboxId,
    /// Where it is, below its sandbox: `processes/7/` or `executions/…/`.
    place: String,
    /// Whose turn it is to write to its input.
    input: Arc<Mutex<()>>,
}

impl Steering {
    fn new(client: &Client, sandbox: SandboxId, place: String) -> Self {
        Self { client: client.clone(), sandbox, place, input: Arc::default() }
    }

    /// Steers a process that goes on.
    pub(super) fn of_process(client: &Client, sandbox: SandboxId, process: ProcessId) -> Self {
        Self::new(client, sandbox, format!("processes/{process}/"))
    }

    /// Gives a command its first input.
    pub(super) async fn give(&self, stdin: Bytes, end: StdinEnd) -> Result<(), SessionError> {
        if stdin.is_empty() {
            return Ok(()); // one that reads nothing was started so
        }
        self.send_input(stdin, end == StdinEnd::AtOnce).await
    }

    /// Writes to the input, each byte once: a piece whose answer is lost is sent again under the key of its call.
    async fn send_input(&self, mut bytes: Bytes, close: bool) -> Result<(), SessionError> {
        loop {
            let piece = bytes.split_to(bytes.len().min(MOST_INPUT));
            let is_last = bytes.is_empty();
            let call = self.call(Method::POST, "input/").query(&[("close", close && is_last)]);
            let call = call.header(CONTENT_TYPE, "application/octet-stream").body(reqwest::Body::from(piece));
            done(call).await.map_err(ClientError::into_session_error)?;
            if is_last {
                return Ok(());
            }
        }
    }

    fn call(&self, method: Method, rest: &str) -> reqwest::RequestBuilder {
        self.client.open_ended_call(method, &path(self.sandbox, &format!("{}{rest}", self.place)))
    }

    /// Ends the command. Where nothing can be sent any more, the server ends it in a while by itself.
    async fn end(&self) {
        drop(self.order(self.call(Method::DELETE, "")).await);
    }

    /// Sends an order; a command that is not there any more needs none.
    async fn order(&self, call: reqwest::RequestBuilder) -> Result<(), SessionError> {
        match done(call).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            outcome => outcome.map_err(ClientError::into_session_error),
        }
    }
}

#[async_trait]
impl ExecControl for Steering {
    async fn signal(&self, signal: Signal) -> Result<(), SessionError> {
        let body = SignalBody { signal: word_of(signal).to_owned() };
        self.order(self.call(Method::POST, "signal/").json(&body)).await
    }

    async fn write_stdin(&self, bytes: Bytes) -> Result<(), SessionError> {
        let _turn = self.input.lock().await;
        self.send_input(bytes, false).await
    }

    async fn close_stdin(&self) -> Result<(), SessionError> {
        let _turn = self.input.lock().await;
        self.send_input(Bytes::new(), true).await
    }

    async fn resize(&self, PtySize { rows, columns }: PtySize) -> Result<(), SessionError> {
        self.order(self.call(Method::POST, "resize/").json(&PtyBody { rows, columns })).await
    }
}

/// Ends a command when it is dropped.
struct Leash {
    steering: Arc<Steering>,
    feeding: Option<JoinHandle<()>>,
    /// Why the first input could not be given.
    failure: Option<oneshot::Receiver<SessionError>>,
}

impl Leash {
    /// Returns when the first input could not be given, with why.
    async fn failure(&mut self) -> SessionError {
        if let Some(failure) = &mut self.failure {
            let told = failure.await;
            self.failure = None; // one that was heard must not be asked again
            if let Ok(error) = told {
                return SessionError::Backend { operation: "give the command its input", source: error.into() };
            }
        }
        std::future::pending().await
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(feeding) = &self.feeding {
            feeding.abort();
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let steering = Arc::clone(&self.steering);
        runtime.spawn(async move { steering.end().await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_its_whole_time() {
        assert_eq!(whole_seconds(Duration::from_millis(100)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
        assert_eq!(whole_seconds(Duration::from_millis(2001)), 3);
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }
}
