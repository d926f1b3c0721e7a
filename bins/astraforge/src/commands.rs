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

use astraforge_core::page::Paged;
use astraforge_http::client::{ClientError, Entries};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::{
    cli::ConnectionArgs,
    render::{Terminal, faint},
};

/// What is said under a list that was cut; beside its JSON, on standard error.
pub(crate) const THERE_ARE_MORE: &str = "there are more: see them with --limit";

/// The first entries of a list.
pub(crate) struct Listed<T> {
    pub(crate) entries: Vec<T>,
    /// Whether the list has others.
    pub(crate) has_more: bool,
}

impl<T> Listed<T> {
    /// The rows of a page, each as `view` shows it.
    pub(crate) fn page<R>(page: Paged<R>, view: impl FnMut(R) -> T) -> Self {
        Self { has_more: page.next.is_some(), entries: page.items.into_iter().map(view).collect() }
    }

    /// Reads at most `limit` entries.
    pub(crate) async fn read(entries: Entries<T>, limit: u32) -> Result<Self, ClientError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut entries: Vec<T> = entries.take(limit.saturating_add(1)).try_collect().await?;
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Self { entries, has_more })
    }

    /// Prints the entries, as JSON or by what writes one of them; `none` is said when there are none.
    pub(crate) fn print(&self, args: &ConnectionArgs, none: &str, write: impl Fn(Terminal, &T)) -> anyhow::Result<()>
    where
        T: Serialize,
    {
        print(args, &self.entries, |terminal, entries| {
            if entries.is_empty() {
                terminal.line(none);
            }
            entries.iter().for_each(|entry| write(terminal, entry));
            if self.has_more {
                terminal.line(terminal.paint(THERE_ARE_MORE, faint()));
            }
        })?;
        if args.json && self.has_more {
            Terminal::detect().note(THERE_ARE_MORE);
        }
        Ok(())
    }
}

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
