//! The way of an installation's workers to a model; it alone has the key of the model's provider.

use std::process::ExitCode;

fn main() -> ExitCode {
    astraforge::proxy()
}
