//! `sandbox shell`: a person's terminal becomes one of a sandbox, and is theirs again at the end.

use std::{
    io::{self, IsTerminal, stdin},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use astraforge_core::{
    ports::sessions::ExecControl,
    session::{Command, Exit, PtySize},
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Desk,
    exec::{end, feed, hand_on, leave, starved},
    sandbox_id,
};
use crate::{
    cli::ShellArgs,
    signals::{Interrupted, StopSignals},
};

/// What is started unless something else is asked for.
const SHELL: &str = "if command -v bash >/dev/null 2>&1; then exec bash -i; else exec sh -i; fi";

impl Desk<'_> {
    pub(super) async fn shell(&self, args: &ShellArgs) -> anyhow::Result<ExitCode> {
        let id = sandbox_id(&args.id)?;
        if !stdin().is_terminal() {
            bail!("standard input is no terminal; run commands without one: astraforge sandbox exec {id} -- COMMAND");
        }
        let command =
            if args.command.is_empty() { Command::shell(SHELL) } else { Command::new(args.command.iter().cloned()) };
        let terminal = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
        let command = command.with_cwd(&args.cwd).with_env("TERM", terminal).with_pty(size());
        let command = args.env.iter().fold(command, |command, (name, value)| command.with_env(name, value));
        let machine = self.machine(id).await?;
        let mut stop = StopSignals::listen().context("cannot listen for signals")?;
        let mut execution = machine.exec(command).await?;
        let raw = RawTerminal::enter().context("cannot set up the terminal")?;
        let mut feed = tokio::spawn(feed(Arc::clone(&execution.control)));
        let resize = tokio::spawn(follow_size(Arc::clone(&execution.control))?);
        let ended = tokio::select! {
            ended = self.attend(id, &mut execution, hand_on) => ended.map(|exit| exit.map_or(1, Exit::code)),
            error = starved(&mut feed) => Err(error),
            // A terminal that was closed, or a supervisor. Ctrl-C is a key like any other, for whoever is inside.
            () = stop.told() => Ok(i32::from(Interrupted::EXIT_CODE)),
        };
        drop(raw);
        feed.abort();
        resize.abort();
        // What runs in the terminal ends with it.
        end(execution.control.as_ref()).await;
        leave(ended)
    }
}

/// Tells the terminal in the sandbox the size of this one, whenever it changes.
fn follow_size(control: Arc<dyn ExecControl>) -> io::Result<impl Future<Output = ()>> {
    let mut changes = signal(SignalKind::window_change())?;
    Ok(async move {
        while changes.recv().await.is_some() {
            if control.resize(size()).await.is_err() {
                return;
            }
        }
    })
}

fn size() -> PtySize {
    match tcgetwinsize(stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => PtySize { rows: size.ws_row, columns: size.ws_col },
        _ => PtySize::default(),
    }
}

/// A terminal that hands on every key as it is; dropped, it is as it was before.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}
