//! The program inside every sandbox, and the one that makes native sandboxes.

use std::process::ExitCode;

use astraforge_sandbox::native::launcher;

const USAGE: &str = "\
The in-sandbox daemon of AstraForge and the launcher of its native sandboxes. Servers start it; people need not.

Usage: astraforge-guest launch     make a sandbox as the JSON on standard input says, and stay with it
       astraforge-guest --version";

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command line program")]
fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(|it| it.as_os_str()).collect();
    match arguments.as_slice() {
        [verb] if *verb == "launch" => match launcher::launch() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        [verb] if *verb == "--version" => {
            println!("astraforge-guest {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        [verb] if *verb == "--help" => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
