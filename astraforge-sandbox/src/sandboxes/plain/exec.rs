//! Commands in a sandbox without a guest.
//!
//! Nobody inside watches over a command's tree. So each command carries a mark in its environment, which its
//! descendants inherit; when it ends, times out or is no longer wanted, whatever carries the mark is killed. A process
//! that clears its environment escapes that, until the sandbox ends.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{ExecControl, Execution, SessionError},
    session::{Command, ExecEvent, Exit, PtySize, Signal, StdinEnd},
};
use async_stream::stream;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    runtime::Handle,
    sync::Mutex,
    time::Instant,
};

use super::{
    needs_guest,
    start::{Starter, broken},
};
use crate::plain::{PlainOutput, PlainProcess};

/// The variable that marks a command's tree.
const MARK: &str = "ASTRAFORGE_EXEC";

/// Takes the working folder, a number of bytes or `-`, a number of variables, the variables, and the command.
const RUN: &str = r#"cd -- "$1" || exit 126
stdin=$2; n=$3; shift 3
while [ "$n" -gt 0 ]; do export "$1"; shift; n=$((n - 1)); done
case $stdin in
-) exec "$@" ;;
0) exec "$@" </dev/null ;;
*) head -c "$stdin" | "$@" ;;
esac"#;

/// Takes a signal and a mark; sends the one to all that carry the other, until nobody new does.
const KILL: &str = r#"signal=$1; mark=$2; rounds=50
while [ "$rounds" -gt 0 ]; do
    found=
    for process in /proc/[0-9]*; do
        if tr '\0' '\n' 2>/dev/null <"$process/environ" | grep -qxF -- "$mark"; then
            kill "-$signal" "${process#/proc/}" 2>/dev/null && found=1
        fi
    done 2>/dev/null
    [ "$signal" = KILL ] && [ -n "$found" ] || exit 0
    rounds=$((rounds - 1))
done"#;

/// Starts a command.
pub(super) async fn start(starter: &Arc<Starter>, command: Command) -> Result<Execution, SessionError> {
    if command.pty.is_some() {
        return Err(needs_guest("a terminal"));
    }
    let tree = Arc::new(Tree {
        starter: Arc::clone(starter),
        mark: format!("{MARK}={}", SandboxId::random()),
        done: false.into(),
    });
    let open = command.stdin_end == StdinEnd::WhenClosed;
    // A transport that cannot end a program's input does not matter where its length is known.
    let stdin = if open { "-".to_owned() } else { command.stdin.len().to_string() };
    let mut env: Vec<String> = command.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.push(tree.mark.clone());
    let (cwd, n_env) = (command.cwd.to_string_lossy().into_owned(), env.len().to_string());
    let mut arguments = vec![cwd.as_str(), &stdin, &n_env];
    arguments.extend(env.iter().map(String::as_str));
    arguments.extend(command.argv.iter().map(String::as_str));
    let PlainProcess { stdin, output } = starter.script(RUN, &arguments).await?;
    let control = Arc::new(Control { tree: Arc::clone(&tree), stdin: Mutex::new(Some(stdin)), open });
    let feed = feed(Arc::clone(&control), command.stdin);
    let deadline = command.timeout.map(|timeout| Instant::now() + timeout);
    let watched = Watched(tree);
    let events = stream! {
        let mut output = output;
        let mut feed = std::pin::pin!(feed);
        let mut fed = false;
        let tree = Arc::clone(&watched.0);
        loop {
            tokio::select! {
                biased;
                () = until(deadline) => {
                    tree.kill("KILL").await;
                    tree.end();
                    yield Ok(ExecEvent::Exited(Exit::TimedOut));
                    return;
                }
                () = &mut feed, if !fed => fed = true,
                next = output.next() => match next {
                    Some(Ok(PlainOutput::Stdout(bytes))) => yield Ok(ExecEvent::Stdout(bytes)),
                    Some(Ok(PlainOutput::Stderr(bytes))) => yield Ok(ExecEvent::Stderr(bytes)),
                    Some(Ok(PlainOutput::Exited(code))) => {
                        tree.kill("KILL").await;
                        tree.end();
                        yield Ok(ExecEvent::Exited(Exit::Exited { code }));
                        return;
                    }
                    Some(Err(error)) => {
                        yield Err(broken(error));
                        return;
                    }
                    None => {
                        yield Err(SessionError::Lost);
                        return;
                    }
                },
            }
        }
    };
    Ok(Execution { events: events.boxed(), control })
}

/// Writes what the command reads first.
async fn feed(control: Arc<Control>, bytes: Bytes) {
    let mut stdin = control.stdin.lock().await;
    let Some(pipe) = stdin.as_mut() else { return };
    // A command that reads no more has no use for the rest.
    let written = pipe.write_all(&bytes).await.is_ok() && pipe.flush().await.is_ok();
    if !control.open || !written {
        drop(pipe.shutdown().await);
        *stdin = None;
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// All processes of a command.
#[derive(Debug)]
struct Tree {
    starter: Arc<Starter>,
    mark: String,
    done: AtomicBool,
}

impl Tree {
    async fn kill(&self, signal: &str) {
        let arguments = [signal, &self.mark];
        let killed = self.starter.run(KILL, &arguments);
        match tokio::time::timeout(Duration::from_secs(30), killed).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a command's processes may go on"),
            Err(_) => tracing::warn!("a command's processes may go on: the sandbox does not answer"),
        }
    }

    fn end(&self) {
        self.done.store(true, Ordering::Release);
    }
}

/// Kills the tree when nobody listens any more.
struct Watched(Arc<Tree>);

impl Drop for Watched {
    fn drop(&mut self) {
        if let (false, Ok(runtime)) = (self.0.done.load(Ordering::Acquire), Handle::try_current()) {
            let tree = Arc::clone(&self.0);
            runtime.spawn(async move { tree.kill("KILL").await });
        }
    }
}

struct Control {
    tree: Arc<Tree>,
    stdin: Mutex<Option<Pin<Box<dyn AsyncWrite + Send>>>>,
    open: bool,
}

#[async_trait]
impl ExecControl for Control {
    async fn signal(&self, signal: Signal) -> Result<(), SessionError> {
        let name = match signal {
            Signal::Interrupt => "INT",
            Signal::Terminate => "TERM",
            Signal::Kill => "KILL",
        };
        self.tree.starter.run(KILL, &[name, &self.tree.mark]).await.map(drop)
    }

    async fn write_stdin(&self, bytes: Bytes) -> Result<(), SessionError> {
        if !self.open {
            let reason = "the command was started with its standard input closed".to_owned();
            return Err(SessionError::Unsupported { what: "more input".to_owned(), reason });
        }
        let mut stdin = self.stdin.lock().await;
        let pipe = stdin.as_mut().ok_or(SessionError::Lost)?;
        let written = async { pipe.write_all(&bytes).await.and(pipe.flush().await) };
        written.await.map_err(|_| SessionError::Lost)
    }

    async fn close_stdin(&self) -> Result<(), SessionError> {
        if let Some(mut pipe) = self.stdin.lock().await.take() {
            drop(pipe.shutdown().await);
        }
        Ok(())
    }

    async fn resize(&self, _: PtySize) -> Result<(), SessionError> {
        Ok(())
    }
}
