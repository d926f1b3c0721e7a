//! AstraForge in one program: the server, the worker and the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    astraforge::astraforge()
}
