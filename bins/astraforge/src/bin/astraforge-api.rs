//! The HTTP API of an installation whose workers are programs of their own.

use std::process::ExitCode;

fn main() -> ExitCode {
    astraforge::api()
}
