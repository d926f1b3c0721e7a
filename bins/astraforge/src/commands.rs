//! The subcommands, one a file.

pub(crate) mod apply;
pub(crate) mod approve;
pub(crate) mod audit;
pub(crate) mod cancel;
pub(crate) mod config;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod jobs;
pub(crate) mod logs;
pub(crate) mod merge_requests;
pub(crate) mod migrate;
pub(crate) mod requests;
pub(crate) mod run;
pub(crate) mod sandbox;
pub(crate) mod up;
pub(crate) mod users;

use serde::Serialize;

use crate::{cli::ConnectionArgs, render::Terminal};

/// Prints a value as JSON if that was asked for, else lets `text` write it.
pub(crate) fn print<T: Serialize>(
    args: &ConnectionArgs,
    value: &T,
    text: impl FnOnce(Terminal, &T),
) -> anyhow::Result<()> {
    let terminal = Terminal::detect();
    if args.json {
        terminal.line(serde_json::to_string(value)?);
    } else {
        text(terminal, value);
    }
    Ok(())
}
