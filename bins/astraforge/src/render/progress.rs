//! Progress below the log: what a run is at, and for how long.

use std::{
    io::{IsTerminal, stderr, stdout},
    time::Duration,
};

use astraforge_core::event::{EventKind, RunEvent};
use indicatif::{ProgressBar, ProgressStyle};

use super::harmless;

/// The steps of a run, in order, by the stage of their events.
const STEPS: [&str; 8] = ["queue", "provisioning", "clone", "setup", "codex", "git", "test", "diff"];

/// A line that tells where a run is. Without a terminal there is none, and the log alone tells it.
#[derive(Debug)]
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Begins the line, if there are people to read it.
    pub(crate) fn start(wanted: bool) -> Self {
        if !wanted || !stderr().is_terminal() || !stdout().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(STEPS.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {bar:16} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }

    /// Moves on by an event.
    pub(crate) fn see(&self, event: &RunEvent) {
        let Some(bar) = &self.0 else { return };
        match &event.kind {
            EventKind::Status { stage, message } => {
                if let Some(at) = STEPS.iter().position(|step| step == stage) {
                    bar.set_position(bar.position().max(at as u64));
                }
                bar.set_message(harmless(message.lines().next().unwrap_or_default()));
            }
            EventKind::Command { command, .. } => {
                bar.set_message(harmless(&format!("$ {}", command.lines().next().unwrap_or_default())));
            }
            _ => {}
        }
    }

    /// Writes lines above.
    pub(crate) fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
