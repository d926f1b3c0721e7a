//! The hostile program of the attack suite. The suite puts it into a sandbox and has it try one thing at a time.
//!
//! What it says, a line each: `open: …` for something that it could do and should not, `held: …` for something that it
//! tried in vain, `note: name=value`, `ready` when it stays and waits to be looked at from outside, `end` as the last.

mod bombs;
mod calls;
mod exhaust;
mod files;
mod memory;
mod network;
mod privileges;
mod probe;
mod proc;
mod resources;
mod say;
mod strays;
mod sys;
mod unix;

use std::process::ExitCode;

/// One thing to try, with what it is told about it.
type Attack = fn(&[String]);

const ATTACKS: &[&[(&str, Attack)]] = &[
    bombs::ATTACKS,
    calls::ATTACKS,
    exhaust::ATTACKS,
    files::ATTACKS,
    memory::ATTACKS,
    network::ATTACKS,
    privileges::ATTACKS,
    probe::ATTACKS,
    proc::ATTACKS,
    resources::ATTACKS,
    strays::ATTACKS,
    unix::ATTACKS,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        say::usage(ATTACKS.iter().flat_map(|it| it.iter()).map(|(name, _)| *name));
        return ExitCode::from(2);
    };
    let Some((_, attack)) = ATTACKS.iter().flat_map(|it| it.iter()).find(|(it, _)| it == name) else {
        say::note("unknown", name);
        return ExitCode::from(2);
    };
    attack(rest);
    say::end();
    ExitCode::SUCCESS
}
