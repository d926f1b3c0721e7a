//! The program inside every sandbox, and the one that makes native sandboxes.

use std::{io, path::Path, process::ExitCode};

use astraforge_sandbox::{
    container::{guest, probe},
    native::{launcher, unpacker},
};

const USAGE: &str = "\
The in-sandbox daemon of AstraForge and the launcher of its native sandboxes. Servers start it; people need not.

Usage: astraforge-guest launch     make a sandbox as the JSON on standard input says, and stay with it
       astraforge-guest serve      be the first process of a container, as ASTRAFORGE_GUEST_CONFIG says
       astraforge-guest connect    join standard input and output with the one that serves
       astraforge-guest install F  put a copy of this program at F, where a container can run it; make folders named
                                   after F
       astraforge-guest probe ...  try a cluster's network: `listen`, or `reach ADDRESS`
       astraforge-guest unpack     unpack an image as the JSON on standard input says
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
        [verb] if *verb == "serve" => ended(guest::serve()),
        [verb] if *verb == "connect" => ended(guest::connect()),
        [verb, target, folders @ ..] if *verb == "install" => ended(guest::install(Path::new(target), folders)),
        [verb, what] if *verb == "probe" && *what == "listen" => ended(probe::listen()),
        [verb, what, address] if *verb == "probe" && *what == "reach" => {
            ended(probe::reach(&address.to_string_lossy()))
        }
        [verb] if *verb == "unpack" => match unpacker::unpack() {
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

#[expect(clippy::print_stderr, reason = "this is a command line program")]
fn ended(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("astraforge-guest: {error}");
            ExitCode::FAILURE
        }
    }
}
