//! `config`: says what is set, to what, and by whom.

use std::{collections::BTreeSet, process::ExitCode};

use clap::{ArgMatches, CommandFactory};
use serde_json::json;

use crate::{
    cli::{Cli, ConnectionArgs},
    environment::Findings,
    programs,
    render::{Terminal, attention, bad, faint, harmless, strong},
    settings::{Setting, Source, settings},
};

/// Prints the settings of all programs as they would start here, and what is wrong with them, which makes it fail.
pub(crate) fn config(args: &ConnectionArgs, matches: &ArgMatches) -> ExitCode {
    let mut rows = settings(&Cli::command(), matches);
    let mut known: BTreeSet<_> = rows.iter().map(|row| row.variable.clone()).collect();
    for (command, matches) in programs::untyped() {
        let more = settings(&command, &matches);
        rows.extend(more.into_iter().filter(|row| known.insert(row.variable.clone())));
    }
    let findings = Findings::of_process(&programs::variables());
    let contradictions = args.node.contradictions();
    let terminal = Terminal::detect();
    if args.json {
        terminal.line(json!({ "settings": rows, "ignored": findings.ignored, "unknown": findings.unknown,
                              "contradictions": contradictions }));
    } else {
        write(terminal, &rows);
        for (found, style) in [(&findings.ignored, attention()), (&findings.unknown, bad())] {
            for it in found {
                terminal.line(format!("{}  {}", terminal.paint(harmless(&it.variable), style), it.advice));
            }
        }
        contradictions.iter().for_each(|it| terminal.line(terminal.paint(harmless(it), bad())));
    }
    let is_sound = findings.unknown.is_empty() && contradictions.is_empty();
    if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn write(terminal: Terminal, rows: &[Setting]) {
    let width = rows.iter().map(|row| row.variable.len()).max().unwrap_or_default();
    for row in rows {
        let name = format!("{:<width$}", row.variable);
        let (source, name) = match row.source {
            Source::Argument => ("argument", terminal.paint(name, strong())),
            Source::Variable => ("variable", terminal.paint(name, strong())),
            Source::Default => ("default ", name),
        };
        let value = match (&row.value, &row.otherwise) {
            (Some(value), _) if value.is_empty() => terminal.paint("(empty)", faint()),
            (Some(value), _) => harmless(value),
            (None, Some(otherwise)) => terminal.paint(format!("({otherwise})"), faint()),
            (None, None) => terminal.paint("(none)", faint()),
        };
        terminal.line(format!("{name}  {source}  {value}"));
    }
}
