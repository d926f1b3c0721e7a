//! `sandbox files`: the file verbs.

use std::io::Write;

use astraforge_core::{
    files::{
        DownloadRequest, Entry, EntryKind, Existing, FileReply, FileRequest, FileVerb, GrepOutput, Occurrences, Pattern,
    },
    id::SandboxId,
};
use chrono::SubsecRound;
use futures::TryStreamExt;

use super::{Desk, sandbox_id};
use crate::{
    cli::FilesCommand,
    commands::print,
    render::{Terminal, faint, harmless},
};

/// The most things that are listed.
const LIMIT: usize = 10_000;

impl Desk<'_> {
    pub(super) async fn files(&self, command: &FilesCommand) -> anyhow::Result<()> {
        let (id, verb) = match command {
            FilesCommand::Cat { id, path } => return self.cat(sandbox_id(id)?, path).await,
            FilesCommand::Ls { id, path, depth } => {
                (id, FileVerb::List { path: path.clone(), depth: *depth, limit: LIMIT })
            }
            FilesCommand::Glob { id, pattern, path } => {
                (id, FileVerb::Glob { pattern: pattern.clone(), path: path.clone(), limit: LIMIT })
            }
            FilesCommand::Grep { id, pattern, path, regex, glob, count } => {
                let pattern = pattern.clone();
                let pattern = if *regex { Pattern::Regex(pattern) } else { Pattern::Literal(pattern) };
                let output = if *count { GrepOutput::Counts } else { GrepOutput::Lines };
                (id, FileVerb::Grep { pattern, path: path.clone(), glob: glob.clone(), output, limit: LIMIT })
            }
            FilesCommand::Edit { id, path, old, new, all } => {
                let occurrences = if *all { Occurrences::All } else { Occurrences::Unique };
                (id, FileVerb::Edit { path: path.clone(), old: old.clone(), new: new.clone(), occurrences })
            }
            FilesCommand::Mkdir { id, path } => (id, FileVerb::MakeDir { path: path.clone() }),
            FilesCommand::Mv { id, from, to, replace } => {
                let existing = if *replace { Existing::Replace } else { Existing::Keep };
                (id, FileVerb::Move { from: from.clone(), to: to.clone(), existing })
            }
            FilesCommand::Rm { id, path, recursive } => {
                (id, FileVerb::Remove { path: path.clone(), recursive: *recursive })
            }
        };
        let id = sandbox_id(id)?;
        let reply = to_the_microsecond(self.file(id, verb).await?);
        print(self.args, &reply, show)
    }

    /// Carries out a verb where the sandbox lets its callers.
    pub(super) async fn file(&self, id: SandboxId, verb: FileVerb) -> anyhow::Result<FileReply> {
        let request = FileRequest { roots: self.roots(id).await?, verb };
        Ok(self.machine(id).await?.file(request).await?)
    }

    async fn cat(&self, id: SandboxId, path: &str) -> anyhow::Result<()> {
        let request = DownloadRequest { roots: self.roots(id).await?, path: path.to_owned(), offset: 0, limit: None };
        let mut contents = self.machine(id).await?.download(request).await?;
        let mut out = std::io::stdout();
        while let Some(bytes) = contents.try_next().await? {
            out.write_all(&bytes)?;
        }
        Ok(out.flush()?)
    }
}

/// The reply with times as exact as they come over the wire.
fn to_the_microsecond(mut reply: FileReply) -> FileReply {
    if let FileReply::Entries { entries, .. } = &mut reply {
        entries.iter_mut().for_each(|entry| entry.modified_at = entry.modified_at.trunc_subsecs(6));
    }
    reply
}

fn show(terminal: Terminal, reply: &FileReply) {
    let truncated = match reply {
        FileReply::Entries { entries, truncated } => {
            entries.iter().for_each(|it| terminal.line(entry(terminal, it)));
            *truncated
        }
        FileReply::Paths { paths, truncated } => {
            paths.iter().for_each(|path| terminal.line(harmless(path)));
            *truncated
        }
        FileReply::Matches { matches, truncated } => {
            for it in matches {
                let place = terminal.paint(format!("{}:{}:", harmless(&it.path), it.line), faint());
                terminal.line(format!("{place} {}", harmless(&it.text)));
            }
            *truncated
        }
        FileReply::Counts { counts, truncated } => {
            counts.iter().for_each(|it| terminal.line(format!("{:>7}  {}", it.n_lines, harmless(&it.path))));
            *truncated
        }
        FileReply::Edited { n_replaced } => {
            terminal.line(format!("Replaced {n_replaced} times."));
            false
        }
        _ => {
            terminal.line("Done.");
            false
        }
    };
    if truncated {
        terminal.note("and more");
    }
}

fn entry(terminal: Terminal, entry: &Entry) -> String {
    let kind = match entry.kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Other => '?',
    };
    let modified = terminal.paint(entry.modified_at.format("%Y-%m-%d %H:%M"), faint());
    let target = entry.target.as_ref().map(|target| format!(" -> {}", harmless(target))).unwrap_or_default();
    format!("{kind}{:04o}  {:>12}  {modified}  {}{target}", entry.mode, entry.size, harmless(&entry.path))
}
