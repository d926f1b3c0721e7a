//! What people see on a terminal: colours, and how the log, diffs and tables are written.

use std::io::{IsTerminal, Write};

use owo_colors::{OwoColorize, Style};

use crate::signals::OUTPUT_GONE;

pub(crate) mod change;
pub(crate) mod log;
pub(crate) mod progress;

/// Writes to standard output, with colours where they are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    colours: bool,
}

impl Terminal {
    /// Colours on a terminal, unless `NO_COLOR` is set; everywhere with `CLICOLOR_FORCE`.
    pub(crate) fn detect() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let wanted = std::io::stdout().is_terminal() || set("CLICOLOR_FORCE");
        Self { colours: wanted && !set("NO_COLOR") }
    }

    /// No colours, for tests.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { colours: false }
    }

    /// Returns `text` in a style.
    pub(crate) fn paint(self, text: impl std::fmt::Display, style: Style) -> String {
        if self.colours { text.style(style).to_string() } else { text.to_string() }
    }

    /// Writes a line to standard error: beside the point of the output, and never part of its JSON.
    pub(crate) fn note(self, text: impl std::fmt::Display) {
        // Who closed standard error does not want to know.
        _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Writes a line. A reader that is gone, such as `head`, or a disk that is full, makes the command stop, in order.
    pub(crate) fn line(self, text: impl std::fmt::Display) {
        if let Err(error) = writeln!(std::io::stdout().lock(), "{text}") {
            OUTPUT_GONE.notice(error);
        }
    }
}

/// Says on standard error why a command failed; it is all that is left to tell it on. A server's words, or a typed id,
/// may hold anything.
pub(crate) fn report(error: &anyhow::Error) {
    let text = format!("error: {error:#}");
    text.lines().for_each(|line| _ = writeln!(std::io::stderr(), "{}", harmless(line)));
}

/// Faint, for what is beside the point.
pub(crate) fn faint() -> Style {
    Style::new().dimmed()
}

/// For what went well.
pub(crate) fn good() -> Style {
    Style::new().green()
}

/// For what went wrong.
pub(crate) fn bad() -> Style {
    Style::new().red()
}

/// For what a person should look at.
pub(crate) fn attention() -> Style {
    Style::new().yellow()
}

/// For headings.
pub(crate) fn strong() -> Style {
    Style::new().bold()
}

/// Blanks what would steer the terminal: an agent's output must not move the cursor or change the title, and a line
/// of a diff must not be shown in another order than a compiler reads it.
pub(crate) fn harmless(text: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\t';
    let reorders =
        |c| matches!(c, '\u{061c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if steers(c) || reorders(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_in_the_order_in_which_it_is_read() {
        assert_eq!(harmless("if \u{202e}x\u{2066}"), "if \u{fffd}x\u{fffd}");
    }

    #[test]
    fn output_of_an_agent_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\tc\rd"), "a\u{fffd}[2Jb\tc\u{fffd}d");
    }
}
