//! Ctrl-C in the middle of the demonstration: everything it started ends, and nothing of it stays.

use std::{
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, ensure};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};

/// The exit code of a command that was interrupted.
const INTERRUPTED: i32 = 130;

/// Hears the signals that ask the demonstration to stop. They no longer end it on the spot: the command at work is
/// told, its failure ends the demonstration, and that clears away what there is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interruption {
    is_told: Arc<AtomicBool>,
    at_work: Arc<AtomicU32>,
}

impl Interruption {
    /// Begins to listen.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let signals = {
            let _inside = runtime.enter();
            kinds.map(signal).into_iter().collect::<Result<Vec<Signal>, _>>().context("cannot listen for signals")?
        };
        let interruption = Self::default();
        for signal in signals {
            interruption.forward(&runtime, signal);
        }
        thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        Ok(interruption)
    }

    fn forward(&self, runtime: &runtime::Runtime, mut signal: Signal) {
        let Self { is_told, at_work } = self.clone();
        runtime.spawn(async move {
            while signal.recv().await.is_some() {
                is_told.store(true, Ordering::SeqCst);
                let pid = at_work.load(Ordering::SeqCst);
                if pid != 0 {
                    // It may have ended by itself, or heard of it from the terminal.
                    _ = Command::new("kill").args(["-TERM", &pid.to_string()]).status();
                }
            }
        });
    }

    /// Runs a command that ends when the demonstration is told to stop.
    pub(crate) fn run(&self, command: &mut Command) -> anyhow::Result<ExitStatus> {
        let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        self.at_work.store(child.id(), Ordering::SeqCst);
        let status = child.wait();
        self.at_work.store(0, Ordering::SeqCst);
        let status = status?;
        // It may have heard of it from the terminal sooner than we did.
        if status.code() == Some(INTERRUPTED) {
            self.is_told.store(true, Ordering::SeqCst);
        }
        self.check()?;
        Ok(status)
    }

    /// Runs the command of these words, which `tell` tells of what it may use; waits to be told to stop if there are none.
    pub(crate) fn run_or_wait(&self, words: &[String], tell: impl FnOnce(&mut Command)) -> anyhow::Result<ExitStatus> {
        let mut command = Command::new("sleep");
        command.arg("infinity");
        if let [program, arguments @ ..] = words {
            command = Command::new(program);
            command.args(arguments);
        }
        tell(&mut command);
        self.run(&mut command)
    }

    /// Fails if the demonstration was told to stop.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let is_told = self.is_told.load(Ordering::SeqCst);
        ensure!(!is_told, "interrupted; the demonstration's server has stopped, and its data is removed");
        Ok(())
    }
}
