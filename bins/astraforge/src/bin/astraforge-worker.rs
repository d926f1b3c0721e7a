//! A worker of an installation: it does the runs, publications and reviews that wait.

use std::process::ExitCode;

fn main() -> ExitCode {
    astraforge::worker()
}
