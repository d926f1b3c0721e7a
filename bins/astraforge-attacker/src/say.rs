//! What the program says, a line each, at once.
#![expect(clippy::print_stdout, reason = "this is a command line program")]

use std::{fmt::Display, io::Write};

/// Something could be done that should not.
pub(crate) fn open(text: impl Display) {
    line(format_args!("open: {text}"));
}

/// Something was tried in vain.
pub(crate) fn held(text: impl Display) {
    line(format_args!("held: {text}"));
}

/// Something that the other side wants to know.
pub(crate) fn note(name: &str, value: impl Display) {
    line(format_args!("note: {name}={value}"));
}

/// It is done, and what was done stays so until this program is ended.
pub(crate) fn ready() {
    line("ready");
}

/// Nothing more is tried.
pub(crate) fn end() {
    line("end");
}

/// Lists what can be asked for.
pub(crate) fn usage<'a>(names: impl Iterator<Item = &'a str>) {
    line("Usage: astraforge-attacker ATTACK [ARGUMENT]…, inside a sandbox that is to be tested. Attacks:");
    line(names.collect::<Vec<_>>().join(" "));
}

/// Says that it is ready, and waits to be ended.
pub(crate) fn ready_and_stay() -> ! {
    ready();
    loop {
        std::thread::park();
    }
}

fn line(text: impl Display) {
    println!("{text}");
    // Nobody may be listening any more; the attack goes on.
    let _ = std::io::stdout().flush();
}
