//! `sandbox exec`: a command whose streams and exit code are this one's, or one that goes on by itself.

use std::{io::Write, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use astraforge_core::{
    id::SandboxId,
    ports::sessions::{ExecControl, SessionError},
    session::{Command, ExecEvent, Exit, Signal},
};
use serde_json::json;
use tokio::{io::AsyncReadExt, task::JoinHandle};

use super::{Desk, Next, processes::shown_process, sandbox_id};
use crate::{
    cli::ExecArgs,
    signals::{Interrupted, StopSignals},
};

/// How long a command may take to hear that it is to end.
const PATIENCE: Duration = Duration::from_secs(5);

impl Desk<'_> {
    pub(super) async fn exec(&self, args: &ExecArgs) -> anyhow::Result<ExitCode> {
        let id = sandbox_id(&args.id)?;
        let command = Command::new(args.command.iter().cloned()).with_cwd(&args.cwd);
        let mut command = args.env.iter().fold(command, |command, (name, value)| command.with_env(name, value));
        if let Some(seconds) = args.timeout {
            command = command.with_timeout(Duration::from_secs(seconds));
        }
        if args.detach {
            self.start(id, command, args).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut stop = StopSignals::listen().context("cannot listen for signals")?;
        let start = async { Ok::<_, anyhow::Error>(self.machine(id).await?.exec(command.with_open_stdin()).await?) };
        let mut execution = tokio::select! {
            started = start => started?,
            () = stop.told() => leave(Ok(i32::from(Interrupted::EXIT_CODE))),
        };
        let mut feed = tokio::spawn(feed(execution.control.clone()));
        let ended = tokio::select! {
            ended = self.attend(id, &mut execution, hand_on) => ended.map(|exit| exit.map_or(1, Exit::code)),
            error = starved(&mut feed) => {
                end(execution.control.as_ref()).await;
                Err(error)
            }
            () = stop.told() => {
                end(execution.control.as_ref()).await;
                Ok(i32::from(Interrupted::EXIT_CODE))
            }
        };
        feed.abort();
        leave(ended)
    }

    async fn start(&self, id: SandboxId, command: Command, args: &ExecArgs) -> anyhow::Result<()> {
        let process = self.machine(id).await?.spawn(command, args.tag.clone()).await?;
        let mut value = shown_process(&process);
        value["sandbox"] = json!(id);
        self.say(&value, &process.id.to_string())
    }
}

/// Gives a command what comes on standard input, until that ends or the command takes no more.
///
/// # Errors
/// Those of the sandbox when the command may still wait for input.
pub(super) async fn feed(control: Arc<dyn ExecControl>) -> Result<(), SessionError> {
    match hand_in(control.as_ref()).await {
        // The command has ended, which its output tells, or has closed its input.
        Err(SessionError::Lost) => Ok(()),
        given => given,
    }
}

async fn hand_in(control: &dyn ExecControl) -> Result<(), SessionError> {
    let (mut stdin, mut buffer) = (tokio::io::stdin(), vec![0; 64 * 1024]);
    while let Ok(n_bytes @ 1..) = stdin.read(&mut buffer).await {
        control.write_stdin(buffer[..n_bytes].to_vec().into()).await?;
    }
    control.close_stdin().await
}

/// Returns when a command could not be given its input, with why: it would wait for the rest for ever.
pub(super) async fn starved(feed: &mut JoinHandle<Result<(), SessionError>>) -> anyhow::Error {
    match feed.await {
        Ok(Err(error)) => {
            anyhow::Error::from(error).context("the input could not be given to the command, which was ended")
        }
        _ => std::future::pending().await,
    }
}

/// Ends a command. Said while there still is a connection to say it on; where there is none, it ends in a while by itself.
pub(super) async fn end(control: &dyn ExecControl) {
    drop(tokio::time::timeout(PATIENCE, control.signal(Signal::Kill)).await);
}

/// Ends this process at once: a thread may still wait for standard input, which nobody can take from it.
pub(super) fn leave(ended: anyhow::Result<i32>) -> ! {
    let code = ended.unwrap_or_else(|error| {
        crate::render::report(&error);
        1
    });
    std::process::exit(code)
}

/// Writes a command's output where this one's goes.
pub(super) fn hand_on(event: ExecEvent) -> anyhow::Result<Next> {
    match event {
        ExecEvent::Stdout(bytes) => pass(&mut std::io::stdout(), &bytes)?,
        ExecEvent::Stderr(bytes) => pass(&mut std::io::stderr(), &bytes)?,
        ExecEvent::Lost(n_bytes) => {
            let note = format!("astraforge: {n_bytes} bytes of output were too old to be kept\n");
            pass(&mut std::io::stderr(), note.as_bytes())?;
        }
        ExecEvent::Exited(_) => {}
    }
    Ok(Next::More)
}

fn pass(to: &mut impl Write, bytes: &[u8]) -> anyhow::Result<()> {
    to.write_all(bytes)?;
    Ok(to.flush()?)
}
